"""Secrets with versions, and the keyed hashes made with them.

The newest secret signs; the others are still good for checking, so that a secret can be replaced without a moment in
which something that was signed is refused. Where several processes sign and check, that takes three rounds: the new one
behind the old one everywhere, then in front of it, then alone. docs/operations.md has the steps.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from secrets import token_hex
from typing import Self

_ENTRY = re.compile(r"(\d{1,4}):([0-9a-fA-F]+)")
#: A keyed hash is as strong as its key: 256 bits, as the hash itself.
LEAST_BYTES = 32


@dataclass(frozen=True, slots=True, repr=False)
class Keyring:
    """Secrets by version, the newest first. Its repr shows none of them."""

    secrets: Mapping[int, bytes]

    @classmethod
    def parse(cls, written: str) -> Self:
        """Reads `2:<hex>,1:<hex>`, the newest first; empty gives an empty ring. Raises ValueError."""
        secrets: dict[int, bytes] = {}
        for number, entry in enumerate(filter(None, (part.strip() for part in written.split(","))), start=1):
            match = _ENTRY.fullmatch(entry)
            if match is None or len(match[2]) < 2 * LEAST_BYTES or len(match[2]) % 2:
                raise ValueError(f"entry {number} is not <version>:<at least {2 * LEAST_BYTES} hex digits>")
            version = int(match[1])
            if version in secrets:
                raise ValueError(f"version {version} is given twice")
            secrets[version] = bytes.fromhex(match[2])
        return cls(secrets)

    def __bool__(self) -> bool:
        return bool(self.secrets)

    def __repr__(self) -> str:
        return f"Keyring(versions={list(self.secrets)})"

    @property
    def newest(self) -> int:
        """The version that signs. Raises LookupError for an empty ring."""
        for version in self.secrets:
            return version
        raise LookupError("no secret is set")

    def sign(self, data: bytes) -> tuple[int, bytes]:
        """HMAC-SHA-256 (RFC 2104) of the data under the newest secret, and its version."""
        return self.newest, self._mac(self.newest, data)

    def signs(self, data: bytes, version: int, mac: bytes) -> bool:
        """Whether the hash is that of the data under that version; in constant time."""
        return version in self.secrets and hmac.compare_digest(self._mac(version, data), mac)

    def every(self, data: bytes) -> list[tuple[int, bytes]]:
        """The hash of the data under each version, the newest first: to look something up by it."""
        return [(version, self._mac(version, data)) for version in self.secrets]

    def _mac(self, version: int, data: bytes) -> bytes:
        return hmac.digest(self.secrets[version], data, "sha256")


def generated() -> str:
    """A ring of one new secret, as `Keyring.parse` reads it."""
    return f"1:{token_hex(LEAST_BYTES)}"
