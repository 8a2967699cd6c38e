"""From the last byte of the provider's answer to a signal on the stream and in the feed.

The stand-in notes when it had written an answer's last byte; whoever listens notes when a signal of that answer came,
by the same clock on the same machine. An answer carries a time of its own, by which its signals are known: the market's
time runs as fast as the answers follow one another. News moves a third of the games by a point or two at most books,
and the rest of the books follow at the next answer, so that every rule has something to say.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
from google.protobuf.timestamp_pb2 import Timestamp
from stratum.signals.v1 import signals_service_pb2 as proto
from stratum.signals.v1.signals_service_pb2_grpc import SignalsServiceStub

from deploy import watch
from services.shared import client
from services.shared.bus import Outgoing, StreamSpec
from services.shared.clock import utc_now
from tests.bench.board import Board, Pattern, Response
from tests.bench.figures import Figure
from tests.bench.pipeline import AS_FAST_AS_IT_GOES, CADENCE_SECONDS, Pipeline

CADENCE = timedelta(seconds=CADENCE_SECONDS)
WAVES = 10
SLATE = 15
#: Answers about the slate, a second apart.
SHOTS = 60
SHOT_SECONDS = 1.0
#: Sixty seconds of the market's time to one of ours: an answer a second.
ONE_A_SECOND: Mapping[str, str] = {**AS_FAST_AS_IT_GOES, "ODDS_API_CLOCK_RATE": f"{CADENCE_SECONDS / SHOT_SECONDS:g}"}
#: The feed is asked again this long after it has answered, and so much more seldom under load.
ASK_SECONDS, ASK_LOADED_SECONDS = 0.005, 0.1
#: Signals that the stream has brought are in the feed; waiting longer for them means that something is broken.
FEED_DEADLINE_SECONDS = 30.0
LEADERS = range(14)
FOLLOWERS = range(14, 20)
GROUPS = 3

SSE, WATCH = "stream, Server-Sent Events through the gateway", "stream, gRPC"
REST, LIST = "feed, REST through the gateway", "feed, gRPC"


@dataclass(slots=True)
class Arrivals:
    """When each signal was first seen, by way and id, and of which answer it is."""

    seen_at: dict[str, dict[str, float]] = field(default_factory=lambda: {way: {} for way in (SSE, WATCH, REST, LIST)})
    answer_of: dict[str, datetime] = field(default_factory=dict)

    def note(self, way: str, signal_id: str, observed_at: datetime) -> None:
        """The signal came this way, now; only the first time counts."""
        self.seen_at[way].setdefault(signal_id, time.monotonic())
        self.answer_of[signal_id] = observed_at

    def of(self, way: str, observed_at: datetime) -> set[str]:
        """The ids that came this way and are of this answer."""
        return {signal_id for signal_id in self.seen_at[way] if self.answer_of[signal_id] == observed_at}

    def figures(self, written_at: Mapping[datetime, float], what: str, hops: Sequence[float]) -> list[Figure]:
        """Milliseconds from an answer's last byte, by way, beside the same share of the bare hops' milliseconds."""
        figures = []
        for way, seen in self.seen_at.items():
            delays = sorted(
                (at - written_at[self.answer_of[signal_id]]) * 1000.0
                for signal_id, at in seen.items()
                if self.answer_of[signal_id] in written_at
            )
            for name, share in (("p50", 0.5), ("p99", 0.99), ("maximum", 1.0)) if delays else ():
                figures.append(
                    Figure(
                        f"{what}: {way}: {name} of {len(delays):,} signals",
                        _quantile(delays, share),
                        "ms",
                        _quantile(sorted(hops), share),
                        f"{name} of three commits and three publishings with nothing between",
                    )
                )
        return figures


def _quantile(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))]


class BareHops:
    """What must happen at the very least: a commit and an acknowledged message for each of the three stages."""

    STREAM = StreamSpec("HOPS")

    def __init__(self, pipeline: Pipeline) -> None:
        self.milliseconds: list[float] = []
        self._pipeline = pipeline

    async def prepare(self) -> None:
        """A table and a stream of our own."""
        await self._pipeline.connection.execute("CREATE TABLE public.hops (at timestamptz NOT NULL)")
        await self._pipeline.bus.ensure_stream(self.STREAM)

    async def once(self) -> None:
        """Measures one passage."""
        began = time.monotonic()
        for hop in ("ingest", "consensus", "signals"):
            await self._pipeline.connection.execute("INSERT INTO public.hops VALUES (clock_timestamp())")
            message = Outgoing("hop", f"{hop}:{len(self.milliseconds)}", b"as good as nothing")
            await self._pipeline.bus.publish(self.STREAM, [message])
        self.milliseconds.append((time.monotonic() - began) * 1000.0)


async def measure(
    folder: Path, events: int, seconds: float, pattern: Pattern, say: Callable[[str], None]
) -> list[Figure]:
    """Delays for a slate of 15 games, and for the same slate within a board of `events` under load."""
    figures = await _slate(folder / "slate", say)
    if events > SLATE:
        figures += await _loaded(folder / "loaded", events, seconds, pattern, say)
    return figures


async def _slate(folder: Path, say: Callable[[str], None]) -> list[Figure]:
    board = Board(SLATE)
    async with Pipeline(folder, ONE_A_SECOND, gateway=True, say=say) as pipeline:
        at = await _opened(pipeline, board, say)
        hops = BareHops(pipeline)
        await hops.prepare()
        async with _Listening(pipeline) as listening:
            for shot in range(SHOTS):
                await hops.once()
                response = board.response(at, _news(board, shot))
                way = (REST, LIST)[shot % 2]
                await listening.shoot(response, way, ASK_SECONDS, lambda: _a_second_or_more(pipeline))
                at += CADENCE
            arrivals = listening.arrivals
        say(f"{len(arrivals.answer_of):,} signals of {SHOTS} answers")
        return arrivals.figures(pipeline.provider.written_at, f"{SLATE} games", hops.milliseconds)


async def _a_second_or_more(pipeline: Pipeline) -> None:
    await asyncio.gather(asyncio.sleep(SHOT_SECONDS), pipeline.drained())


async def _loaded(
    folder: Path, events: int, seconds: float, pattern: Pattern, say: Callable[[str], None]
) -> list[Figure]:
    """One answer after another, each when the one before has come through: as much as goes without a queue."""
    board = Board(events, pattern=pattern)
    async with Pipeline(folder, AS_FAST_AS_IT_GOES, gateway=True, say=say) as pipeline:
        at = await _opened(pipeline, board, say)
        hops = BareHops(pipeline)
        await hops.prepare()
        began, shot = time.monotonic(), 0
        async with _Listening(pipeline) as listening:
            while time.monotonic() - began < seconds or shot < GROUPS:
                changes = board.change() + _news(board, shot)
                await hops.once()
                response = await asyncio.to_thread(board.response, at, changes)
                await listening.shoot(response, (REST, LIST)[shot % 2], ASK_LOADED_SECONDS, pipeline.drained)
                say(f"answer {shot + 1} has come through")
                at += CADENCE
                shot += 1
            arrivals = listening.arrivals
        say(f"{len(arrivals.answer_of):,} signals of {shot} answers")
        return arrivals.figures(pipeline.provider.written_at, f"{events:,} events under load", hops.milliseconds)


async def _opened(pipeline: Pipeline, board: Board, say: Callable[[str], None]) -> datetime:
    at = (utc_now() - timedelta(hours=12)).astimezone(UTC).replace(microsecond=0)
    say(f"{board.quotes:,} quotes of {board.events:,} events: showing them first, uncounted")
    pipeline.give(list(board.opening(at, CADENCE, WAVES)))
    await pipeline.drained()
    say("shown; now the news")
    return at + WAVES * CADENCE


def _news(board: Board, shot: int) -> int:
    """Moves most books of a third of the games, and the rest of those that were left behind."""
    changes = 0
    for group, books in ((shot % GROUPS, LEADERS), ((shot - 1) % GROUPS, FOLLOWERS)):
        if books is FOLLOWERS and not shot:
            continue
        for event in range(group, SLATE, GROUPS):
            changes += board.move(event, "spreads", 1.0, books) + board.move(event, "totals", 2.0, books)
    return changes


class _Listening:
    """Both streams open, and the feed to be asked."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.arrivals = Arrivals()
        self._pipeline = pipeline
        self._gateway = pipeline.stack.gateway_url
        self._key = ""
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> _Listening:
        self._key = (await self._pipeline.stack.make_partner("bench", rate_class="enterprise")).key
        self._session = aiohttp.ClientSession(headers={"Authorization": f"Bearer {self._key}"})
        self._channel = client.channel(
            f"127.0.0.1:{self._pipeline.stack.settings.ports.signals}",
            "bench",
            self._pipeline.stack.home.principal_ring(),
            options=[("grpc.max_receive_message_length", 64 * 1024 * 1024)],
        )
        self._signals = SignalsServiceStub(self._channel)
        opened = asyncio.Event()
        self._tasks = [asyncio.create_task(self._listen_sse()), asyncio.create_task(self._listen_grpc(opened))]
        await opened.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()
        await self._channel.close()

    async def shoot(
        self, response: Response, way: str, pause: float, come_through: Callable[[], Awaitable[object]]
    ) -> None:
        """Gives the answer, and asks the feed for its signals until it has come through and all of the stream's are in.

        Raises TimeoutError when the feed never has what the stream had, and what a listener failed with.
        """
        self._pipeline.give([response])
        coming = asyncio.ensure_future(come_through())
        while not coming.done():
            await self._ask(way, response.at)
            await asyncio.sleep(pause)
        await coming
        async with asyncio.timeout(FEED_DEADLINE_SECONDS):
            while not (
                self.arrivals.of(SSE, response.at)
                == self.arrivals.of(WATCH, response.at)
                == await self._ask(way, response.at)
            ):
                for task in self._tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(pause)

    async def _ask(self, way: str, at: datetime) -> set[str]:
        until = at + timedelta(seconds=1)
        if way == REST:
            ids = await self._ask_rest(at, until)
        else:
            ids = await self._ask_grpc(at, until)
        for signal_id in ids:
            self.arrivals.note(way, signal_id, at)
        return self.arrivals.of(way, at)

    async def _ask_rest(self, at: datetime, until: datetime) -> list[str]:
        query = {"since": at.isoformat(), "until": until.isoformat(), "order_by": "TIME", "page_size": "500"}
        found: list[str] = []
        token = ""
        while True:
            page = {**query, "page_token": token} if token else query
            async with self._session.get(f"{self._gateway}/api/v1/intel/signals", params=page) as answer:
                answer.raise_for_status()
                body = json.loads(await answer.read())
            found += [signal["id"] for signal in body.get("signals", ())]
            token = body.get("next_page_token", "")
            if not token:
                return found

    async def _ask_grpc(self, at: datetime, until: datetime) -> list[str]:
        request = proto.ListSignalsRequest(
            since=_stamp(at), until=_stamp(until), order_by=proto.OrderBy.TIME, page_size=500
        )
        found: list[str] = []
        while True:
            page = await self._signals.ListSignals(request, timeout=30.0)
            found += [signal.id for signal in page.signals]
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return found

    async def _listen_sse(self) -> None:
        async for signal in watch.signals(self._gateway, self._key):
            self.arrivals.note(SSE, signal["id"], datetime.fromisoformat(signal["observed_at"]))

    async def _listen_grpc(self, opened: asyncio.Event) -> None:
        call = self._signals.WatchSignals(proto.WatchSignalsRequest())
        await call.initial_metadata()
        opened.set()
        async for item in call:
            if item.HasField("signal"):
                self.arrivals.note(WATCH, item.signal.id, item.signal.observed_at.ToDatetime(tzinfo=UTC))


def _stamp(at: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp
