"""The settings of consensus."""

import pytest

from services.consensus.config import Config


@pytest.fixture(autouse=True)
def only_what_the_test_sets(monkeypatch: pytest.MonkeyPatch):
    for name in ("CONSENSUS_MIN_BOOKS", "CONSENSUS_INGEST_ADDRESS", "STRATUM_GRPC_PORT"):
        monkeypatch.delenv(name, raising=False)


def test_the_defaults_are_those_of_the_rules():
    rules = Config().board_rules()
    assert (rules.pricing.market_model.consensus_min_books, rules.heartbeat_seconds) == (4, 600.0)
    assert Config().grpc_port == 50052


def test_the_hash_names_what_makes_the_numbers_and_nothing_else(monkeypatch: pytest.MonkeyPatch):
    default = Config().board_rules().config_hash
    monkeypatch.setenv("STRATUM_GRPC_PORT", "50152")
    monkeypatch.setenv("CONSENSUS_INGEST_ADDRESS", "127.0.0.1:50051")
    assert Config().board_rules().config_hash == default
    monkeypatch.setenv("CONSENSUS_MIN_BOOKS", "5")
    assert Config().board_rules().config_hash != default
