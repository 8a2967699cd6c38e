"""Answers of newer servers, and answers that are none."""

import pickle
from datetime import UTC, datetime

import pytest
from stratum_client import SecretNotGivenError, UnreadableAnswerError
from stratum_client.decoding import decode
from stratum_client.errors import given
from stratum_client.models import (
    ApiKey,
    GetFeedHealthResponse,
    ListSignalsResponse,
    RotateOwnKeyResponse,
    Signal,
    Tier,
)

MINIMAL = b'"observed_at":"2026-11-26T12:00:00.123456Z"'


def test_absent_is_none_and_what_is_not_known_is_ignored() -> None:
    signal = decode(Signal, b'{"id":"a","new_field":{"deep":[1]},"to_value":-5,' + MINIMAL + b"}")
    assert (signal.id, signal.from_value, signal.to_value) == ("a", None, -5.0)


def test_moments_have_a_zone() -> None:
    signal = decode(Signal, b"{" + MINIMAL + b"}")
    assert signal.observed_at == datetime(2026, 11, 26, 12, 0, 0, 123456, tzinfo=UTC)
    with pytest.raises(UnreadableAnswerError, match="timezone"):
        decode(Signal, b'{"observed_at":"2026-11-26T12:00:00"}')


@pytest.mark.parametrize("written", ["ENORMOUS", "a word of a later day", ""])
def test_a_word_that_is_not_known_yet_is_a_word(written: str) -> None:
    signal = decode(Signal, f'{{"tier":"{written}",'.encode() + MINIMAL + b"}")
    assert signal.tier == written
    assert isinstance(signal.tier, Tier)
    assert not signal.tier.is_known
    assert pickle.loads(pickle.dumps(signal)) == signal


def test_new_words_do_not_join_the_list() -> None:
    decode(Signal, b'{"tier":"ENORMOUS",' + MINIMAL + b"}")
    assert list(Tier) == ["UNSPECIFIED", "LOW", "MEDIUM", "HIGH"]


def test_a_word_written_as_its_number_is_a_word_however_deep_it_stands() -> None:
    page = decode(ListSignalsResponse, b'{"signals":[{"tier":9,"signal_type":"MOVE","x":1,' + MINIMAL + b"}]}")
    assert (page.signals[0].tier, page.signals[0].signal_type) == ("9", "MOVE")
    health = decode(GetFeedHealthResponse, b'{"sports":[{"status":7,"reasons":[{"kind":12,"book":null}]}]}')
    assert (health.sports[0].status, health.sports[0].reasons[0].kind) == ("7", "12")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"tier":{}}', b'{"observed_at":null}', b"<html>"])
def test_what_is_not_of_the_contract_is_said_to_be_so(body: bytes) -> None:
    with pytest.raises(UnreadableAnswerError) as error:
        decode(Signal, body, "call-1")
    assert error.value.request_id == "call-1"


def rotated(secret: str) -> RotateOwnKeyResponse:
    return RotateOwnKeyResponse(
        key=ApiKey(id="key_2", created_at=datetime(2026, 11, 26, tzinfo=UTC)),
        secret=secret,
        old_key_expires_at=datetime(2026, 11, 27, tzinfo=UTC),
    )


def test_a_secret_is_not_printed() -> None:
    answer = rotated("stratum_live_verysecret")
    assert "verysecret" not in repr(answer) + str(answer) + f"{answer.__rich_repr__()}"
    assert answer.secret == "stratum_live_verysecret"


def test_a_rotation_whose_secret_was_given_before_is_an_error_that_names_the_key() -> None:
    with pytest.raises(SecretNotGivenError) as error:
        given(rotated(""))
    assert error.value.answer.key.id == "key_2"
