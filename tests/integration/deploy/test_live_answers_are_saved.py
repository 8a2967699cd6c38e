"""The recorder against a provider on a socket: what it saves, what it spends, and when it stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from deploy.record import INDEX, Limits, Progress, RecordingError, Series, cost_of_a_call, record
from deploy.recording import open_recording
from services.ingest.config import Config
from services.ingest.testing import SPORT, START, FakeProvider, Reply, a_book, an_event, minutes, spreads
from services.shared.testing import settings

PLENTY = Limits(answers=1000, credits=1000, megabytes=1000.0)


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    """A provider that answers what the test tells it to."""
    async with FakeProvider() as running:
        yield running


def an_answer(number: int, **headers: str) -> Reply:
    moment = START + minutes(number)
    told = {"Date": moment.strftime("%a, %d %b %Y %H:%M:%S GMT"), "x-requests-last": "3", **headers}
    return Reply([an_event(a_book("draftkings", spreads(-5.5 - number)))], headers=told)


async def saving(
    provider: FakeProvider, folder: Path, limits: Limits, show: Any = lambda _: None, key: str = "k3y-of-ours"
) -> Progress:
    config = settings(
        Config,
        odds_api_key=SecretStr(key),
        odds_api_base_url=provider.url,
        odds_api_clock="provider",
        odds_api_retry_attempts=1,
    )
    assert cost_of_a_call(config) == 3
    return await record(config, SPORT, Series(folder, SPORT), 0.0, limits, show)


def read(folder: Path) -> int:
    with open_recording(folder) as recording:
        assert recording.sport_key == SPORT
        return len(list(recording.bodies()))


def names(folder: Path, pattern: str = "*") -> list[str]:
    return sorted(path.name for path in folder.glob(pattern))


def somewhere(folder: Path, text: str) -> bool:
    return any(text in path.read_text(errors="replace") for path in folder.iterdir())


async def test_answers_are_saved_by_the_providers_time_until_the_credits_are_spent(
    provider: FakeProvider, tmp_path: Path
) -> None:
    provider.will_say(*(an_answer(number) for number in range(9)))
    done = await saving(provider, tmp_path, Limits(answers=100, credits=10, megabytes=100.0))
    assert (done.answers, done.credits) == (3, 9)
    assert "10 credits" in done.said
    assert read(tmp_path) == 3
    assert not somewhere(tmp_path, "k3y-of-ours")


async def test_a_call_that_gives_nothing_is_counted_and_the_next_is_saved(
    provider: FakeProvider, tmp_path: Path
) -> None:
    provider.will_say(an_answer(0), Reply("no JSON"), Reply(status=503), an_answer(1))
    done = await saving(provider, tmp_path, Limits(answers=4, credits=100, megabytes=100.0))
    assert (done.answers, done.failed) == (2, 2)
    assert read(tmp_path) == 2


async def test_it_stops_when_the_provider_has_no_credits_left_for_another_call(
    provider: FakeProvider, tmp_path: Path
) -> None:
    provider.will_say(an_answer(0, **{"x-requests-remaining": "2"}))
    done = await saving(provider, tmp_path, PLENTY)
    assert "2 credits left" in done.said


async def test_what_may_cost_nothing_asks_nothing(provider: FakeProvider, tmp_path: Path) -> None:
    done = await saving(provider, tmp_path, Limits(answers=9, credits=2, megabytes=1.0))
    assert (done.answers, provider.requests) == (0, [])


async def test_a_refused_key_ends_it_and_what_was_saved_can_be_read(provider: FakeProvider, tmp_path: Path) -> None:
    provider.will_say(an_answer(0), Reply({"error_code": "INVALID_KEY"}, status=401))
    with pytest.raises(RecordingError, match="401 INVALID_KEY"):
        await saving(provider, tmp_path, PLENTY)
    assert read(tmp_path) == 1


async def test_an_answer_that_repeats_the_key_is_not_saved(provider: FakeProvider, tmp_path: Path) -> None:
    provider.will_say(an_answer(0))
    with pytest.raises(RecordingError, match="repeated the key"):
        await saving(provider, tmp_path, PLENTY, key="draftkings")
    assert names(tmp_path) == [INDEX]


async def test_ending_it_by_hand_is_a_good_end(provider: FakeProvider, tmp_path: Path) -> None:
    provider.will_say(*(an_answer(number) for number in range(500)))
    task: asyncio.Task[Progress]

    def end_after_two(progress: Progress) -> None:
        if progress.answers == 2:
            task.cancel()

    task = asyncio.create_task(saving(provider, tmp_path, PLENTY, end_after_two))
    done = await task
    assert done.said == "you ended it"
    assert read(tmp_path) == 2
    assert names(tmp_path, "*.json.gz") == []
