"""What the partners' pages say in numbers is what billing reckons with."""

import re

import pytest

from gateway import docs, openapi
from services.billing import entitlements, plans

LIMITS = docs.source("limits-and-metering")
AUTHENTICATION = docs.source("authentication")
WORDS = re.sub(r"(?<=\S)\n(?=\S)", " ", LIMITS + AUTHENTICATION)


def rows(heading):
    """The rows of the table whose first column is called so."""
    table = re.search(rf"^\| {heading} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", LIMITS, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].strip().split("\n")]


def number(text):
    return int(re.match(r"[\d,]+", text)[0].replace(",", ""))


def test_the_rate_classes_are_those_that_there_are():
    told = {name: (number(holds), number(fills)) for name, holds, fills, _ in rows("rate class")}
    assert told == {name: (rate.requests, rate.per_seconds) for name, rate in plans.RATE_CLASSES.items()}


def test_calls_flow_back_as_fast_as_it_is_told():
    for _, holds, fills, back in rows("rate class"):
        assert number(holds) / number(fills) == number(back)


def test_the_plans_are_those_that_there_are():
    told = {
        code.strip("`"): ({"a month": 1, "a year": 12}[period], number(included), number(above))
        for code, period, included, above in rows("plan")
    }
    assert told == {
        plan.code: (plan.months, plan.included_units, plan.overage_rate_cents) for plan in plans.PLANS.values()
    }


def test_the_examples_of_overage_add_up():
    plan = plans.PLANS["api_monthly"]
    for used, remaining, overage, costs in (map(number, row) for row in rows("used")):
        assert (remaining, overage) == (max(0, plan.included_units - used), max(0, used - plan.included_units))
        assert costs == plans.overage_cost_cents(overage, plan.overage_rate_cents)


def test_a_stretch_of_a_stream_is_as_long_as_it_is_told():
    rating = pytest.importorskip("services.billing.rating")
    assert rating.STRETCH.total_seconds() == openapi.STRETCH_SECONDS


def test_notices_are_given_where_it_is_told():
    rating = pytest.importorskip("services.billing.rating")
    first, second, third = rating.THRESHOLDS
    assert f"at {first}, {second} and {third} %" in WORDS


def test_there_may_be_as_many_keys_as_it_is_told():
    assert f"at most {entitlements.KEYS_AT_MOST} keys" in WORDS
    assert f"{entitlements.NEW_KEYS_AT_MOST} keys within a day" in WORDS


def test_overlaps_are_those_that_there_are():
    told = re.search(r"go on for a while: (.*?)\.", WORDS)[1]
    assert re.findall(r"`(\w+)`", told) == list(entitlements.OVERLAPS)


def test_a_key_is_granted_the_first_three_scopes_unless_others_are_asked_for():
    told = re.findall(r"^\| `(\w+:\w+)` \|", AUTHENTICATION, re.MULTILINE)
    assert set(told[:3]) == set(entitlements.DEFAULT_SCOPES)
