"""Settings of the usage reader."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from services.shared.config import ServiceConfig

MIB = 1024 * 1024
#: The most lines that `RecordUsage` takes.
MOST_LINES = 1000


class Config(ServiceConfig):
    """Which log is read, where what was read goes, and when somebody has to be called."""

    prefixes: ClassVar[tuple[str, ...]] = (*ServiceConfig.prefixes, "USAGE_")

    metrics_port: int = Field(default=9107, ge=0, le=65535)

    #: Where Envoy writes its access log, and what the file is called that it writes now.
    usage_log_folder: Path = Path("gateway")
    usage_log_file: str = Field(default="access.jsonl", pattern=r"^[\w-]+\.jsonl$")
    #: What this gateway is called in the ledger. No two gateways share a name.
    usage_gateway: str = Field(default="gateway", pattern=r"^[\w.-]{1,64}$")
    usage_billing_address: str = "127.0.0.1:50054"
    #: Where is kept how far the logs were read. On a disk that survives this process, as the logs themselves.
    usage_offset_file: Path = Path("gateway/usage.offset")
    #: Lines that cannot be read, or that billing refuses, are kept here for somebody to look at; up to so many bytes,
    #: and with more the reader stops rather than go on.
    usage_unreadable_file: Path = Path("gateway/usage.unreadable.jsonl")
    usage_unreadable_most_bytes: int = Field(default=16 * MIB, ge=0)

    usage_batch_lines: int = Field(default=MOST_LINES, ge=1, le=MOST_LINES)
    #: How often is looked for new lines. What a partner is told of its usage is this much older.
    usage_look_seconds: float = Field(default=0.25, gt=0, le=10)
    #: How long one call to billing may take, and the longest pause before the next one after a failure.
    usage_call_seconds: float = Field(default=10.0, gt=0)
    usage_longest_pause_seconds: float = Field(default=5.0, gt=0)

    #: The log is rotated when so much of it is in the ledger.
    usage_rotate_bytes: int = Field(default=64 * MIB, ge=1)
    #: Where Envoy is told to open its log again. Empty: somebody else rotates, and read logs are left to him.
    usage_envoy_admin_url: str = "http://127.0.0.1:9901"
    #: How long a log that Envoy has left is watched before it counts as ended: many of Envoy's flush intervals (0.1 s).
    usage_settle_seconds: float = Field(default=2.0, ge=0.2)

    #: Free share of a disk below which a warning is logged, and below which the reader is not ready and logs an error.
    usage_disk_warning_ratio: float = Field(default=0.2, ge=0, le=1)
    usage_disk_least_ratio: float = Field(default=0.1, ge=0, le=1)
    #: Further behind than this, in age or in size, the reader is not ready and logs an error.
    usage_lag_most_seconds: float = Field(default=60.0, gt=0)
    usage_lag_most_bytes: int = Field(default=256 * MIB, gt=0)
