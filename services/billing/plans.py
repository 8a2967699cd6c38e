"""What can be bought, and how fast its buyers may call. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from services.billing.model import RateLimit


@dataclass(frozen=True, slots=True)
class Plan:
    """A period's length in months, what is included in it, and what more costs."""

    code: str
    months: int
    included_units: int
    #: Cents for 1,000 units above those.
    overage_rate_cents: int
    rate_class: str


PLANS = {
    plan.code: plan
    for plan in (
        Plan("api_monthly", 1, included_units=10_000, overage_rate_cents=100, rate_class="standard"),
        Plan("api_annual", 12, included_units=120_000, overage_rate_cents=100, rate_class="standard"),
    )
}
DEFAULT_PLAN = "api_monthly"

RATE_CLASSES = {
    "standard": RateLimit(300, 60),
    "professional": RateLimit(1_200, 60),
    "enterprise": RateLimit(6_000, 60),
}


def overage_cost_cents(overage_units: int, rate_cents: int) -> int:
    """What units above the limit cost, in cents, at a rate for 1,000: each beginning cent counts."""
    return -(-overage_units * rate_cents // 1000)
