"""Settings of the signals service become the rules' settings, and wrong ones are refused by name."""

from __future__ import annotations

import pytest

from services.shared.config import ConfigurationError, read
from services.signals.config import Config
from services.signals.rules import RuleSettings


def test_without_settings_the_rules_are_as_they_are_written():
    assert read(Config).rule_settings() == RuleSettings()


def test_a_setting_reaches_the_rules_and_changes_the_configurations_hash(monkeypatch):
    monkeypatch.setenv("STEAM_WINDOW_MINUTES", "2.5")
    monkeypatch.setenv("NBA_KEY_NUMBERS", "7, 3")
    monkeypatch.setenv("SIGNALS_PROFILE", "sampled-15m")
    settings = read(Config).rule_settings()
    assert settings.steam_window_minutes == 2.5
    assert settings.nba_key_numbers == (3, 7)
    assert settings.profile == "sampled-15m"
    assert settings.config_hash != RuleSettings().config_hash


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SIGNALS_PROFILE", "hourly"),
        ("NBA_KEY_NUMBERS", "3;7"),
        ("NBA_KEY_NUMBERS", "3,99"),
        ("STEAM_MIN_BOOKS", "0"),
        ("STEAM_MIN_MOVE_SPREAD", "-0.5"),
        ("SIGNALS_HEARTBEAT_SECONDS", "0"),
        ("STEAM_MIN_MOVE_SPREADS", "0.5"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as refused:
        read(Config)
    assert name in refused.value.problems
