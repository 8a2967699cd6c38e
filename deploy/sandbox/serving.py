"""How the evening is served: by the services' own answers, from the moment it is there, and its stream at a pace."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from stratum.common.v1.error_reason_pb2 import ErrorReason
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_exponential

from deploy.sandbox.evening import Evening
from deploy.sandbox.filling import fill
from services.shared import contracts
from services.shared.database import Database
from services.shared.errors import PermissionDenied, Unavailable
from services.shared.logging import logger
from services.signals.cursor import Cursor
from services.signals.feed import Feed, FeedLimits, Item, More
from services.signals.store import Filters, SignalStore

log = logger(__name__)

#: So often is tried what fails because the database is being started, or filled by another process; then we end.
ATTEMPTS = 10
LONGEST_PAUSE_SECONDS = 5.0
#: So many times in a filling its progress is told.
TOLD = 5


class NotPreparedError(Exception):
    """The evening is not there yet; the message says how far it is."""


class Recorded:
    """The recorded evening in its database, and whether it is there yet."""

    def __init__(self, database: Database, evening: Evening) -> None:
        self._database = database
        self._evening = evening
        self._missing = "the recorded evening is being prepared"

    async def prepare(self) -> None:
        """Returns when the evening is there. Raises the database's error when it cannot be brought there."""
        attempts = AsyncRetrying(
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_exponential(max=LONGEST_PAUSE_SECONDS),
            retry=retry_if_exception_type((SQLAlchemyError, OSError)),
            before_sleep=_log_retry,
            reraise=True,
        )
        await attempts(self._prepare)
        self._missing = ""

    async def check(self) -> None:
        """Returns when the evening may be asked for, and raises NotPreparedError while it may not."""
        if self._missing:
            raise NotPreparedError(self._missing)

    async def _prepare(self) -> None:
        began = time.process_time()
        if await fill(self._database, self._evening, self._tell):
            took = round(time.process_time() - began, 1)
            log.info("prepared the recorded evening", evening=self._evening.name, processor_seconds=took)
        else:
            log.info("the recorded evening is there", evening=self._evening.name)

    def _tell(self, done: int, of: int) -> None:
        share = done / of
        self._missing = f"the recorded evening is being prepared: {share:.0%} is done; repeat the call in a few seconds"
        if done * TOLD // of != (done - 1) * TOLD // of:
            log.info("preparing the recorded evening", share=round(share, 2))


def _log_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.warning("the recorded evening could not be prepared, trying again", error=type(error).__name__)


class Prepared:
    """A service's answers, once the evening is there; until then UNAVAILABLE says that it is being prepared.

    Only what partners can call over HTTP is answered. Nothing else reads, and nothing may change the evening.
    """

    def __init__(self, service: str, api: object, recorded: Recorded) -> None:
        """`service` is its full name, such as stratum.signals.v1.SignalsService."""
        self._service = service
        self._api = api
        self._recorded = recorded

    def __getattr__(self, method: str) -> Any:
        behaviour = getattr(self._api, method)
        is_public = bool(contracts.by_full_name()[f"{self._service}/{method}"].verb)

        async def answer(request: Any, context: Any) -> Any:
            await self._let_in(is_public)
            return await behaviour(request, context)

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            await self._let_in(is_public)
            async for item in behaviour(request, context):
                yield item

        return stream if inspect.isasyncgenfunction(behaviour) else answer

    async def _let_in(self, is_public: bool) -> None:
        if not is_public:
            raise PermissionDenied(ErrorReason.TEST_KEY, "a recorded evening is read as over HTTP")
        try:
            await self._recorded.check()
        except NotPreparedError as missing:
            raise Unavailable(ErrorReason.UNAVAILABLE, str(missing)) from missing


class PacedFeed(Feed):
    """The evening's feed. Nothing comes any more, so a stream without a cursor begins with the evening.

    It gives one signal after another at a pace at which somebody can watch his client work. With a cursor it gives what
    is behind it at once, as the live feed does.
    """

    def __init__(self, store: SignalStore, limits: FeedLimits, signal_seconds: float) -> None:
        super().__init__(store, limits)
        self._signal_seconds = signal_seconds

    async def follow(
        self,
        filters: Filters,
        *,
        full: bool,
        after: Cursor | None,
        refusal: Callable[[], str | None] = lambda: None,
    ) -> AsyncIterator[Item]:
        """Every signal once, in order, then heartbeats."""
        paced = after is None
        if after is None:
            feed = await self._store.feed_state()
            after = Cursor(feed.epoch, feed.trimmed_position)
        async for item in super().follow(filters, full=full, after=after, refusal=refusal):
            if not paced or not isinstance(item, More):
                yield item
                continue
            for payload in item.payloads:
                if self._draining:
                    break  # what is left is behind the last cursor that was given
                yield More([payload])
                await asyncio.sleep(self._signal_seconds)
