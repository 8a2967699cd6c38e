"""What is sold, and what more costs."""

from __future__ import annotations

import pytest

from services.billing.plans import DEFAULT_PLAN, PLANS, RATE_CLASSES, overage_cost_cents


def test_a_year_includes_what_twelve_months_do_at_the_same_rate() -> None:
    monthly, annual = PLANS["api_monthly"], PLANS["api_annual"]
    assert annual.included_units * monthly.months == monthly.included_units * annual.months
    assert annual.overage_rate_cents == monthly.overage_rate_cents


def test_every_plan_is_as_fast_as_a_class_that_exists() -> None:
    assert DEFAULT_PLAN in PLANS
    assert {plan.rate_class for plan in PLANS.values()} <= RATE_CLASSES.keys()


@pytest.mark.parametrize(
    ("units", "rate", "cents"), [(0, 100, 0), (1, 100, 1), (10, 100, 1), (11, 100, 2), (1_000, 100, 100), (5, 0, 0)]
)
def test_each_beginning_cent_of_overage_counts(units: int, rate: int, cents: int) -> None:
    assert overage_cost_cents(units, rate) == cents
