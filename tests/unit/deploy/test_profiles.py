"""A series gets the profile that its cadence asks for."""

import pytest

from deploy import profiles
from services.signals.rules.settings import WINDOW_SCALES


@pytest.mark.parametrize(
    ("gap_seconds", "profile"),
    [
        (0, "live"),
        (60, "live"),
        (130, "live"),
        (300, "sampled-5m"),
        (600, "sampled-15m"),
        (900, "sampled-15m"),
        (1800, "sampled-15m"),
        (6957.5, "sampled-2h"),
        (86_400, "sampled-2h"),
    ],
)
def test_the_profile_whose_cadence_is_nearest_is_taken(gap_seconds: float, profile: str) -> None:
    assert profiles.profile_for(gap_seconds) == profile


def test_every_profile_has_settings_and_is_known_to_the_rules() -> None:
    assert set(profiles.CADENCES) == set(WINDOW_SCALES)
    for profile in profiles.CADENCES:
        assert profiles.settings(profile) == {"SIGNALS_PROFILE": profile}


def test_a_profile_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(KeyError):
        profiles.settings("hourly")
