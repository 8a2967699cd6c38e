"""What a signal says of itself: ids, facts, inputs, explanation, and the order in which candidates are taken."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from services.shared.identity import hashed_id, milliseconds
from services.signals.model import SignalType
from services.signals.rules import RULES_VERSION, RuleSettings, specification
from services.signals.testing import SPREADS, TOTALS, Told, a_board, minutes, steady, tell

SIX = ("betmgm", "bovada", "caesars", "draftkings", "fanduel", "pinnacle")


@pytest.fixture(name="told")
def _told() -> Told:
    boards = steady(a_board(**dict.fromkeys(SIX, -5.5)), 16)
    return tell([*boards, boards[-1].later(minutes(1), **dict.fromkeys(SIX, -6.5))])


def test_an_id_is_a_hash_of_what_it_names(told: Told) -> None:
    (steam,) = told.of(SignalType.STEAM)
    moment = str(milliseconds(steam.observed_at))
    hashed = RuleSettings().config_hash

    assert steam.id == hashed_id("event-1", "spreads", "", "STEAM", "", "TOWARD_HOME", hashed, moment)
    assert steam.fact_id == hashed_id("fact", "event-1", "spreads", "", "TOWARD_HOME", hashed, moment)
    assert len(steam.id) == 32


def test_another_configuration_gives_other_ids(told: Told) -> None:
    boards = steady(a_board(**dict.fromkeys(SIX, -5.5)), 16)
    other = tell(
        [*boards, boards[-1].later(minutes(1), **dict.fromkeys(SIX, -6.5))], RuleSettings(steam_cooldown_seconds=901.0)
    )

    assert len(other.signals) == len(told.signals)
    assert not {one.id for one in other.signals} & {one.id for one in told.signals}


def test_the_profile_is_part_of_the_configuration_hash() -> None:
    assert RuleSettings(profile="sampled-5m").config_hash != RuleSettings().config_hash


def test_a_profile_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="no profile 'sampled-1d'"):
        RuleSettings(profile="sampled-1d")


@pytest.mark.parametrize(
    ("profile", "scale"), [("live", 1.0), ("sampled-5m", 1.25), ("sampled-15m", 3.2), ("sampled-2h", 14.0)]
)
def test_profiles_stretch_windows_and_nothing_else(profile: str, scale: float) -> None:
    stretched, live = RuleSettings(profile=profile), RuleSettings()

    assert stretched.window_seconds(3.0) == 180.0 * scale
    assert replace(stretched, profile="live") == live


def test_snapshots_of_both_ends_are_listed(told: Told) -> None:
    (steam,) = told.of(SignalType.STEAM)

    assert len(steam.snapshot_ids) == 2 * 2 * len(SIX), "two ends, two outcomes"
    assert {one.snapshot_id for one in steam.inputs} <= set(steam.snapshot_ids)
    assert [one.role for one in steam.inputs] == ["from"] * 6 + ["to"] * 6
    assert {one.line for one in steam.inputs if one.role == "from"} == {-5.5}


def test_steps_are_sentences_that_end_in_the_score(told: Told) -> None:
    for signal in told.signals:
        assert all(step.endswith(".") for step in signal.steps)
        assert f"Strength {signal.strength} = " in signal.steps[-2]
        assert str(signal.tier) in signal.steps[-1]


def test_a_signal_names_what_made_it(told: Told) -> None:
    for signal in told.signals:
        assert signal.rules_version == RULES_VERSION
        assert signal.config_hash == RuleSettings().config_hash
        assert signal.profile == "live"
        assert signal.devig_method == "multiplicative"
        assert signal.sampling_seconds == 60.0
        assert signal.minutes_to_tip == 163.0
        assert signal.time_bucket == "MID"


@pytest.mark.parametrize("signal_type", list(SignalType))
def test_every_rule_has_a_specification(signal_type: SignalType) -> None:
    text = specification(signal_type)

    assert text.startswith(f"{signal_type}:")
    assert "Strength is a whole number" in text


def test_under_a_cap_the_strongest_goes_first() -> None:
    settings = replace(RuleSettings(), steam_max_per_event=1)
    boards = steady(a_board(**dict.fromkeys(SIX, -5.5)).with_market(TOTALS, **dict.fromkeys(SIX, 220.0)), 16)
    # Both are at the cap of magnitude and equally fast and broad; the total went three thresholds, the spread two.
    both = boards[-1].later_in(minutes(1), {SPREADS: dict.fromkeys(SIX, -6.5), TOTALS: dict.fromkeys(SIX, 223.0)})
    told = tell([*boards, both], settings)

    assert [steam.market for steam in told.of(SignalType.STEAM)] == ["totals"]
    assert [(row.market, row.reason) for row in told.log if row.signal_type is SignalType.STEAM] == [("spreads", "cap")]


def test_what_is_held_back_is_one_row_as_long_as_it_is() -> None:
    boards = steady(a_board(betmgm=-5.5, caesars=-5.5, fanduel=-5.5), 16)
    boards += steady(boards[-1].later(minutes(1), betmgm=-6.5, caesars=-6.5, fanduel=-6.5), 20)
    told = tell(boards)
    rows = [row for row in told.log if row.signal_type in (SignalType.MOVE, SignalType.KEY_CROSS)]

    (row,) = rows
    assert (row.reason, row.count) == ("too_few_books", 9)
    assert row.first_seen_at == boards[17].observed_at
    assert row.last_seen_at == row.first_seen_at + minutes(8)


def test_what_is_held_back_again_after_a_pause_is_another_row() -> None:
    boards = steady(a_board(betmgm=-5.5, caesars=-5.5, fanduel=-5.5), 16)
    for line in (-6.5, -7.5):
        boards += steady(boards[-1].later(minutes(1), betmgm=line, caesars=line, fanduel=line), 20)
    rows = [row for row in tell(boards).log if row.signal_type is SignalType.KEY_CROSS]

    assert [row.count for row in rows] == [9, 9]


def test_ages_of_an_event_far_ahead_are_open() -> None:
    boards = steady(a_board(starts_in=timedelta(days=2), **dict.fromkeys(SIX, -5.5)), 16)
    told = tell([*boards, boards[-1].later(minutes(1), **dict.fromkeys(SIX, -6.5))])

    assert {one.time_bucket for one in told.signals} == {"OPEN"}
