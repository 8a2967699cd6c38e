"""The one way in which one of our own calls another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc.aio

from services.shared import principal, tracing
from services.shared.keyring import Keyring


def channel(address: str, name: str, ring: Keyring, options: Sequence[tuple[str, Any]] = ()) -> grpc.aio.Channel:
    """A channel to a service at `host:port`, whose calls `name` vouches for and whose traces go on there.

    It connects when first used, and again whenever it has to. Calls have no deadline by themselves: give each one.
    """
    interceptors = [*tracing.client_interceptors(), *principal.client_interceptors(name, ring)]
    return grpc.aio.insecure_channel(address, options=options, interceptors=interceptors)
