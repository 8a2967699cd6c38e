"""Which settings ingest starts with, and which it refuses."""

from __future__ import annotations

import pytest

from services.ingest.config import Config
from services.shared.config import ConfigurationError, read


@pytest.mark.parametrize(
    "address",
    [
        "https://theoddsapi.com",
        "https://api.theoddsapi.com",
        "https://the-odds-api.com",
        "http://api.the-odds-api.com",
        "https://api.the-odds-api.com:8443",
        "https://user:secret@api.the-odds-api.com",
        "ftp://127.0.0.1",
        "nonsense",
    ],
)
def test_an_address_that_only_looks_like_the_providers_is_refused(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("ODDS_API_BASE_URL", address)
    with pytest.raises(ConfigurationError, match="ODDS_API_BASE_URL"):
        read(Config)


@pytest.mark.parametrize(
    ("address", "live"),
    [
        ("https://api.the-odds-api.com/v4", True),
        ("https://ipv6-api.the-odds-api.com", True),
        ("http://127.0.0.1:8099", False),
        ("http://simulator:8099/", False),
    ],
)
def test_the_provider_and_servers_named_on_purpose_are_taken(
    monkeypatch: pytest.MonkeyPatch, address: str, live: bool
) -> None:
    monkeypatch.setenv("ODDS_API_BASE_URL", address)
    assert read(Config).is_live_provider is live


def test_without_a_key_the_provider_is_not_asked_and_a_simulator_is() -> None:
    assert not Config().polls
    assert Config(odds_api_base_url="http://127.0.0.1:1").polls


def test_the_key_shows_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODDS_API_KEY", "planted-key")
    assert "planted-key" not in repr(read(Config)) + str(read(Config))


def test_lists_are_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODDS_API_SPORTS", "basketball_nba, basketball_wnba")
    assert read(Config).odds_api_sports == ("basketball_nba", "basketball_wnba")


def test_a_renamed_bookmaker_is_missed_under_its_present_key() -> None:
    assert Config(odds_api_bookmakers=("pinnacle", "barstool")).asked_books == ("pinnacle", "espnbet")


def test_a_setting_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODDS_API_POLL_INTERVALL_SECONDS", "5")
    with pytest.raises(ConfigurationError, match="ODDS_API_POLL_INTERVALL_SECONDS"):
        read(Config)


def test_asking_for_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="names no market"):
        Config(odds_api_markets=())


@pytest.mark.parametrize(
    ("address", "given", "limits"),
    [
        ("https://api.the-odds-api.com", {}, (1000, 20_000)),
        ("https://api.the-odds-api.com", {"odds_api_month_credits": 100_000}, (5000, 100_000)),
        ("https://api.the-odds-api.com", {"odds_api_day_credits": 700}, (700, 20_000)),
        ("http://127.0.0.1:1", {}, (None, None)),
        ("http://127.0.0.1:1", {"odds_api_month_credits": 40}, (2, 40)),
    ],
)
def test_the_provider_has_a_budget_by_default_and_a_stand_in_has_none(
    address: str, given: dict[str, int], limits: tuple[int | None, int | None]
) -> None:
    assert Config(odds_api_base_url=address, **given).limits == limits  # type: ignore[arg-type]  # of one field or another


def test_exchanges_are_read_twice_as_often() -> None:
    assert not Config().cadence.exchanges
    assert Config(odds_api_bookmakers=("pinnacle", "novig")).cadence.exchanges
