"""The settings of billing."""

from __future__ import annotations

import pytest

from services.billing.config import Config
from services.shared.config import ConfigurationError, read

PEPPER = "ab" * 32


@pytest.fixture(autouse=True)
def only_what_the_test_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "API_KEY_PEPPERS",
        "STRATUM_GRPC_PORT",
        "BILLING_IDEMPOTENCY_RETENTION_DAYS",
        "BILLING_LEDGER_RETENTION_DAYS",
    ):
        monkeypatch.delenv(name, raising=False)


def test_the_newest_pepper_is_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY_PEPPERS", f"2:{PEPPER},1:{'cd' * 32}")
    assert read(Config).pepper_ring.newest == 2


def test_nothing_that_a_configuration_shows_holds_a_pepper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY_PEPPERS", f"1:{PEPPER}")
    config = read(Config)
    assert PEPPER not in repr(config) + str(config.pepper_ring) + config.model_dump_json()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("API_KEY_PEPPERS", "1:short"),
        ("API_KEY_PEPPER", f"1:{PEPPER}"),
        ("BILLING_RETENTION", "1"),
        # What repeated calls are recognised by stays for a day at least.
        ("BILLING_IDEMPOTENCY_RETENTION_DAYS", "0.5"),
        # What a line that comes again is recognised by stays for as long as it may come.
        ("BILLING_LEDGER_RETENTION_DAYS", "35"),
    ],
)
def test_a_setting_that_cannot_be_refuses_to_start(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as refused:
        read(Config)
    assert list(refused.value.problems) == [name]
    assert PEPPER not in str(refused.value)
