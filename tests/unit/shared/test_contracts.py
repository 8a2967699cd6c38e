"""What the contracts say of every method."""

import pytest
from stratum.common.v1.access_pb2 import Access

from services.shared import contracts

METHODS = contracts.methods()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_method_is_reached_over_http_unless_it_is_internal(method: contracts.Method) -> None:
    assert bool(method.template) == (method.level != Access.Level.INTERNAL)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_key_needs_a_scope_exactly_where_a_key_is_needed(method: contracts.Method) -> None:
    assert bool(method.scope) == (method.level in (Access.Level.PAID, Access.Level.KEY))


@pytest.mark.parametrize(
    ("verb", "path", "name"),
    [
        ("GET", "/api/v1/intel/signals", "ReadSignals"),
        ("GET", "/api/v1/intel/signals:watch", "StreamSignals"),
        ("GET", "/api/v1/intel/signals/abc", "GetSignal"),
        ("GET", "/api/v1/intel/signals/abc/explain", "ExplainSignal"),
        ("GET", "/api/v1/usage:quote", "QuoteUsage"),
        ("POST", "/api/v1/keys/key_1:rotate", "RotateOwnKey"),
        ("POST", "/api/v1/keys:reportLeak", "ReportLeakedKey"),
    ],
)
def test_a_method_is_found_by_its_verb_and_path(verb: str, path: str, name: str) -> None:
    found = contracts.found(verb, path)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("POST", "/api/v1/intel/signals"),
        ("GET", "/api/v1/intel/signals/"),
        ("GET", "/api/v1/intel/signals/a:b"),
        ("GET", "/api/v1/intel/signals/a/b"),
        ("GET", "/api/v1/intel/signals?x=1"),
        ("", ""),
    ],
)
def test_nothing_is_found_elsewhere(verb: str, path: str) -> None:
    assert contracts.found(verb, path) is None


def test_no_two_methods_share_a_place() -> None:
    places = [(method.verb, method.template) for method in METHODS if method.template]
    assert len(places) == len(set(places))


def test_what_is_rendered_is_a_message_that_the_contracts_declare() -> None:
    assert {method.renders for method in METHODS if method.renders} == {"stratum.signals.v1.ListSignalsResponse"}
