"""Saves the provider's answers as a recording that `stratum replay` reads: raw bodies, addressed by time.

An answer is a file of its own and a line of `INDEX.tsv` before the next is asked for, so whatever ends the recorder,
what it saved can be read. When a day or the run is over, its files go into one archive: first the archive, then the
index that names it, then the files that it replaces; a crash in between leaves both, and both can be read.

What is saved is the body alone. The key is in the query of the call, which is kept nowhere; a body in which it turned
up would be refused.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import aiohttp

from deploy.recording import read_moment
from services.ingest.config import Config
from services.ingest.costs import Endpoint, forecast
from services.ingest.provider import Answer, KeyRefused, OddsApi, OutOfCredits, ProviderFailure, open_session

INDEX = "INDEX.tsv"
HEAD = "utc\tarchive\tmember"
#: Failures in a row, each after the client's own attempts, after which nobody expects an answer any more.
FAILURES_IN_A_ROW = 20


class RecordingError(Exception):
    """Nothing can be saved, or no more. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop, whichever comes first."""

    answers: int
    credits: int
    megabytes: float


@dataclass(frozen=True, slots=True)
class Progress:
    """What has been saved, and what it cost."""

    answers: int = 0
    bytes: int = 0
    credits: int = 0
    #: As the provider last said.
    credits_left: int | None = None
    #: Answers whose time was there already, and calls that gave nothing.
    repeated: int = 0
    failed: int = 0
    #: Why it ended, or what the last call said.
    said: str = ""


class Series:
    """A recording that grows. Goes on with what the folder holds."""

    def __init__(self, folder: Path, sport_key: str) -> None:
        """Raises RecordingError for a folder that holds something else."""
        self.folder = folder
        self._sport = sport_key
        folder.mkdir(parents=True, exist_ok=True)
        index = folder / INDEX
        if not index.exists():
            if any(folder.iterdir()):
                raise RecordingError(f"{folder} holds other files: give a folder that is new or has an {INDEX}")
            _write_whole(index, HEAD + "\n")
        head, *lines = index.read_text().splitlines() or [""]
        if head != HEAD:
            raise RecordingError(f"{index} is no index of ours: its first line is not {HEAD!r}")
        # A line that a crash cut off names a file by half; its answer is still there, and only it is lost.
        self._rows = [tuple(line.split("\t")) for line in lines if line.count("\t") == 2]
        if len(self._rows) != len(lines):
            self._write_index()
        archives = {archive for _, archive, _ in self._rows if archive}
        if any(not archive.startswith(f"{sport_key}_") for archive in archives):
            raise RecordingError(f"{folder} holds another sport: give a folder for {sport_key} alone")
        self._times = {utc for utc, _, _ in self._rows}

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, at: datetime, body: bytes) -> bool:
        """Saves an answer; False for a time that is there already. What it returns of is on the disk."""
        moment = at.astimezone(UTC).replace(microsecond=0)
        utc = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
        if utc in self._times:
            return False
        name = moment.strftime("%Y%m%dT%H%M%SZ.json.gz")
        _write_whole(self.folder / name, gzip.compress(body, mtime=0))
        with (self.folder / INDEX).open("a") as index:
            index.write(f"{utc}\t\t{name}\n")
            index.flush()
            os.fsync(index.fileno())
        self._rows.append((utc, "", name))
        self._times.add(utc)
        return True

    def pack(self, but_of: str = "") -> None:
        """Puts single files into an archive a day; those of one day, such as the one that goes on, may stay."""
        loose = [row for row in self._rows if not row[1] and row[0][:10] != but_of]
        for day in sorted({utc[:10] for utc, _, _ in loose}):
            archive = next(name for name in self._names(day) if not (self.folder / name).exists())
            mine = [row for row in loose if row[0].startswith(day)]
            self._archive(archive, [name for _, _, name in mine])
            packed = {name: (utc, archive, name.removesuffix(".gz")) for utc, _, name in mine}
            self._rows = [packed.get(row[2], row) for row in self._rows]
            self._write_index()
            for name in packed:
                (self.folder / name).unlink()

    def _names(self, day: str) -> list[str]:
        return [f"{self._sport}_{day}.tar.xz", *(f"{self._sport}_{day}_{number}.tar.xz" for number in range(2, 1000))]

    def _archive(self, archive: str, names: list[str]) -> None:
        held = io.BytesIO()
        with tarfile.open(fileobj=held, mode="w:xz") as packed:
            for name in names:
                body = gzip.decompress((self.folder / name).read_bytes())
                member = tarfile.TarInfo(name.removesuffix(".gz"))
                member.size = len(body)
                member.mtime = int(read_moment(_iso(name)).timestamp())
                packed.addfile(member, io.BytesIO(body))
        _write_whole(self.folder / archive, held.getvalue())

    def _write_index(self) -> None:
        _write_whole(self.folder / INDEX, "\n".join([HEAD, *("\t".join(row) for row in self._rows)]) + "\n")


def cost_of_a_call(config: Config) -> int:
    """The most credits that one call of the settings can cost."""
    regions, bookmakers = len(config.odds_api_regions), len(config.odds_api_bookmakers)
    return forecast(Endpoint.ODDS, len(config.odds_api_markets), regions, bookmakers)


async def record(
    config: Config,
    sport_key: str,
    series: Series,
    every_seconds: float,
    limits: Limits,
    show: Callable[[Progress], None],
) -> Progress:
    """Asks and saves until a limit is reached or the task is cancelled, which is a good end as well.

    Raises RecordingError where nothing more can come: a refused key, or nobody who answers.
    """
    progress, calls, cost = Progress(), 0, cost_of_a_call(config)
    async with open_session() as session:
        keeper = _Keeper(session, config, sport_key, series)
        clock = asyncio.get_running_loop().time
        due = clock()
        try:
            while not (reached := _reached(limits, progress, calls, cost)):
                await asyncio.sleep(max(0.0, due - clock()))
                due = clock() + every_seconds
                progress = await keeper.ask(progress)
                calls += 1
                show(progress)
            return _ended(progress, reached)
        except asyncio.CancelledError:
            return _ended(progress, "you ended it")
        finally:
            series.pack()


class _Keeper:
    """Asks once at a time and saves what comes."""

    def __init__(self, session: aiohttp.ClientSession, config: Config, sport_key: str, series: Series) -> None:
        self._config = config
        self._sport = sport_key
        self._series = series
        self._body = b""
        # Outside of the ledger: a recorder may run where there is no database. `--credits` is its own bound.
        self._api = OddsApi(session, config, heard=self._hear)
        self._failures = 0

    def _hear(self, _path: str, body: bytes) -> None:
        self._body = body

    async def ask(self, before: Progress) -> Progress:
        try:
            answer = await self._api.odds(self._sport)
        except (KeyRefused, OutOfCredits) as failure:
            raise RecordingError(f"{failure}. What was saved can be read; the same command goes on later.") from None
        except ProviderFailure as failure:
            self._failures += 1
            if self._failures >= FAILURES_IN_A_ROW:
                raise RecordingError(f"{self._failures} failures in a row, the last: {failure}") from None
            # Each attempt may have been charged, though nothing came of it.
            charged = self._config.odds_api_retry_attempts * cost_of_a_call(self._config)
            return _more(before, failed=1, credits=charged, said=str(failure))
        self._failures = 0
        return self._keep(before, answer)

    def _keep(self, before: Progress, answer: Answer[object]) -> Progress:
        key = self._config.odds_api_key
        if key is not None and key.get_secret_value().encode() in self._body:
            raise RecordingError("an answer repeated the key, and was not saved")
        by_provider = self._config.odds_api_clock == "provider" and answer.dated is not None
        at = answer.dated if by_provider and answer.dated is not None else answer.received_at
        saved = self._series.add(at, self._body)
        spent = cost_of_a_call(self._config) if answer.quota.last is None else answer.quota.last
        self._series.pack(but_of=f"{at.astimezone(UTC):%Y-%m-%d}")
        return _more(
            before,
            answers=int(saved),
            bytes=len(self._body) if saved else 0,
            credits=spent,
            credits_left=answer.quota.remaining,
            repeated=int(not saved),
            said=f"{at:%Y-%m-%d %H:%M:%S} UTC",
        )


def _more(
    before: Progress,
    *,
    answers: int = 0,
    bytes: int = 0,
    credits: int = 0,
    credits_left: int | None = None,
    repeated: int = 0,
    failed: int = 0,
    said: str = "",
) -> Progress:
    return Progress(
        before.answers + answers,
        before.bytes + bytes,
        before.credits + credits,
        before.credits_left if credits_left is None else credits_left,
        before.repeated + repeated,
        before.failed + failed,
        said,
    )


def _ended(progress: Progress, why: str) -> Progress:
    return _more(progress, said=why)


def _reached(limits: Limits, progress: Progress, calls: int, cost: int) -> str:
    if calls >= limits.answers:
        return f"{calls} calls were made"
    if progress.credits + cost > limits.credits:
        return f"another call could cost more than {limits.credits} credits in all"
    if progress.credits_left is not None and progress.credits_left < cost:
        return f"the provider has {progress.credits_left} credits left for this key"
    if progress.bytes > limits.megabytes * 1e6:
        return f"{limits.megabytes:g} MB of answers are saved"
    return ""


def _write_whole(path: Path, content: bytes | str) -> None:
    """The file whole or not at all, and on the disk."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _iso(name: str) -> str:
    return datetime.strptime(name, "%Y%m%dT%H%M%SZ.json.gz").replace(tzinfo=UTC).isoformat()
