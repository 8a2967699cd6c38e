"""Settings of the billing service."""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar

from pydantic import Field, SecretStr, field_validator

from services.billing.rating import OLDEST
from services.shared.config import RetentionDays, Ring, ServiceConfig
from services.shared.keyring import Keyring


class Config(ServiceConfig):
    """By what keys are hashed, and how long things are kept."""

    prefixes: ClassVar[tuple[str, ...]] = (*ServiceConfig.prefixes, "BILLING_", "API_KEY_PEPPER")

    grpc_port: int = Field(default=50054, ge=0, le=65535)
    metrics_port: int = Field(default=9104, ge=0, le=65535)

    #: The secrets under which keys are kept, `2:<hex>,1:<hex>`, the newest first. One that is taken away makes every
    #: key that was made under it unknown. Empty: no key can be made, and none is found.
    api_key_peppers: Ring = SecretStr("")
    #: How long retention keeps things. What a repeated call is recognised by stays for a day at the least, which is
    #: what partners are promised. The ledger stays for longer than a line may be old: a line that comes again is known
    #: by its row, and would be counted, and billed, once more without it.
    billing_ledger_retention_days: RetentionDays = 400.0
    billing_unrated_retention_days: RetentionDays = 400.0
    billing_idempotency_retention_days: RetentionDays = 2.0
    billing_dead_letters_retention_days: RetentionDays = 30.0

    @field_validator("billing_ledger_retention_days")
    @classmethod
    def _knows_what_comes_again(cls, days: float) -> float:
        if 0 < days <= OLDEST / timedelta(days=1):
            raise ValueError(f"is 0, which keeps for ever, or above {OLDEST.days}: lines may be as old when they come")
        return days

    @property
    def pepper_ring(self) -> Keyring:
        """The secrets under which keys are kept."""
        return Keyring.parse(self.api_key_peppers.get_secret_value())
