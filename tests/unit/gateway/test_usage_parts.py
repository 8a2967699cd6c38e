"""Sending, keeping aside, rotating and calling somebody: each part of the usage reader by itself."""

import json
import os
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from stratum.billing.v1.metering_service_pb2 import RecordUsageResponse, UsageLine

from gateway.usage import rotate
from gateway.usage.aside import Aside, AsideFile, AsideFullError
from gateway.usage.config import Config
from gateway.usage.health import Health, Limits, NotWellError, Room, room
from gateway.usage.offset import OffsetFile
from gateway.usage.reader import batch_of
from gateway.usage.rotate import Rotation, rotated_name
from gateway.usage.sender import Sender
from gateway.usage.tail import Logs
from gateway.usage.testing import a_line
from services.shared.clock import utc_now
from services.shared.config import ConfigurationError, read


class Metering:
    """Takes everything but the lines of some requests."""

    def __init__(self, refused=(), code=grpc.StatusCode.INVALID_ARGUMENT):
        self.refused, self.code = set(refused), code
        self.taken, self.timeouts = [], []

    async def RecordUsage(self, request, timeout):  # noqa: N802, ASYNC109 - the stub's
        self.timeouts.append(timeout)
        ids = [line.request_id for line in request.lines]
        if self.refused & set(ids):
            metadata = grpc.aio.Metadata()
            raise grpc.aio.AioRpcError(self.code, metadata, metadata, details="no")
        self.taken += ids
        return RecordUsageResponse(recorded=len(ids))


def lines(count):
    return [UsageLine(request_id=f"r{number}") for number in range(count)]


async def test_the_answers_are_added_up_and_every_call_has_a_deadline():
    metering = Metering()
    answer = await Sender(metering, 3.0).send(lines(10))
    assert (answer.recorded, answer.refused, metering.timeouts) == (10, [], [3.0])


async def test_lines_that_are_never_taken_are_found_by_halving():
    metering = Metering({"r0", "r17", "r99"})
    answer = await Sender(metering, 3.0).send(lines(100))
    assert answer.recorded == 97
    assert [number for number, _ in answer.refused] == [0, 17, 99]
    assert len(metering.timeouts) < 50


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAUTHENTICATED]
)
async def test_every_other_failure_is_the_whole_batch_s(code):
    with pytest.raises(grpc.aio.AioRpcError):
        await Sender(Metering({"r3"}, code), 3.0).send(lines(10))


def aside(offset=0, content=b"rubbish"):
    return Aside("access.jsonl", 7, offset, "unreadable", "not JSON", content)


def test_what_is_kept_aside_says_where_it_was_and_why(tmp_path):
    assert AsideFile(tmp_path / "aside", "g1", 10_000).keep([aside(5)]) == 1
    entry = json.loads((tmp_path / "aside").read_text())
    assert entry.pop("noted_at")
    assert entry == {
        "gateway": "g1",
        "file": "access.jsonl",
        "offset": 5,
        "kind": "unreadable",
        "why": "not JSON",
        "content": "rubbish",
    }


def test_a_batch_that_is_begun_anew_keeps_nothing_twice(tmp_path):
    file = AsideFile(tmp_path / "aside", "g1", 10_000)
    assert [file.keep([aside(5)]), file.keep([aside(5), aside(9)]), file.keep([aside(5), aside(9)])] == [1, 1, 0]
    file.moved()
    assert len((tmp_path / "aside").read_text().splitlines()) == 2


def test_more_than_may_be_kept_is_refused_and_fits_when_the_file_was_moved_away(tmp_path):
    file = AsideFile(tmp_path / "aside", "g1", 400)
    file.keep([aside(1)])
    with pytest.raises(AsideFullError, match="look at what is in it, and move it away"):
        file.keep([aside(2, b"x" * 300)])
    (tmp_path / "aside").rename(tmp_path / "looked-at")
    assert file.keep([aside(2, b"x" * 100)]) == 1


@pytest.mark.parametrize(
    ("free", "found"),
    [(0.5, Room.ENOUGH), (0.2, Room.ENOUGH), (0.15, Room.SCARCE), (0.1, Room.SCARCE), (0.09, Room.NONE)],
)
def test_a_disk_is_nearly_full_below_the_least_share(free, found):
    assert room(free, warning_ratio=0.2, least_ratio=0.1) is found


def health(tmp_path, lag_seconds=60):
    limits = Limits(disk_warning_ratio=0, disk_least_ratio=0, lag_seconds=lag_seconds, lag_bytes=1000)
    return Health(limits, {"log": tmp_path})


async def test_ready_is_who_is_not_far_behind(tmp_path):
    well = health(tmp_path)
    well.pending(utc_now() - timedelta(seconds=50), 900)
    await well.check_lag()
    await well.check_disk()
    await well.check_batches()


async def test_who_is_too_far_behind_in_time_is_not_ready_until_he_has_caught_up(tmp_path):
    late = health(tmp_path)
    late.pending(utc_now() - timedelta(seconds=70), 10)
    with pytest.raises(NotWellError, match="70 s behind what was served"):
        await late.check_lag()
    late.pending(None, 0)
    await late.check_lag()


async def test_who_is_too_far_behind_in_bytes_is_not_ready(tmp_path):
    late = health(tmp_path)
    late.pending(None, 1001)
    with pytest.raises(NotWellError, match="1001 bytes"):
        await late.check_lag()


async def test_who_does_no_batch_for_long_is_not_ready_and_says_why(tmp_path):
    stuck = health(tmp_path, lag_seconds=0)
    stuck.failed(OSError("disk on fire"), "OSError: disk on fire")
    with pytest.raises(NotWellError, match="disk on fire"):
        await stuck.check_batches()
    stuck.done()
    await stuck.check_batches()


def test_names_of_rotated_logs_are_in_the_order_of_their_times():
    moments = [datetime(2026, 11, 26, 5, second, tzinfo=UTC) + timedelta(microseconds=second) for second in range(60)]
    names = [rotated_name("access.jsonl", moment) for moment in moments]
    assert names == sorted(names)
    assert names[1] == "access.20261126T050100.000001Z.jsonl"


class Envoy:
    """Writes a log, and opens it again when told, if it hears it."""

    def __init__(self, path):
        self.path = path
        self.hears = True
        self.told = 0
        self._file = path.open("ab")

    def close(self):
        self._file.close()

    def write(self, line):
        self._file.write(line)
        self._file.flush()

    async def reopen(self):
        self.told += 1
        if not self.hears:
            raise TimeoutError
        self._file.close()
        self._file = self.path.open("ab")


class Bench:
    """A log, its rotation, and a clock that the test moves."""

    def __init__(self, folder, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(rotate.time, "monotonic", lambda: self.now)
        self.folder = folder
        self.envoy = Envoy(folder / "access.jsonl")
        self.offsets = OffsetFile.open(folder / "usage.offset", "g", folder / "access.jsonl")
        self.logs = Logs(folder, "access.jsonl", ())
        self.rotation = Rotation(self.logs, self.offsets, 1000, 2.0, self.envoy.reopen)
        self.read = []

    def read_all(self):
        for file in self.logs.look():
            batch = batch_of(file, file.read(), "g", 1000)
            self.read += [line.request_id for line in batch.lines]
            file.move_to(batch.end)

    async def step(self, seconds=0.0, scarce=False):
        self.now += seconds
        await self.rotation.step(self.logs.look(), scarce)

    def close(self):
        self.envoy.close()
        self.logs.close()
        self.offsets.close()

    def names(self):
        return sorted(path.name for path in self.folder.glob("access*"))


@pytest.fixture
def bench(tmp_path, monkeypatch):
    bench = Bench(tmp_path, monkeypatch)
    yield bench
    bench.close()


async def test_a_log_is_rotated_when_enough_of_it_was_read_and_not_before(bench):
    bench.envoy.write(a_line("r1") * 10)
    await bench.step()
    assert bench.names() == ["access.jsonl"]
    bench.read_all()
    await bench.step()
    assert len(bench.names()) == 2
    assert bench.envoy.told == 1


async def test_a_rotated_log_goes_when_it_has_settled_and_not_before(bench):
    bench.envoy.write(a_line("r1") * 10)
    bench.read_all()
    await bench.step()
    await bench.step()
    await bench.step(1.9)
    assert len(bench.names()) == 2
    await bench.step(0.2)
    await bench.step()
    assert bench.names() == ["access.jsonl"]
    assert bench.offsets.positions == ()


async def test_a_rotated_log_that_was_not_read_to_its_end_stays(bench):
    bench.envoy.write(a_line("r1") * 10)
    bench.read_all()
    bench.envoy.hears = False
    await bench.step()
    bench.envoy.write(a_line("late"))
    bench.envoy.hears = True
    await bench.step(1.0)
    for _ in range(5):
        await bench.step(10.0)
    assert len(bench.names()) == 2
    bench.read_all()
    await bench.step()
    assert bench.names() == ["access.jsonl"]
    assert bench.read[-1] == "late"


async def test_while_envoy_does_not_hear_it_is_told_again_and_nothing_goes(bench):
    bench.envoy.hears = False
    bench.envoy.write(a_line("r1") * 10)
    bench.read_all()
    for _ in range(100):
        await bench.step(1.0)
    assert len(bench.names()) == 1
    assert 8 <= bench.envoy.told <= 20, "pauses grow, and have a bound"


async def test_the_torn_end_of_a_log_that_has_ended_is_read_before_it_goes(bench):
    bench.envoy.write(a_line("r1") * 10 + a_line("torn")[:-1])
    bench.read_all()
    await bench.step()
    for _ in range(3):
        await bench.step(2.0)
    assert len(bench.names()) == 2
    bench.read_all()
    await bench.step()
    assert bench.names() == ["access.jsonl"]
    assert bench.read[-1] == "torn"


async def test_on_a_disk_that_is_nearly_full_less_is_worth_a_rotation(tmp_path, bench):
    bench.rotation = Rotation(bench.logs, bench.offsets, 64 * 2**20, 2.0, bench.envoy.reopen)
    bench.envoy.write(a_line("r1") * (2**20 // len(a_line("r1")) + 1))
    while bench.logs.look()[0].unread():
        bench.read_all()
    await bench.step(scarce=False)
    assert len(bench.names()) == 1
    await bench.step(scarce=True)
    assert len(bench.names()) == 2


async def test_logs_that_somebody_else_rotates_are_left_to_him(bench):
    bench.envoy.write(a_line("r1") * 10)
    os.rename(bench.envoy.path, bench.folder / "access.jsonl.1")
    await bench.envoy.reopen()
    bench.read_all()
    for _ in range(5):
        await bench.step(10.0)
        bench.read_all()
    assert bench.names() == ["access.jsonl", "access.jsonl.1"]


async def test_logs_of_others_do_not_keep_ours_from_being_rotated(bench):
    (bench.folder / "access.again.jsonl").write_bytes(a_line("again"))
    bench.envoy.write(a_line("r1") * 10)
    bench.read_all()
    await bench.step()
    for _ in range(3):
        await bench.step(10.0)
    assert bench.names() == ["access.again.jsonl", "access.jsonl"]
    assert bench.envoy.told == 1
    assert "again" in bench.read


def test_a_batch_has_no_more_lines_than_told_and_ends_behind_the_last_of_them(bench):
    bench.envoy.write(a_line("open", account=None) + a_line("r1") + a_line("r2") + a_line("r3"))
    (file,) = bench.logs.look()
    batch = batch_of(file, file.read(), "g", 2)
    assert [line.request_id for line in batch.lines] == ["r1", "r2"]
    assert batch.read == 3
    assert batch.end == len(a_line("open", account=None) + a_line("r1") + a_line("r2"))
    assert batch.oldest() == datetime(2026, 11, 26, 5, 24, 52, 812_000, tzinfo=UTC)


def test_settings_are_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("USAGE_BATCH_LINES", "500")
    monkeypatch.setenv("USAGE_LOG_FOLDER", "/var/log/envoy")
    config = read(Config)
    assert (config.usage_batch_lines, str(config.usage_log_folder), config.metrics_port) == (
        500,
        "/var/log/envoy",
        9107,
    )
    assert (config.usage_rotate_bytes, config.usage_disk_least_ratio) == (64 * 1024 * 1024, 0.1)


@pytest.mark.parametrize(
    ("name", "value"), [("USAGE_BATCH_LINES", "1001"), ("USAGE_LOG_FILE", "../x"), ("USAGE_LOGFILE", "x")]
)
def test_settings_that_are_wrong_refuse_to_start(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name):
        read(Config)
