"""The settings of the authorisation server."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field, SecretStr

from services.shared.config import SHARED_PREFIX, Ring, ServiceConfig
from services.shared.keyring import Keyring


class AuthzConfig(ServiceConfig):
    """What decides who may call."""

    prefixes: ClassVar[tuple[str, ...]] = (SHARED_PREFIX, "AUTHZ_", "API_KEY_")

    metrics_port: int = Field(default=9105, ge=0, le=65535)
    #: How long checks are still answered after the end was announced: Envoy asks twice a second whether we are well.
    drain_seconds: float = Field(default=2.0, ge=0)
    authz_host: str = "127.0.0.1"
    authz_port: int = Field(default=50061, ge=0, le=65535)
    #: Host and port of billing.
    authz_billing_address: str = "127.0.0.1:50054"
    #: Where the last table is kept, for a start while billing is away. Empty: nowhere.
    authz_copy_path: str = ""
    #: How often billing is asked what changed; the bus tells sooner.
    authz_follow_seconds: float = Field(default=2.0, gt=0, le=5.0)
    #: The secrets under which keys are hashed, `2:<hex>,1:<hex>`, the newest first; the same as billing's.
    api_key_peppers: Ring = SecretStr("")

    @property
    def peppers(self) -> Keyring:
        """The secrets under which keys are hashed."""
        return Keyring.parse(self.api_key_peppers.get_secret_value())

    @property
    def copy_path(self) -> Path | None:
        """Where the last table is kept, if anywhere."""
        return Path(self.authz_copy_path) if self.authz_copy_path else None
