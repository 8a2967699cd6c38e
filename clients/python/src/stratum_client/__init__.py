"""Stratum's market signals for Python programs: `Client` waits for its answers, `AsyncClient` is for asyncio.

with Client() as client:
    for signal in client.signals(tier="HIGH").all(limit=20):
        print(signal.market, signal.from_value, signal.to_value)
"""

from stratum_client.client import AsyncClient, Client
from stratum_client.errors import (
    AccessDeniedError,
    ApiError,
    AuthenticationError,
    ConflictError,
    ConnectionFailedError,
    InvalidRequestError,
    NotFoundError,
    RateLimitedError,
    SecretNotGivenError,
    ServerError,
    StratumError,
    StreamLostError,
    UnavailableError,
    UnreadableAnswerError,
)
from stratum_client.following import Ended, StreamItem
from stratum_client.models import Heartbeat, Signal, Truncated
from stratum_client.paging import AsyncListing, Listing, Page
from stratum_client.reasons import ErrorReason
from stratum_client.retries import Reconnects, Retries
from stratum_client.seen import Limits, UsageSeen
from stratum_client.streams import AsyncSignalStream, SignalStream
from stratum_client.version import __version__

__all__ = [
    "AccessDeniedError",
    "ApiError",
    "AsyncClient",
    "AsyncListing",
    "AsyncSignalStream",
    "AuthenticationError",
    "Client",
    "ConflictError",
    "ConnectionFailedError",
    "Ended",
    "ErrorReason",
    "Heartbeat",
    "InvalidRequestError",
    "Limits",
    "Listing",
    "NotFoundError",
    "Page",
    "RateLimitedError",
    "Reconnects",
    "Retries",
    "SecretNotGivenError",
    "ServerError",
    "Signal",
    "SignalStream",
    "StratumError",
    "StreamItem",
    "StreamLostError",
    "Truncated",
    "UnavailableError",
    "UnreadableAnswerError",
    "UsageSeen",
    "__version__",
]
