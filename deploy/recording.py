"""Recorded series of the provider's answers, addressed by time.

Two shapes are read. A *series* is a folder with `INDEX.tsv` (utc, archive, member) and the archives it names, each
member one raw answer. A *history* is a folder of files that each hold an answer of the historical endpoint,
`{timestamp, previous_timestamp, next_timestamp, data}`, plain, gzipped or in archives. Nothing is ever written beside a
recording.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import statistics
import tarfile
import tempfile
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import IO, Protocol, Self

import msgspec

#: Unpacked archives kept at a time: the one being read and the one before it, for a request repeated after a crash.
ARCHIVES_KEPT = 2
SPORT_KEY = re.compile(rb'"sport_key"\s*:\s*"([a-z0-9_]+)"')
COPY_BYTES = 1 << 20


class UnreadableRecordingError(Exception):
    """The folder holds no recording that can be replayed. The message says what was looked for."""


class _Source(Protocol):
    """Where an answer's bytes lie."""

    def read(self, entry: _Entry) -> bytes: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Entry:
    at: datetime
    archive: str
    member: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A recorded answer as the historical endpoint gives it. `data` is the body's own bytes, untouched.

    A recorder may have kept what was no JSON at all: half a body, a page of a proxy. That is given as a JSON string, so
    that the walk can go on behind it and whoever reads it sees an answer that says nothing.
    """

    timestamp: datetime
    previous_timestamp: datetime | None
    next_timestamp: datetime | None
    data: bytes

    def envelope(self) -> bytes:
        """The endpoint's body, with the recorded bytes spliced in: even a bare NaN comes through as it was."""

        def shown(moment: datetime | None) -> bytes:
            return b"null" if moment is None else b'"' + iso(moment).encode() + b'"'

        head = b'{"timestamp":%b,"previous_timestamp":%b,"next_timestamp":%b,"data":' % (
            shown(self.timestamp),
            shown(self.previous_timestamp),
            shown(self.next_timestamp),
        )
        return head + _as_json(self.data) + b"}"


class Recording:
    """A recorded series in time order, to be closed. Reading is safe from several threads and needs the memory of one
    answer."""

    def __init__(self, folder: Path, entries: list[_Entry], source: _Source) -> None:
        self.folder = folder
        # Two answers of one instant cannot be told apart by time; the later one in the index holds.
        self._entries = sorted({entry.at: entry for entry in entries}.values(), key=lambda entry: entry.at)
        self._source = source
        self.times = [entry.at for entry in self._entries]
        self.sport_key = self._first_sport()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back the unpacked archives."""
        self._source.close()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def median_gap_seconds(self) -> float:
        """The median time between two answers; 0 for a single one."""
        gaps = [(later - earlier).total_seconds() for earlier, later in zip(self.times, self.times[1:], strict=False)]
        return statistics.median(gaps) if gaps else 0.0

    def at(self, moment: datetime) -> Answer | None:
        """The newest answer at or before a moment; None before the first."""
        index = bisect_right(self.times, moment) - 1
        if index < 0:
            return None
        following = self.times[index + 1] if index + 1 < len(self.times) else None
        previous = self.times[index - 1] if index else None
        return Answer(self.times[index], previous, following, self._source.read(self._entries[index]))

    def bodies(self) -> Iterator[tuple[datetime, bytes]]:
        """Every answer in time order."""
        for entry in self._entries:
            yield entry.at, self._source.read(entry)

    def _first_sport(self) -> str:
        for _, body in self.bodies():
            found = SPORT_KEY.search(body)
            if found:
                return found.group(1).decode()
        self.close()
        raise UnreadableRecordingError(f"{self.folder}: no answer names a sport")


def _as_json(body: bytes) -> bytes:
    try:
        msgspec.json.decode(body)
    except msgspec.DecodeError:
        try:
            json.loads(body)  # takes a bare NaN, as recorders and their readers did
        except ValueError:
            return json.dumps(body.decode(errors="replace")).encode()
    return body


def iso(moment: datetime) -> str:
    """The provider's way to write a time."""
    return moment.isoformat().replace("+00:00", "Z")


def read_moment(text: str) -> datetime:
    """A time with its zone; ValueError without one."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"a time without a zone: {text}")
    return moment.astimezone(UTC)


def open_recording(folder: Path) -> Recording:
    """The recording in a folder. Raises UnreadableRecordingError."""
    if not folder.is_dir():
        raise UnreadableRecordingError(f"{folder} is no folder")
    if (folder / "INDEX.tsv").exists():
        return _open_series(folder)
    return _open_history(folder)


def _open_series(folder: Path) -> Recording:
    lines = (folder / "INDEX.tsv").read_text().splitlines()
    columns = lines[0].split("\t") if lines else []
    if not {"utc", "archive", "member"} <= set(columns):
        raise UnreadableRecordingError(f"{folder / 'INDEX.tsv'}: the first line must name utc, archive and member")
    entries = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        row = dict(zip(columns, line.split("\t"), strict=False))
        try:
            entries.append(_Entry(read_moment(row["utc"]), row["archive"], row["member"]))
        except (KeyError, ValueError) as error:
            raise UnreadableRecordingError(f"{folder / 'INDEX.tsv'}, line {number}: {error}") from None
    missing = sorted({entry.archive for entry in entries if not (folder / entry.archive).exists()})
    if missing:
        raise UnreadableRecordingError(f"{folder}: INDEX.tsv names {', '.join(missing)}, which is not there")
    # Some recorders kept the historical endpoint's answers whole: what they hold is the body.
    return Recording(folder, entries, _Archives(folder, lambda body: _data_of(body) if _is_envelope(body) else body))


def _open_history(folder: Path) -> Recording:
    archives = _Archives(folder, _data_of)
    entries = []
    for path in sorted(folder.rglob("*")):
        if path.suffixes[-2:] in ([".tar", ".xz"], [".tar", ".gz"]):
            relative = str(path.relative_to(folder))
            entries += [
                _Entry(_timestamp_of(body), relative, member)
                for member, body in archives.members(relative)
                if _is_envelope(body)
            ]
        elif path.name.endswith((".json", ".json.gz")):
            body = _plain(path.name, path.read_bytes())
            if _is_envelope(body):
                entries.append(_Entry(_timestamp_of(body), "", str(path.relative_to(folder))))
    if not entries:
        archives.close()
        raise UnreadableRecordingError(f"{folder} holds neither INDEX.tsv nor answers of the historical endpoint")
    return Recording(folder, entries, archives)


def _plain(name: str, body: bytes) -> bytes:
    return gzip.decompress(body) if name.endswith(".gz") else body


def _is_envelope(body: bytes) -> bool:
    return body.lstrip().startswith(b"{") and b'"data"' in body and b'"timestamp"' in body


def _timestamp_of(body: bytes) -> datetime:
    return read_moment(json.loads(body)["timestamp"])


def _data_of(body: bytes) -> bytes:
    return json.dumps(json.loads(body)["data"], separators=(",", ":")).encode()


class _Archives:
    """Reads members of archives, each archive unpacked once into an unnamed temporary file."""

    def __init__(self, folder: Path, answer_of: Callable[[bytes], bytes]) -> None:
        self._folder = folder
        self._answer_of = answer_of
        self._unpacked: OrderedDict[str, _Unpacked] = OrderedDict()
        self._lock = Lock()

    def read(self, entry: _Entry) -> bytes:
        if not entry.archive:
            return self._answer_of(_plain(entry.member, (self._folder / entry.member).read_bytes()))
        with self._lock:
            body = self._archive(entry.archive).read(entry.member)
        return self._answer_of(_plain(entry.member, body))

    def members(self, archive: str) -> Iterator[tuple[str, bytes]]:
        with self._lock:
            unpacked = self._archive(archive)
            for member in unpacked.names:
                yield member, _plain(member, unpacked.read(member))

    def close(self) -> None:
        while self._unpacked:
            self._unpacked.popitem()[1].close()

    def _archive(self, name: str) -> _Unpacked:
        if name not in self._unpacked:
            self._unpacked[name] = _Unpacked(self._folder / name)
            while len(self._unpacked) > ARCHIVES_KEPT:
                self._unpacked.popitem(last=False)[1].close()
        self._unpacked.move_to_end(name)
        return self._unpacked[name]


class _Unpacked:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives until its archive is no longer needed
        self._where: dict[str, tuple[int, int]] = {}
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                if content is None:
                    continue
                begin = self._file.tell()
                shutil.copyfileobj(content, self._file, COPY_BYTES)
                self._where[member.name.removeprefix("./")] = (begin, self._file.tell() - begin)

    @property
    def names(self) -> list[str]:
        return list(self._where)

    def read(self, member: str) -> bytes:
        if member not in self._where:
            raise UnreadableRecordingError(f"{self._path} holds no {member}")
        begin, length = self._where[member]
        self._file.seek(begin)
        return self._file.read(length)

    def close(self) -> None:
        self._file.close()
