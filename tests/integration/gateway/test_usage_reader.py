"""The usage reader as a process, against a billing that keeps what it is given and fails in every way it can."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, count
from pathlib import Path

import pytest

from gateway.usage.offset import PLACE_BYTES
from gateway.usage.testing import Mood, a_line
from services.shared.testing import eventually


def append(folder: Path, *lines: bytes) -> None:
    with (folder / "access.jsonl").open("ab") as file:
        file.write(b"".join(lines))


async def in_the_ledger(billing, ids, within=20.0):
    async def all_there():
        return set(billing.ledger) >= set(ids)

    await eventually(all_there, within)


async def test_what_is_appended_is_in_the_ledger_and_its_offset_is_stored(tmp_path, billing, reader_of):
    ids = [f"r{number}" for number in range(2500)]
    append(tmp_path, *(a_line(request_id) for request_id in ids), a_line("public", account=None))
    reader = reader_of()
    reader.start()
    await in_the_ledger(billing, ids)
    assert set(billing.ledger) == set(ids)
    assert max(billing.calls) <= 1000

    async def nothing_is_left():
        return await reader.metric("stratum_usage_lag_bytes") == 0

    await eventually(nothing_is_left)
    assert await reader.metric("stratum_usage_lines_read_total") == 2501
    assert await reader.metric("stratum_usage_lines_sent_total") == 2500
    assert await reader.metric('stratum_usage_lines_answered_total{result="recorded"}') == 2500
    assert billing.ledger["r0"].gateway == "gateway-1"


async def test_whatever_kills_the_reader_and_however_billing_fails_nothing_is_lost(tmp_path, billing, reader_of):
    chance = random.Random(4)
    mixed = [Mood.WELL] * 6 + [Mood.FAILS, Mood.FAILS_AFTERWARDS, Mood.LATE, Mood.DIES_AFTERWARDS]
    moods = chain.from_iterable(chance.sample(mixed, len(mixed)) for _ in count())
    billing.mood = lambda: next(moods)
    reader = reader_of(USAGE_BATCH_LINES="100", USAGE_CALL_SECONDS="0.5")
    written: list[str] = []
    finished = asyncio.Event()

    async def write() -> None:
        """Appends in pieces that end anywhere, as a flush does."""
        rest = b""
        while not finished.is_set():
            for _ in range(chance.randrange(1, 30)):
                written.append(f"r{len(written)}")
                rest += a_line(written[-1])
            cut = chance.randrange(len(rest))
            append(tmp_path, rest[:cut])
            rest = rest[cut:]
            await asyncio.sleep(0.02)
        append(tmp_path, rest)

    writing = asyncio.create_task(write())
    for _ in range(12):
        entered = len(billing.calls)
        reader.start()

        async def at_work(entered=entered):
            return len(billing.calls) > entered

        await eventually(at_work, 30.0)
        await asyncio.sleep(chance.uniform(0, 0.5))  # not for something to happen: so that a kill falls anywhere
        reader.kill()
    finished.set()
    await writing
    assert set(billing.moods) == set(Mood), "every way of failing was met"
    billing.mood = lambda: Mood.WELL
    reader.start()
    await in_the_ledger(billing, written, within=60.0)
    assert set(billing.ledger) == set(written)
    assert billing.counts["recorded"] == len(written)
    assert billing.counts["repeated"] > 0
    assert billing.counts["conflicting"] == 0


async def test_told_to_end_it_finishes_its_batch(tmp_path, billing, reader_of):
    billing.mood, billing.late_seconds = lambda: Mood.LATE, 0.5
    append(tmp_path, *(a_line(f"r{number}") for number in range(10)))
    reader = reader_of(USAGE_CALL_SECONDS="5")
    reader.start()

    async def was_called():
        return billing.calls

    await eventually(was_called, 30.0)
    reader.process.send_signal(signal.SIGTERM)
    assert await reader.ends() == 0
    billing.mood = lambda: Mood.WELL
    reader.start()
    append(tmp_path, a_line("last"))
    await in_the_ledger(billing, ["last"])
    assert billing.counts["repeated"] == 0, "the offset of the last batch was stored"


async def test_what_cannot_be_read_is_kept_aside_and_counted_and_the_rest_goes_on(tmp_path, billing, reader_of):
    append(tmp_path, a_line("before"), b"rubbish \xff\n", a_line("torn")[:100], a_line("behind"), a_line("after"))
    reader = reader_of()
    reader.start()
    await in_the_ledger(billing, ["before", "behind", "after"])

    async def two_are_counted():
        return await reader.metric('stratum_usage_lines_aside_total{kind="unreadable"}') == 2

    await eventually(two_are_counted)
    kept = [json.loads(line) for line in (tmp_path / "usage.unreadable.jsonl").read_text().splitlines()]
    assert [entry.get("content") for entry in kept] == [None, a_line("torn")[:100].decode()]
    assert kept[0]["content_base64"] == "cnViYmlzaCD/Cg=="
    assert [entry["offset"] for entry in kept] == [len(a_line("before")), len(a_line("before")) + 10]


async def test_more_rubbish_than_may_be_kept_stops_the_reader_and_loses_nothing(tmp_path, billing, reader_of):
    append(tmp_path, b"x" * 3000 + b"\n", a_line("behind"))
    reader = reader_of(USAGE_UNREADABLE_MOST_BYTES="2000", USAGE_LAG_MOST_SECONDS="0.5")
    reader.start()

    async def it_says_so():
        status, body = await reader.get("/readyz")
        return status == 503 and "usage.unreadable.jsonl is full" in body

    await eventually(it_says_so, 30.0)
    assert (tmp_path / "access.jsonl").read_bytes().startswith(b"xxx")
    reader.stop()
    reader_of().start()
    await in_the_ledger(billing, ["behind"])


async def test_a_line_that_billing_refuses_does_not_keep_the_others(tmp_path, billing, reader_of):
    ids = [f"r{number}" for number in range(100)]
    billing.refused = {"r17", "r60"}
    append(tmp_path, *map(a_line, ids))
    reader_of().start()
    await in_the_ledger(billing, set(ids) - billing.refused)

    async def both_are_kept():
        kept = tmp_path / "usage.unreadable.jsonl"
        lines = kept.read_text().splitlines() if kept.exists() else []
        return [json.loads(json.loads(line)["content"])["request_id"] for line in lines] == ["r17", "r60"]

    await eventually(both_are_kept)


async def test_a_billing_that_is_away_makes_the_reader_unready_and_a_later_one_gets_everything(
    tmp_path, billing, reader_of
):
    reader = reader_of(USAGE_LAG_MOST_SECONDS="1")
    reader.start()
    await reader.ready()
    await billing.stop()
    append(tmp_path, a_line("r1"))

    async def it_says_so():
        status, body = await reader.get("/readyz")
        return status == 503 and "behind what was served" in body

    await eventually(it_says_so, 30.0)
    assert reader.said("usage lags")[0]["level"] == "error"
    assert await reader.metric("stratum_usage_lag_seconds") > 1
    assert await reader.metric("stratum_usage_lag_bytes") == len(a_line("r1"))
    await billing.start()
    await in_the_ledger(billing, ["r1"])
    await reader.ready()


async def test_a_disk_that_is_nearly_full_makes_the_reader_unready_and_logs_an_error(reader_of):
    reader = reader_of(USAGE_DISK_LEAST_RATIO="1")
    reader.start()

    async def it_says_so():
        status, body = await reader.get("/readyz")
        return status == 503 and "less than 100% of a disk is free: log, offset" in body

    await eventually(it_says_so, 30.0)
    assert [line["level"] for line in reader.said("the room on a disk has changed")] == ["error", "error"]
    assert 0 < await reader.metric('stratum_usage_disk_free_ratio{of="log"}') < 1


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"somebody else's", "is no offset file of the usage reader"), (b"", "is no offset file of the usage reader")],
)
async def test_an_offset_file_that_is_not_ours_is_refused_at_the_start(tmp_path, reader_of, content, words):
    (tmp_path / "usage.offset").write_bytes(content)
    reader = reader_of()
    reader.start()
    assert await reader.ends() == 2
    assert words in reader.said("cannot start")[0]["problem"]
    assert (tmp_path / "usage.offset").read_bytes() == content


async def test_the_offset_of_another_gateway_is_refused_at_the_start(tmp_path, reader_of):
    first = reader_of()
    first.start()
    await first.ready()
    first.stop()
    second = reader_of(USAGE_GATEWAY="gateway-2")
    second.start()
    assert await second.ends() == 2
    assert "of the gateway gateway-1, and this is" in second.said("cannot start")[0]["problem"]


async def test_a_second_reader_of_the_same_log_does_not_start(reader_of):
    first, second = reader_of(), reader_of()
    first.start()
    await first.ready()
    second.start()
    assert await second.ends() == 2
    assert "another reader is at work" in second.said("cannot start")[0]["problem"]


async def test_without_a_secret_to_sign_with_it_does_not_start(reader_of):
    reader = reader_of(STRATUM_PRINCIPAL_KEYS="")
    reader.start()
    assert await reader.ends() == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB; the test is skipped where we may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    if mount is None or subprocess.run(command, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(disk: Path) -> Path:
    """Takes all the room that is left."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return ballast


async def test_on_a_full_disk_the_offset_is_stored_all_the_same(tmp_path, small_disk, billing, reader_of):
    offset = small_disk / "usage.offset"
    reader = reader_of(USAGE_OFFSET_FILE=str(offset))
    reader.start()
    await reader.ready()
    fill(small_disk)
    append(tmp_path, a_line("r1"))
    await in_the_ledger(billing, ["r1"])

    async def nothing_is_left():
        return await reader.metric("stratum_usage_lag_bytes") == 0

    await eventually(nothing_is_left)
    reader.kill()
    reader.start()
    append(tmp_path, a_line("r2"))
    await in_the_ledger(billing, ["r2"])
    assert billing.counts["repeated"] == 0
    assert offset.stat().st_size == 2 * PLACE_BYTES


async def test_without_room_for_what_cannot_be_read_nothing_moves_and_nothing_is_lost(
    tmp_path, small_disk, billing, reader_of
):
    reader = reader_of(
        USAGE_OFFSET_FILE=str(small_disk / "usage.offset"),
        USAGE_UNREADABLE_FILE=str(small_disk / "usage.unreadable.jsonl"),
        USAGE_LAG_MOST_SECONDS="0.5",
    )
    reader.start()
    await reader.ready()
    ballast = fill(small_disk)
    append(tmp_path, a_line("r1"), b"rubbish\n", a_line("r2"))

    async def it_says_so():
        status, body = await reader.get("/readyz")
        return status == 503 and "No space left on device" in body

    await eventually(it_says_so, 30.0)
    assert billing.counts["repeated"] > 0, "the batch is begun anew"
    reader.kill()
    ballast.unlink()
    reader.start()
    append(tmp_path, a_line("r3"))
    await in_the_ledger(billing, ["r1", "r2", "r3"])
    kept = [json.loads(line) for line in (small_disk / "usage.unreadable.jsonl").read_bytes().splitlines()]
    assert [entry["content"] for entry in kept] == ["rubbish\n"]
