"""The form of an API key."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.shared import api_keys

LETTERS = st.text(api_keys.ALPHABET, min_size=api_keys.RANDOM_LENGTH, max_size=api_keys.RANDOM_LENGTH)


@pytest.mark.parametrize("prefix", [api_keys.LIVE, api_keys.TEST])
@given(LETTERS)
def test_a_made_key_is_well_formed(prefix: str, letters: str) -> None:
    assert api_keys.is_well_formed(api_keys.made(prefix, letters))


@given(LETTERS, st.data())
def test_a_key_with_one_letter_changed_is_not(letters: str, data: st.DataObject) -> None:
    key = api_keys.made(api_keys.LIVE, letters)
    at = data.draw(st.integers(len(api_keys.LIVE), len(key) - 1))
    other = data.draw(st.sampled_from(api_keys.ALPHABET).filter(lambda letter: letter != key[at]))
    assert not api_keys.is_well_formed(key[:at] + other + key[at + 1 :])


@pytest.mark.parametrize(
    "text", ["", "stratum_live_", "stratum_live_" + "a" * 36, "Bearer x", "stratum_dead_" + "0" * 36]
)
def test_other_texts_are_no_keys(text: str) -> None:
    assert not api_keys.is_well_formed(text)


def test_a_key_with_a_line_end_behind_it_is_none() -> None:
    assert not api_keys.is_well_formed(api_keys.made(api_keys.LIVE) + "\n")


def test_the_chance_in_a_key_is_at_least_160_bits() -> None:
    assert api_keys.RANDOM_LENGTH * math.log2(len(api_keys.ALPHABET)) >= 160


def test_two_keys_are_two() -> None:
    assert api_keys.made(api_keys.LIVE) != api_keys.made(api_keys.LIVE)


def test_a_test_key_can_be_told_from_a_live_one() -> None:
    assert api_keys.is_live(api_keys.made(api_keys.LIVE))
    assert not api_keys.is_live(api_keys.made(api_keys.TEST))


def test_the_hint_is_the_prefix_and_the_last_four_characters() -> None:
    key = api_keys.made(api_keys.TEST, "a" * 30)
    assert api_keys.hint(key) == f"stratum_test_…{key[-4:]}"
