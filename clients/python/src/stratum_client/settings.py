"""Where a client calls, and with which key."""

from __future__ import annotations

import ipaddress
import os
import platform
from urllib.parse import urlsplit

from stratum_client.version import __version__

#: What `make demo` listens on.
DEFAULT_URL = "http://127.0.0.1:8080"
USER_AGENT = f"stratum-client/{__version__} python/{platform.python_version()}"


def key_from(given: str | None) -> str:
    """The key, or that of STRATUM_API_KEY. Raises ValueError where there is none, without showing what there is."""
    key = given if given is not None else os.environ.get("STRATUM_API_KEY", "")
    if not key:
        raise ValueError("no key: give one, or set STRATUM_API_KEY")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ValueError("the key holds characters that no key has: a space, a line's end, or something pasted with it")
    return key


def url_from(given: str | None, *, insecure: bool) -> str:
    """The address, or that of STRATUM_URL. Raises ValueError for one over which a key could be read on its way."""
    url = given or os.environ.get("STRATUM_URL") or DEFAULT_URL
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"not an address of the API: {url!r}")
    if parts.username or parts.password:
        raise ValueError("an address with a password in it: the key is all that the API wants")
    if parts.scheme == "http" and not insecure and not _is_here(parts.hostname):
        raise ValueError(f"{parts.hostname} is another machine, and http shows it the key on an open road: use https")
    return url.rstrip("/")


def shown(key: str) -> str:
    """What may be shown of a key: what kind it is."""
    return "test key" if key.startswith("stratum_test_") else "live key"


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
