"""The bus between the services: NATS JetStream, read in order from a position of our own, written in atomic batches.

Nothing here promises exactly-once. A publisher repeats until it has an acknowledgement; a reader may see a message
twice and knows it by its event's revision. Every wait has a deadline, and every failure is a `BusError`.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Self
from uuid import uuid4

import aiohttp
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
    StreamInfo,
    SubjectTransform,
)

from services.shared import metrics
from services.shared.config import PARTITIONS, ServiceConfig
from services.shared.logging import logger
from services.shared.tasks import end_tasks
from services.shared.tracing import TRACEPARENT

log = logger(__name__)

ALL_PARTITIONS = tuple(range(PARTITIONS))
#: What the broker accepts in one atomic batch is 1000; half of it keeps a batch's fsync short.
ATOMIC_BATCH = 500
#: How the broker says that a stream ends elsewhere than expected.
_WRONG_LAST_SEQUENCE = 10071
_PULL_EXPIRES_SECONDS = 20.0
_HEARTBEAT_SECONDS = 1.0
#: Three heartbeats missed: the consumer or the server is gone.
_SILENCE_SECONDS = 3.5
#: How often it is looked whether the broker is connected, by who waits for it.
_LOOK_SECONDS = 0.1
_WAITING_AT_MOST = 10_000
_FNV_OFFSET, _FNV_PRIME = 2166136261, 16777619
_FORBIDDEN_IN_TOKEN = frozenset(".*> \t\r\n")


class BusError(Exception):
    """The bus did not do what was asked, in time. Trying again later may help."""


class StreamMovedError(BusError):
    """The stream does not end where the publisher thought: somebody else publishes too, or it is another stream."""


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """A stream of the pipeline: messages of events, kept by size and age, in 16 partitions by event."""

    #: OBSERVATIONS; its subjects are `observations.<event_id>`, stored as `observations.<partition>.<event_id>`.
    name: str
    #: A full stream refuses new messages: the producer's outbox keeps them.
    max_bytes: int = 4 * 1024**3
    max_age_seconds: float = 7 * 86_400.0
    #: How long the broker itself recognises a repeated message id. A convenience: correctness rests on revisions.
    duplicate_window_seconds: float = 120.0
    #: Its reader makes room in it, so its limit may be lowered; without one it would only be full the sooner.
    has_reader: bool = True

    @property
    def root(self) -> str:
        """The first word of its subjects."""
        return self.name.lower()

    def subject(self, event_id: str) -> str:
        """Where a message of an event is published."""
        return f"{self.root}.{event_id}"

    def configuration(self) -> StreamConfig:
        """As the broker wants it."""
        return StreamConfig(
            name=self.name,
            subjects=[f"{self.root}.*"],
            subject_transform=SubjectTransform(
                src=f"{self.root}.*", dest=f"{self.root}.{{{{partition({PARTITIONS},1)}}}}.{{{{wildcard(1)}}}}"
            ),
            retention=RetentionPolicy.LIMITS,
            discard=DiscardPolicy.NEW,
            storage=StorageType.FILE,
            max_bytes=self.max_bytes,
            max_age=self.max_age_seconds,
            duplicate_window=self.duplicate_window_seconds,
            allow_atomic=True,
            allow_direct=True,
        )


OBSERVATIONS = StreamSpec("OBSERVATIONS")
MARKETS = StreamSpec("MARKETS")
SIGNALS = StreamSpec("SIGNALS", max_bytes=1024**3, max_age_seconds=30 * 86_400.0, has_reader=False)
#: What billing says of accounts, under the account's id in an event's place.
ACCOUNTS = StreamSpec("ACCOUNTS", max_bytes=256 * 1024**2, max_age_seconds=30 * 86_400.0, has_reader=False)


@dataclass(frozen=True, slots=True)
class StreamState:
    """Which stream this is, and what it holds. A stream that was created again has another identity."""

    identity: str
    first_sequence: int
    last_sequence: int
    #: How much of what it may hold it holds.
    filled: float = 0.0


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to be published. `message_id` is unique for ever, such as `<event_id>:<revision>`."""

    event_id: str
    message_id: str
    payload: bytes
    #: Of the trace that it is part of, where that is followed.
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as it was read: where it stands in the stream, whose it is, and what it says."""

    sequence: int
    partition: int
    event_id: str
    payload: bytes
    #: Of the trace that it is part of, where that is followed.
    traceparent: str | None = None


def is_token(event_id: str) -> bool:
    """Whether an event's id can be one word of a subject. One that cannot must be refused at the edge."""
    return bool(event_id) and event_id.isprintable() and not _FORBIDDEN_IN_TOKEN.intersection(event_id)


def partition_of(event_id: str) -> int:
    """The partition the broker puts an event in: FNV-1a, 32 bits, over the id's bytes, modulo 16."""
    digest = _FNV_OFFSET
    for byte in event_id.encode():
        digest = ((digest ^ byte) * _FNV_PRIME) & 0xFFFFFFFF
    return digest % PARTITIONS


class Bus:
    """A connection to the broker. Reconnects by itself; readers break off when it is lost, and are made anew."""

    def __init__(self, client: Client, monitor_url: str, timeout_seconds: float, stream_max_bytes: int = 0) -> None:
        """`stream_max_bytes` above 0 lowers the limit of every stream that has a reader to it."""
        self._client = client
        self._stream_max_bytes = stream_max_bytes
        self._manager = client.jsm(timeout=timeout_seconds)
        self._monitor_url = monitor_url
        self._timeout = timeout_seconds
        self._readers: set[Reader] = set()

    @property
    def spoken(self) -> Spoken:
        """The same connection, for what is heard now or never."""
        return Spoken(self._client)

    async def ensure_stream(self, spec: StreamSpec) -> StreamState:
        """Makes the stream, or brings its limits up to date; the messages in it stay."""
        if self._stream_max_bytes and spec.has_reader:
            spec = replace(spec, max_bytes=min(spec.max_bytes, self._stream_max_bytes))
        try:
            return _state(await self._manager.add_stream(spec.configuration()))
        except nats.js.errors.BadRequestError:
            # It is there with other limits.
            try:
                return _state(await self._manager.update_stream(spec.configuration()))
            except nats.errors.Error as error:
                raise BusError(f"the stream {spec.name} cannot be changed: {error}") from error
        except nats.errors.Error as error:
            raise BusError(f"the stream {spec.name} cannot be made: {error}") from error

    async def stream_state(self, spec: StreamSpec) -> StreamState:
        """Identity and extent of a stream."""
        try:
            return _state(await self._manager.stream_info(spec.name))
        except nats.errors.Error as error:
            raise BusError(f"the stream {spec.name} does not answer: {error}") from error

    async def delete_stream(self, spec: StreamSpec) -> None:
        """Removes a stream and everything in it; one that is not there is fine."""
        try:
            with suppress(nats.js.errors.NotFoundError):
                await self._manager.delete_stream(spec.name)
        except nats.errors.Error as error:
            raise BusError(f"the stream {spec.name} cannot be deleted: {error}") from error

    async def remove_read(self, spec: StreamSpec, through: int, partition: int | None = None) -> None:
        """Removes the messages up to a sequence, of one partition or of all, to make room."""
        subject = None if partition is None else f"{spec.root}.{partition}.*"
        try:
            await self._manager.purge_stream(spec.name, seq=through + 1, subject=subject)
        except nats.errors.Error as error:
            raise BusError(f"the stream {spec.name} cannot be cleared: {error}") from error

    async def last_sequence(self, spec: StreamSpec, partition: int) -> int:
        """The sequence of a partition's newest message; 0 when it holds none."""
        try:
            message = await self._manager.get_msg(spec.name, subject=f"{spec.root}.{partition}.*")
        except nats.js.errors.NotFoundError:
            return 0
        except nats.errors.Error as error:
            raise BusError(f"the stream {spec.name} does not answer: {error}") from error
        return message.seq or 0

    async def publish(self, spec: StreamSpec, messages: Sequence[Outgoing], expected_last: int | None = None) -> int:
        """Stores the messages in order and returns when the broker has them all on disk: the sequence of the last.

        Each slice of 500 is stored whole or not at all. When the broker refuses a slice, because it knows one of its
        messages already or because it is full, its messages go singly, so that the known ones are recognised one by
        one and the first that cannot be stored ends the call with BusError: nothing behind it has been sent.

        With `expected_last` nothing is stored unless the stream ends there, and each message behind the one before:
        StreamMovedError says that it does not.
        """
        last = 0
        for start in range(0, len(messages), ATOMIC_BATCH):
            batch = messages[start : start + ATOMIC_BATCH]
            stored = await self._publish_batch(spec, batch, expected_last) if len(batch) > 1 else None
            if stored is None:
                stored = await self._publish_singly(spec, batch, expected_last)
            last = max(last, stored)
            expected_last = None if expected_last is None else max(expected_last, stored)
            metrics.outbox_published.labels(spec.name).inc(len(batch))
        return last

    async def _publish_batch(
        self, spec: StreamSpec, batch: Sequence[Outgoing], expected_last: int | None
    ) -> int | None:
        """The sequence of the last; None when the broker refuses the batch."""
        identity = uuid4().hex
        *others, last = enumerate(batch, start=1)
        for number, message in others:
            expected = _expecting(expected_last) if number == 1 else {}
            await self._send(spec, message, {"Nats-Batch-Id": identity, "Nats-Batch-Sequence": str(number), **expected})
        number, message = last
        acknowledgement = await self._ask(
            spec,
            message,
            {"Nats-Batch-Id": identity, "Nats-Batch-Sequence": str(number), "Nats-Batch-Commit": "1"},
        )
        refusal = acknowledgement.get("error")
        if refusal:
            log.info("batch refused, sending singly", stream=spec.name, messages=len(batch), refusal=refusal)
            return None
        return int(acknowledgement.get("seq", 0))

    async def _publish_singly(self, spec: StreamSpec, batch: Sequence[Outgoing], expected_last: int | None) -> int:
        last = 0
        for message in batch:
            acknowledgement = await self._ask(spec, message, _expecting(expected_last))
            refusal = acknowledgement.get("error")
            if refusal:
                kind = StreamMovedError if refusal.get("err_code") == _WRONG_LAST_SEQUENCE else BusError
                raise kind(f"{spec.name} does not take {message.message_id}: {refusal.get('description', refusal)}")
            last = max(last, int(acknowledgement.get("seq", 0)))
            if acknowledgement.get("duplicate"):
                metrics.outbox_repeated.labels(spec.name).inc()
            elif expected_last is not None:
                expected_last = last
        return last

    def _headers(self, spec: StreamSpec, message: Outgoing, batch: dict[str, str]) -> dict[str, str]:
        headers = {"Nats-Msg-Id": message.message_id, "Nats-Expected-Stream": spec.name, **batch}
        if message.traceparent is not None:
            headers[TRACEPARENT] = message.traceparent
        return headers

    async def _send(self, spec: StreamSpec, message: Outgoing, batch: dict[str, str]) -> None:
        if not self._client.is_connected:
            # The client would keep it and send it after reconnecting, when we no longer wait for it.
            raise BusError("the broker is not connected")
        try:
            await self._client.publish(
                spec.subject(message.event_id), message.payload, headers=self._headers(spec, message, batch)
            )
        except nats.errors.Error as error:
            raise BusError(f"{message.message_id} could not be sent: {error}") from error

    async def _ask(self, spec: StreamSpec, message: Outgoing, batch: dict[str, str]) -> dict[str, Any]:
        if not self._client.is_connected:
            raise BusError("the broker is not connected")
        try:
            answer = await self._client.request(
                spec.subject(message.event_id),
                message.payload,
                timeout=self._timeout,
                headers=self._headers(spec, message, batch),
            )
        except nats.errors.Error as error:
            raise BusError(f"{message.message_id} was not acknowledged: {error or type(error).__name__}") from error
        acknowledgement: dict[str, Any] = json.loads(answer.data)
        return acknowledgement

    @asynccontextmanager
    async def read(
        self, spec: StreamSpec, after: int, partitions: Sequence[int] = ALL_PARTITIONS, window: int = 1000
    ) -> AsyncIterator[Reader]:
        """Reads the partitions in the stream's order, beginning behind a sequence; `window` bounds what is in memory.

        The broker keeps no position for it: the consumer is made for this block and forgotten with it.
        """
        reader = Reader(self._client, spec, window)
        everything = set(partitions) == set(ALL_PARTITIONS)
        consumer = ConsumerConfig(
            name=reader.consumer,
            ack_policy=AckPolicy.NONE,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=after + 1,
            filter_subjects=None if everything else [f"{spec.root}.{partition}.*" for partition in partitions],
            inactive_threshold=60.0,
            mem_storage=True,
            num_replicas=1,
        )
        self._readers.add(reader)
        try:
            await reader.open()
            try:
                await self._manager.add_consumer(spec.name, consumer)
            except nats.errors.Error as error:
                raise BusError(f"{spec.name} cannot be read: {error}") from error
            yield reader
        finally:
            self._readers.discard(reader)
            await reader.close()
            if self._client.is_connected:
                with suppress(nats.errors.Error):
                    await self._manager.delete_consumer(spec.name, reader.consumer)

    def lost(self) -> None:
        """Called when the connection is gone: pull requests died with it, so every reader breaks off."""
        for reader in self._readers:
            reader.break_off("the connection to the broker was lost")

    async def check_connected(self) -> None:
        """Returns when the broker is connected; raises BusError when it is not. For readiness."""
        if not self._client.is_connected:
            raise BusError("the broker is not connected")

    async def check_syncs_writes(self) -> None:
        """Returns when JetStream syncs every write before it acknowledges; raises BusError when it does not.

        Without `sync_interval: always` a power failure takes acknowledged messages with it, so nothing is ready.
        """
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._timeout)) as session,
                session.get(f"{self._monitor_url}/varz") as answer,
            ):
                variables = await answer.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise BusError(f"the broker's monitor does not answer: {type(error).__name__}") from error
        configuration = (variables.get("jetstream") or {}).get("config") or {}
        if configuration.get("sync_always") is not True:
            raise BusError("JetStream does not sync its writes: set sync_interval: always")


class Spoken:
    """What is said on the bus and kept nowhere: whoever listens now hears it, and nobody else ever will.

    Good for waking somebody up, and for what is said again soon. A stream's subjects are heard like any other: who
    listens to `accounts.>` hears what is published to ACCOUNTS, as it is published.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def is_connected(self) -> bool:
        """Whether the broker is connected now. What is said while it is not is lost."""
        return self._client.is_connected

    async def connected(self) -> None:
        """Returns when the broker is connected."""
        while not self._client.is_connected:  # noqa: ASYNC110 - the client tells it only to whoever opened it
            await asyncio.sleep(_LOOK_SECONDS)

    @asynccontextmanager
    async def hearing(self, subject: str, heard: Callable[[Msg], Awaitable[None]]) -> AsyncIterator[None]:
        """Calls `heard` with each message of a subject, one after the other, within the block; `*` and `>` are
        wildcards. Begins when the broker is connected, and goes on by itself when it is back after an absence.

        Beyond 10,000 messages that wait to be heard, new ones are dropped.
        """
        await self.connected()
        try:
            subscription = await self._client.subscribe(subject, cb=heard, pending_msgs_limit=_WAITING_AT_MOST)
        except nats.errors.Error as error:
            raise BusError(f"{subject} cannot be heard: {error}") from error
        try:
            yield
        finally:
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def say(self, subject: str, payload: bytes) -> None:
        """Says something once. Raises BusError where it is known that nobody can hear it."""
        if not self._client.is_connected:
            # The client would keep it and send it later, when it is no longer true.
            raise BusError("the broker is not connected")
        try:
            await self._client.publish(subject, payload)
        except nats.errors.Error as error:
            raise BusError(f"{subject} could not be said: {error}") from error

    async def ask(self, subject: str, payload: bytes, deadline_seconds: float) -> bytes:
        """The first answer to a question. Raises BusError when there is none in time, at once where nobody listens."""
        if not self._client.is_connected:
            raise BusError("the broker is not connected")
        try:
            answer = await self._client.request(subject, payload, timeout=deadline_seconds)
        except nats.errors.Error as error:
            raise BusError(f"{subject} is not answered: {error or type(error).__name__}") from error
        return answer.data


class Reader:
    """Messages of a stream in order, fetched ahead of need and never more than the window."""

    def __init__(self, client: Client, spec: StreamSpec, window: int) -> None:
        self.consumer = f"reader-{uuid4().hex}"
        self.pending = 0  #: Messages behind the last one delivered to us, as the broker counted then.
        self._client = client
        self._spec = spec
        self._window = window
        self._inbox = client.new_inbox()
        self._waiting: deque[Delivery] = deque()
        self._arrived = asyncio.Event()
        self._asked = 0
        self._delivered = 0
        self._failure: str | None = None
        self._heard_at = 0.0
        self._subscription: Any = None

    async def open(self) -> Self:
        """Begins to listen; messages come when the consumer exists and `next_batch` has asked for them."""
        try:
            self._subscription = await self._client.subscribe(self._inbox, cb=self._take)
        except nats.errors.Error as error:
            raise BusError(f"{self._spec.name} cannot be read: {error}") from error
        return self

    async def close(self) -> None:
        """Stops listening."""
        if self._subscription is not None:
            with suppress(nats.errors.Error):
                await self._subscription.unsubscribe()

    def break_off(self, reason: str) -> None:
        """Makes the present and every later `next_batch` fail."""
        self._failure = self._failure or reason
        self._arrived.set()

    @property
    def buffered(self) -> int:
        """Messages that have arrived and were not taken yet."""
        return len(self._waiting)

    async def next_batch(self, limit: int, wait_seconds: float) -> list[Delivery]:
        """Up to `limit` messages: what has arrived, or else the first that arrives within the time; empty after it.

        Raises BusError when a message was lost on the way, when the consumer is gone, or when the broker is silent.
        """
        deadline = asyncio.get_running_loop().time() + wait_seconds
        await self._ask_for_more()
        while not self._waiting and self._failure is None:
            self._arrived.clear()
            remaining = deadline - asyncio.get_running_loop().time()
            if remaining <= 0:
                return []
            try:
                async with asyncio.timeout(min(remaining, _HEARTBEAT_SECONDS)):
                    await self._arrived.wait()
            except TimeoutError:
                if asyncio.get_running_loop().time() - self._heard_at > _SILENCE_SECONDS:
                    self.break_off("the broker is silent")
            await self._ask_for_more()
        if self._failure is not None:
            raise BusError(f"reading {self._spec.name} ended: {self._failure}")
        return [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]

    async def _ask_for_more(self) -> None:
        room = self._window - self._asked - len(self._waiting)
        if self._failure is not None or room < max(1, self._window // 2):
            return
        if not self._asked:
            # Nobody owes us a heartbeat while nothing is asked for.
            self._heard_at = asyncio.get_running_loop().time()
        request = {
            "batch": room,
            "expires": int(_PULL_EXPIRES_SECONDS * 1e9),
            "idle_heartbeat": int(_HEARTBEAT_SECONDS * 1e9),
        }
        self._asked += room
        try:
            await self._client.publish(
                f"$JS.API.CONSUMER.MSG.NEXT.{self._spec.name}.{self.consumer}",
                json.dumps(request).encode(),
                reply=self._inbox,
            )
        except nats.errors.Error as error:
            self.break_off(f"the request for messages failed: {error}")

    async def _take(self, message: Msg) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        status = (message.headers or {}).get("Status") if not message.data else None
        if status is not None:
            self._take_status(status, message.headers or {})
            return
        metadata = message.metadata
        self._delivered += 1
        if metadata.sequence.consumer != self._delivered:
            self.break_off("a message was lost between the broker and us")
            return
        self._asked -= 1
        self.pending = metadata.num_pending
        _, partition, event_id = message.subject.split(".", 2)
        followed = message.headers.get(TRACEPARENT) if message.headers else None
        self._waiting.append(Delivery(metadata.sequence.stream, int(partition), event_id, message.data, followed))
        self._arrived.set()

    def _take_status(self, status: str, headers: dict[str, str]) -> None:
        if status == "100":
            return  # a heartbeat: heard, and that is all it is for
        if status == "408":
            # The request ran out of time; it says how many of its messages will not come.
            self._asked -= int(headers.get("Nats-Pending-Messages", "0"))
            self._arrived.set()
            return
        self.break_off(headers.get("Description", f"status {status}"))


def _expecting(last: int | None) -> dict[str, str]:
    return {} if last is None else {"Nats-Expected-Last-Sequence": str(last)}


def _state(info: StreamInfo) -> StreamState:
    assert info.created is not None
    limit = info.config.max_bytes or 0
    return StreamState(
        info.created.isoformat(),
        info.state.first_seq,
        info.state.last_seq,
        info.state.bytes / limit if limit > 0 else 0.0,
    )


@asynccontextmanager
async def open_bus(config: ServiceConfig) -> AsyncIterator[Bus]:
    """The bus of the settings; closed at the end of the block. Waits up to a minute for a broker that starts later."""
    client = Client()
    bus: Bus | None = None

    async def lost() -> None:
        if not client.is_closed:  # it never gives up by itself: closed means that the block ended
            log.warning("the broker is gone")
        if bus is not None:
            bus.lost()

    try:
        async with asyncio.timeout(60.0):
            await _connect(client, config, lost)
    except TimeoutError:
        raise BusError("the broker cannot be reached") from None
    bus = Bus(client, config.nats_monitor_url, config.nats_timeout_seconds, config.nats_stream_max_bytes)
    try:
        yield bus
    finally:
        await _close(client, config)


@asynccontextmanager
async def open_spoken(config: ServiceConfig) -> AsyncIterator[Spoken]:
    """The same for whoever gets on without a broker: waits for none, and is connected as soon as there is one."""
    client = Client()

    async def lost() -> None:
        if not client.is_closed:
            log.warning("the broker is gone")

    connecting = asyncio.create_task(_connect(client, config, lost))
    try:
        yield Spoken(client)
    finally:
        await end_tasks([connecting])
        await _close(client, config)


async def _connect(client: Client, config: ServiceConfig, lost: Callable[[], Awaitable[None]]) -> None:
    told = ""

    async def found() -> None:
        nonlocal told
        told = ""
        log.info("the broker is back")

    async def failed(error: Exception) -> None:
        nonlocal told
        said = str(error) or type(error).__name__
        if said != told:  # it reports every attempt, four a second
            log.warning("the broker's client reports", error=said)
        told = said

    await client.connect(
        servers=[config.nats_url],
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.25,  # type: ignore[arg-type]  # the client sleeps this long; fractions are fine
        ping_interval=5,
        disconnected_cb=lost,
        reconnected_cb=found,
        error_cb=failed,
    )


async def _close(client: Client, config: ServiceConfig) -> None:
    with suppress(nats.errors.Error, TimeoutError):
        async with asyncio.timeout(config.nats_timeout_seconds):
            await client.close()
