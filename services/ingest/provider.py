"""The Odds API, version 4: a typed client that says of every failure what kind it is.

The key travels in the query of every call, so nothing here lets an address out: failures name the path alone, are
raised outside the handler of what caused them, and what the provider says is searched for the key first.

Every attempt that may cost something is reserved in a *ledger* first, and settled with what the answer says it cost; a
call that does not report keeps its forecast. `docs/provider-failures.md` lists what becomes of each kind of failure.

What a body contains is not judged here but in `normalize`: bodies are decoded leniently, by `body`, since a bare `NaN`
is one outcome's fault and not the response's.
"""

from __future__ import annotations

import asyncio
import copy
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, get_origin

import aiohttp
import msgspec
from prometheus_client import Counter, Gauge
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from services.ingest.body import decode, plain
from services.ingest.circuit import Circuit, State
from services.ingest.config import Config
from services.ingest.costs import Endpoint, forecast
from services.ingest.normalize import read_time
from services.shared import tracing
from services.shared.clock import utc_now
from services.shared.logging import MASK, logger

log = logger(__name__)

credits_total = Counter(
    "stratum_ingest_credits_total", "Credits spent, as the provider said or else as forecast.", ["endpoint"]
)
failures_total = Counter(
    "stratum_ingest_provider_failures_total", "Attempts that brought nothing, by kind of failure.", ["kind"]
)
circuit_state = Gauge(
    "stratum_ingest_circuit_state",
    "Is the provider asked? 0: yes. 1: one call finds out. 2: not for a while.",
)
clock_skew_seconds = Gauge(
    "stratum_ingest_clock_skew_seconds", "The provider's clock less ours, by the newest answer, to the second."
)
clock_skews_total = Counter("stratum_ingest_clock_skews_total", "Answers whose clock was too far from ours.")

Value = TypeVar("Value")
Converted = TypeVar("Converted")

#: The provider asks for "a couple of seconds" after EXCEEDED_FREQ_LIMIT.
FREQUENCY_PAUSE_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 30.0


class ProviderFailure(Exception):  # noqa: N818 - kinds are named after what happened, not "…Error"
    """A call that gave nothing to use. `kind` is the word for it in health and metrics."""

    kind: ClassVar[str]
    #: Whether the same call may succeed in a moment.
    passing: ClassVar[bool] = False

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(f"{path}: {detail}")
        self.path = path
        self.detail = detail


class KeyRefused(ProviderFailure):
    """401: the key is missing, wrong or deactivated. Nothing will work until a person changes it."""

    kind = "key_refused"


class OutOfCredits(ProviderFailure):
    """401: the month's credits are spent. Nothing that costs will work before the first of the month."""

    kind = "out_of_credits"


class HistoricalUnavailable(ProviderFailure):
    """401: the plan does not sell the past. The present still works."""

    kind = "historical_unavailable"


class NotFound(ProviderFailure):
    """404: the sport is unknown, or the event is over. The item is to be skipped, not the cycle."""

    kind = "not_found"


class InvalidRequest(ProviderFailure):
    """422 or another refusal: we asked for something that cannot be asked. Repeating it cannot help."""

    kind = "invalid_request"


class InvalidMarkets(InvalidRequest):
    """422: some of the markets cannot be had here. Without them the call may succeed."""

    kind = "invalid_markets"

    def __init__(self, path: str, detail: str, markets: tuple[str, ...]) -> None:
        super().__init__(path, detail)
        self.markets = markets


class RateLimited(ProviderFailure):
    """429: too many calls at once."""

    kind = "rate_limited"
    passing = True


class Unavailable(ProviderFailure):
    """5xx, a time-out or a broken connection: the provider did not answer."""

    kind = "unavailable"
    passing = True


class UnreadableBody(ProviderFailure):
    """The answer is cut off, or is no JSON, or not of the documented shape."""

    kind = "unreadable_body"
    passing = True


class BudgetExhausted(ProviderFailure):
    """The budget has no credits for this call, so it was not made. `limit` says which budget."""

    kind = "budget_exhausted"

    def __init__(self, path: str, limit: str) -> None:
        super().__init__(path, f"not asked: {limit} has no credits for it")
        self.limit = limit


class CircuitOpen(ProviderFailure):
    """The provider failed too often: it was not asked, and will not be for some seconds."""

    kind = "circuit_open"

    def __init__(self, path: str, seconds_left: float) -> None:
        super().__init__(path, f"not asked: the provider keeps failing; next try in {seconds_left:.0f} s")
        self.seconds_left = seconds_left


@dataclass(frozen=True, slots=True)
class Quota:
    """What the provider says about credits. None is unknown, never zero; `remaining` may be negative."""

    remaining: int | None = None
    used: int | None = None
    #: What this call cost.
    last: int | None = None


@dataclass(frozen=True, slots=True)
class Answer(Generic[Value]):
    """A successful call."""

    value: Value
    quota: Quota
    #: When the answer arrived, by our clock.
    received_at: datetime
    #: The provider's own time of the answer, from its Date header; to the second.
    dated: datetime | None
    #: The markets that were asked for in the end: those given, without those that the provider refused.
    markets: tuple[str, ...] = ()


class Sport(msgspec.Struct, frozen=True):
    """A sport or league."""

    key: str
    group: str
    title: str
    description: str
    active: bool
    has_outrights: bool


class Event(msgspec.Struct, frozen=True):
    """An event without odds."""

    id: str
    sport_key: str
    commence_time: datetime
    home_team: str | None = None
    away_team: str | None = None
    sport_title: str = ""
    home_rotation: int | None = None
    away_rotation: int | None = None


class TeamScore(msgspec.Struct, frozen=True):
    """One side's score; the provider sends it as text."""

    name: str
    score: str


class Score(msgspec.Struct, frozen=True):
    """An event's score, while it is played or after."""

    id: str
    sport_key: str
    commence_time: datetime
    completed: bool
    home_team: str | None = None
    away_team: str | None = None
    scores: tuple[TeamScore, ...] | None = None
    last_update: datetime | None = None


class ListedMarket(msgspec.Struct, frozen=True):
    """A market that a book was recently seen to offer."""

    key: str
    last_update: datetime | None = None


class ListedBook(msgspec.Struct, frozen=True):
    """A book and what it offers on an event."""

    key: str
    title: str = ""
    markets: tuple[ListedMarket, ...] = ()


class EventMarkets(msgspec.Struct, frozen=True):
    """Which markets an event has, at which books."""

    id: str
    sport_key: str
    commence_time: datetime
    bookmakers: tuple[ListedBook, ...] = ()


@dataclass(frozen=True, slots=True)
class Page(Generic[Value]):
    """The state at one time of the past, and where its neighbours are. Walk by these times; never compute them."""

    timestamp: datetime | None
    previous_timestamp: datetime | None
    next_timestamp: datetime | None
    data: Value


@dataclass(frozen=True, slots=True)
class Asked:
    """A call that may cost something: what it is, and the most that one attempt costs."""

    endpoint: Endpoint
    path: str
    credits: int = 0

    @property
    def sport_key(self) -> str:
        """The sport it is about; empty for the list of sports."""
        return self.path.partition("/sports/")[2].partition("/")[0]


class Ledger(Protocol):
    """Where credits are reserved before an attempt and settled after it."""

    async def reserve(self, asked: Asked, attempt: int) -> int | None:
        """The reservation's number, committed, or None where none is needed. Raises BudgetExhausted."""

    async def settle(self, reservation: int | None, quota: Quota) -> None:
        """What the provider said about an attempt, or a quota that says nothing where it did not report."""


class NoLedger:
    """For a provider that costs nothing."""

    async def reserve(self, asked: Asked, attempt: int) -> int | None:  # noqa: ARG002 - the protocol's
        """Nothing has to be reserved."""
        return None

    async def settle(self, reservation: int | None, quota: Quota) -> None:
        """Nothing was."""


class _Line:
    """What a process learnt about the provider, whoever asks."""

    def __init__(self) -> None:
        self.circuit = Circuit()
        #: A call is under way that will show whether the provider is back.
        self.probing = False
        #: Markets that an endpoint refused: asking again would fail again.
        self.refused: dict[str, set[str]] = {}
        #: The refusal of the past, if it came: the plan does not change while we run.
        self.no_past: HistoricalUnavailable | None = None
        #: When the next call may go out, by the loop's clock.
        self.free_at = 0.0
        #: The most that a call of an endpoint cost beyond its forecast.
        self.surprises: dict[Endpoint, int] = {}
        self.skewed = False


class OddsApi:
    """The provider's endpoints. Every method raises a `ProviderFailure` of the kind that fits."""

    def __init__(
        self, session: aiohttp.ClientSession, config: Config, heard: Callable[[str, bytes], None] | None = None
    ) -> None:
        """`heard` is given the path and the bytes of every good answer, before anything is made of it."""
        self._session = session
        self._heard = heard
        self._config = config
        self._ledger: Ledger = NoLedger()
        self._line = _Line()

    def charged_to(self, ledger: Ledger) -> Self:
        """The same client, whose calls are reserved and settled in a ledger."""
        other = copy.copy(self)
        other._ledger = ledger
        return other

    async def sports(self, everything: bool = False) -> Answer[tuple[Sport, ...]]:
        """Sports in season, or all. Free."""
        return _converted(
            await self._get(Asked(Endpoint.SPORTS, "/v4/sports"), {"all": "true"} if everything else {}),
            tuple[Sport, ...],
        )

    async def events(self, sport_key: str) -> Answer[tuple[Event, ...]]:
        """The events of a sport, without odds. Free."""
        return _converted(
            await self._get(Asked(Endpoint.EVENTS, f"/v4/sports/{sport_key}/events"), _ISO), tuple[Event, ...]
        )

    async def odds(self, sport_key: str) -> Answer[object]:
        """The featured markets of every event of a sport, as `normalize` reads them."""
        return await self._odds(Endpoint.ODDS, f"/v4/sports/{sport_key}/odds", self._config.odds_api_markets, {})

    async def event_odds(self, sport_key: str, event_id: str, markets: Sequence[str]) -> Answer[object]:
        """Any markets of one event, as `normalize` reads them."""
        return await self._odds(Endpoint.EVENT_ODDS, f"/v4/sports/{sport_key}/events/{event_id}/odds", markets, {})

    async def event_markets(self, sport_key: str, event_id: str) -> Answer[EventMarkets]:
        """Which markets an event has, at which books."""
        path = f"/v4/sports/{sport_key}/events/{event_id}/markets"
        asked = Asked(Endpoint.EVENT_MARKETS, path, forecast(Endpoint.EVENT_MARKETS))
        answer = await self._get(asked, {**self._sources(), **_ISO})
        return _converted(answer, EventMarkets)

    async def scores(self, sport_key: str, days_from: int | None = None) -> Answer[tuple[Score, ...]]:
        """Scores of events that are on, and of those finished in the last one to three days if asked for."""
        days = {} if days_from is None else {"daysFrom": str(days_from)}
        credits = forecast(Endpoint.SCORES, days_from=days_from)
        asked = Asked(Endpoint.SCORES, f"/v4/sports/{sport_key}/scores", credits)
        return _converted(await self._get(asked, {**days, **_ISO}), tuple[Score, ...])

    async def historical_odds(self, sport_key: str, at: datetime) -> Answer[Page[object]]:
        """The odds as they stood at a time or last before it."""
        path = f"/v4/historical/sports/{sport_key}/odds"
        markets = self._config.odds_api_markets
        return _page(await self._odds(Endpoint.HISTORICAL_ODDS, path, markets, {"date": _iso(at)}))

    async def historical_events(self, sport_key: str, at: datetime) -> Answer[Page[tuple[Event, ...]]]:
        """The events as they were known at a time or last before it."""
        path = f"/v4/historical/sports/{sport_key}/events"
        asked = Asked(Endpoint.HISTORICAL_EVENTS, path, forecast(Endpoint.HISTORICAL_EVENTS))
        answer = _page(await self._get(asked, {"date": _iso(at), **_ISO}))
        data = _converted(_with_value(answer, answer.value.data), tuple[Event, ...]).value
        page = Page(answer.value.timestamp, answer.value.previous_timestamp, answer.value.next_timestamp, data)
        return _with_value(answer, page)

    async def historical_event_odds(
        self, sport_key: str, event_id: str, markets: Sequence[str], at: datetime
    ) -> Answer[Page[object]]:
        """Any markets of one event as they stood at a time or last before it."""
        path = f"/v4/historical/sports/{sport_key}/events/{event_id}/odds"
        return _page(await self._odds(Endpoint.HISTORICAL_EVENT_ODDS, path, markets, {"date": _iso(at)}))

    def _sources(self) -> dict[str, str]:
        if self._config.odds_api_bookmakers:
            return {"bookmakers": ",".join(self._config.odds_api_bookmakers)}
        return {"regions": ",".join(self._config.odds_api_regions)}

    async def _odds(
        self, endpoint: Endpoint, path: str, markets: Sequence[str], more: Mapping[str, str]
    ) -> Answer[object]:
        """Asks for odds; a market that the provider refuses is dropped, here and from now on."""
        refused = self._line.refused.setdefault(_general(path), set())
        while True:
            wanted = tuple(market for market in markets if market not in refused)
            if not wanted:
                raise InvalidRequest(path, "every market was refused")
            parameters = {
                **self._sources(),
                "markets": ",".join(wanted),
                "oddsFormat": "decimal",
                "includeLinks": "true",
                "includeSids": "true",
                "includeBetLimits": "true",
                **_ISO,
                **more,
            }
            try:
                answer = await self._get(Asked(endpoint, path, self._config.cost(endpoint, len(wanted))), parameters)
            except InvalidMarkets as failure:
                offending = set(failure.markets) & set(wanted)
                if not offending:
                    raise
                log.error("the provider refuses markets, going on without", path=path, markets=sorted(offending))
                refused |= offending
                continue
            return replace(answer, markets=wanted)

    async def _get(self, asked: Asked, parameters: Mapping[str, str]) -> Answer[object]:
        """The decoded body of a call, after as many attempts as the settings and the circuit allow."""
        if self._line.no_past is not None and asked.path.startswith(_PAST):
            raise HistoricalUnavailable(asked.path, self._line.no_past.detail)
        state = self._line.circuit.state(self._now())
        if state is State.OPEN or (state is State.HALF_OPEN and self._line.probing):
            seconds_left = self._line.circuit.seconds_left(self._now())
            raise CircuitOpen(asked.path, seconds_left / self._config.odds_api_clock_rate)
        if state is State.CLOSED:
            return await self._attempts(asked, parameters, self._config.odds_api_retry_attempts)
        self._line.probing = True
        circuit_state.set(State.HALF_OPEN)
        try:
            if asked.credits:
                # What costs nothing is asked first: a provider that is still away takes no credits with it.
                await self._attempts(Asked(Endpoint.SPORTS, "/v4/sports"), {}, 1, proves=False)
            return await self._attempts(asked, parameters, 1)
        finally:
            self._line.probing = False

    async def _attempts(
        self, asked: Asked, parameters: Mapping[str, str], number: int, proves: bool = True
    ) -> Answer[object]:
        """A call with all its attempts, and what the circuit learns of it; `proves` if an answer closes it."""
        attempts = AsyncRetrying(
            stop=stop_after_attempt(number),
            wait=self._pause,
            retry=retry_if_exception(lambda error: isinstance(error, ProviderFailure) and error.passing),
            before_sleep=_log_retry,
            reraise=True,
        )
        try:
            async for attempt in attempts:
                with attempt:
                    answer = await self._attempt(asked, parameters, attempt.retry_state.attempt_number)
        except (Unavailable, UnreadableBody):
            self._learn(self._line.circuit.after_failure(self._now(), self._config.odds_api_circuit_seconds))
            raise
        except HistoricalUnavailable as failure:
            self._line.no_past = failure
            raise
        except BudgetExhausted:
            raise
        except ProviderFailure:
            # A refusal is an answer: the provider is there.
            self._learn(Circuit.after_answer())
            raise
        if proves:
            self._learn(Circuit.after_answer())
        return answer

    def _now(self) -> float:
        """Seconds of the provider's time, from any beginning."""
        return asyncio.get_running_loop().time() * self._config.odds_api_clock_rate

    def _learn(self, circuit: Circuit) -> None:
        before, self._line.circuit = self._line.circuit, circuit
        if circuit.pause_seconds != before.pause_seconds:
            log.error(
                "the provider is left alone for a while" if circuit.pause_seconds else "the provider answers again",
                pause_seconds=circuit.pause_seconds,
            )
        circuit_state.set(State.OPEN if circuit.pause_seconds else State.CLOSED)

    def _pause(self, state: RetryCallState) -> float:
        """Doubles with each attempt, with jitter so that pollers which failed together do not return together."""
        error = state.outcome.exception() if state.outcome is not None else None
        pause = self._config.odds_api_retry_backoff_seconds * 2.0 ** (state.attempt_number - 1)
        if isinstance(error, RateLimited):
            pause = max(pause, FREQUENCY_PAUSE_SECONDS)
        return min(LONGEST_PAUSE_SECONDS, pause) * random.uniform(1.0, 1.5)  # noqa: S311 - jitter is no secret

    @tracing.traced("provider call")
    async def _attempt(self, asked: Asked, parameters: Mapping[str, str], number: int) -> Answer[object]:
        """One attempt: reserved, made, settled."""
        asked = replace(asked, credits=asked.credits + self._line.surprises.get(asked.endpoint, 0))
        reservation = await self._ledger.reserve(asked, number) if asked.credits else None
        await self._take_turn()
        outcome, quota = await self._exchange(asked, parameters)
        self._reconcile(asked, quota.last)
        await self._ledger.settle(reservation, quota)
        if isinstance(outcome, ProviderFailure):
            failures_total.labels(outcome.kind).inc()
            raise outcome
        return outcome

    async def _take_turn(self) -> None:
        """Waits until the provider's limit of calls a second lets another one go out."""
        if not self._config.is_live_provider:
            return
        clock = asyncio.get_running_loop().time
        turn = max(clock(), self._line.free_at)
        self._line.free_at = turn + 1.0 / self._config.odds_api_requests_per_second
        await asyncio.sleep(turn - clock())

    async def _exchange(
        self, asked: Asked, parameters: Mapping[str, str]
    ) -> tuple[Answer[object] | ProviderFailure, Quota]:
        """What came of one request, and what was said about credits: headers count even where the body broke off."""
        path = asked.path
        # Of the address the path alone: the query holds the key.
        tracing.annotate(**{"http.request.method": "GET", "url.path": path})
        key = self._config.odds_api_key
        secret = "" if key is None else key.get_secret_value()
        quota = Quota()
        try:
            async with self._session.get(
                self._config.odds_api_base_url + path,
                params={**parameters, "apiKey": secret} if secret else dict(parameters),
                headers={"Accept-Encoding": "gzip", "Accept": "application/json"},
                timeout=aiohttp.ClientTimeout(total=self._config.odds_api_http_timeout_seconds),
                # A redirect would carry the key to an address that nobody chose.
                allow_redirects=False,
                middlewares=(_only_once,),
            ) as response:
                quota = _quota(response.headers)
                body = await response.read()
                received_at = utc_now()
        except (TimeoutError, aiohttp.ClientError) as error:
            # Their texts hold the address, and the address holds the key.
            return Unavailable(path, type(error).__name__.removeprefix("_")), quota
        tracing.annotate(
            **{
                "http.response.status_code": response.status,
                "http.response.body.size": len(body),
                "credits": quota.last,
            }
        )
        dated = _date(response.headers.get("Date"))
        self._compare_clocks(dated, received_at)
        if response.status != 200:
            return _refusal(path, response.status, body, secret), quota
        if self._heard is not None:
            self._heard(path, body)
        decoded = _decoded(path, body)
        return (decoded if isinstance(decoded, UnreadableBody) else Answer(decoded, quota, received_at, dated)), quota

    def _reconcile(self, asked: Asked, cost: int | None) -> None:
        """Counts what an attempt cost: what the provider says, or the forecast where it says nothing."""
        credits_total.labels(asked.endpoint.value).inc(asked.credits if cost is None else max(0, cost))
        if cost is not None and cost > asked.credits:
            log.warning("a call cost more than forecast", path=asked.path, credits=cost, forecast=asked.credits)
            surprises = self._line.surprises
            surprises[asked.endpoint] = surprises.get(asked.endpoint, 0) + cost - asked.credits

    def _compare_clocks(self, dated: datetime | None, received_at: datetime) -> None:
        """Reports a provider's clock that is far from ours. Ours is used all the same: it is the one that is ours."""
        if dated is None or self._config.odds_api_clock != "system":
            return
        skew = (dated - received_at).total_seconds()
        clock_skew_seconds.set(skew)
        skewed = abs(skew) > self._config.odds_api_clock_skew_seconds
        if skewed:
            clock_skews_total.inc()
        if skewed != self._line.skewed:
            self._line.skewed = skewed
            log.error("the provider's clock and ours differ" if skewed else "the clocks agree again", skew_seconds=skew)


_PAST = "/v4/historical/"


class _BrokenConnectionError(aiohttp.ClientConnectionError):
    """The connection broke; the request may have been answered all the same."""


async def _only_once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keeps aiohttp from repeating a request whose connection broke: nobody has reserved what that may cost."""
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
        raise _BrokenConnectionError from None


_ISO: Mapping[str, str] = {"dateFormat": "iso"}


def open_session() -> aiohttp.ClientSession:
    """An HTTP session for the client; the caller closes it."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=8))


def _with_value(answer: Answer[Any], value: Converted) -> Answer[Converted]:
    """The same answer with another value."""
    return Answer(value, answer.quota, answer.received_at, answer.dated, answer.markets)


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _general(path: str) -> str:
    """The endpoint without the event: what one event's markets refuse, another's do too."""
    return re.sub(r"/events/[^/]+/", "/events/*/", path)


def _converted(answer: Answer[object], kind: type[Converted]) -> Answer[Converted]:
    """The body as the provider documents it; in a list, an item that is not of the shape is left out and logged."""
    body = answer.value
    if get_origin(kind) is tuple and isinstance(body, list):
        (item,) = [argument for argument in kind.__args__ if argument is not Ellipsis]  # type: ignore[attr-defined]  # of a generic alias
        good = []
        for given in body:
            try:
                good.append(msgspec.convert(given, item, strict=False))
            except msgspec.ValidationError as error:
                log.warning("an item is not of the documented shape", shape=item.__name__, fault=str(error))
        return _with_value(answer, tuple(good))  # type: ignore[arg-type]  # it is that tuple
    problem = ""
    try:
        return _with_value(answer, msgspec.convert(body, kind, strict=False))
    except msgspec.ValidationError as error:
        problem = str(error)
    raise UnreadableBody(getattr(kind, "__name__", "body"), problem)


def _page(answer: Answer[object]) -> Answer[Page[object]]:
    envelope = answer.value
    if not isinstance(envelope, Mapping) or "data" not in envelope:
        raise UnreadableBody("historical", "the envelope has no data")
    page = Page(
        timestamp=read_time(envelope.get("timestamp")),
        previous_timestamp=read_time(envelope.get("previous_timestamp")),
        next_timestamp=read_time(envelope.get("next_timestamp")),
        data=envelope["data"],
    )
    return _with_value(answer, page)


def _decoded(path: str, body: bytes) -> object:
    """The body, bare NaN included: odds as `normalize` reads them, everything else as plain values.

    An `UnreadableBody` to raise when it is cut off or no JSON.
    """
    try:
        return decode(body) if path.endswith("/odds") else plain(body)
    except (ValueError, RecursionError) as error:
        return UnreadableBody(path, f"{len(body)} bytes that are no JSON: {type(error).__name__}")


def _refusal(path: str, status: int, body: bytes, secret: str) -> ProviderFailure:
    """What kind of failure an answer other than 200 is. Branches on `error_code`, and does without one."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        given = None
    code = given.get("error_code") if isinstance(given, dict) else None
    message = given.get("message") if isinstance(given, dict) else None
    said = message if isinstance(message, str) else ""
    if secret:
        said = said.replace(secret, MASK)
    detail = f"{status} {code if isinstance(code, str) else ''} {said[:300]}".strip()
    if status == 401:
        if code == "OUT_OF_USAGE_CREDITS":
            return OutOfCredits(path, detail)
        if code == "HISTORICAL_UNAVAILABLE_ON_FREE_USAGE_PLAN":
            return HistoricalUnavailable(path, detail)
        return KeyRefused(path, detail)
    if status == 404:
        return NotFound(path, detail)
    if status == 429:
        return RateLimited(path, detail)
    if status >= 500:
        return Unavailable(path, detail)
    if code in ("INVALID_MARKET", "HISTORICAL_MARKETS_UNAVAILABLE_AT_DATE"):
        named = tuple(re.findall(r"[a-z0-9_]+", said.rpartition(":")[2]))
        return InvalidMarkets(path, detail, named)
    return InvalidRequest(path, detail)


def _quota(headers: Mapping[str, str]) -> Quota:
    return Quota(*(_whole(headers.get(f"x-requests-{name}")) for name in ("remaining", "used", "last")))


def _whole(text: str | None) -> int | None:
    try:
        return None if text is None else round(float(text))
    except (ValueError, OverflowError):
        return None


def _date(text: str | None) -> datetime | None:
    try:
        moment = None if text is None else parsedate_to_datetime(text)
    except ValueError:
        return None
    return None if moment is None or moment.tzinfo is None else moment.astimezone(UTC)


def _log_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    pause = state.next_action.sleep if state.next_action is not None else 0.0
    if isinstance(error, ProviderFailure):
        log.warning(
            "the provider failed, trying again",
            kind=error.kind,
            failure=str(error),
            attempt=state.attempt_number,
            pause_seconds=round(pause, 3),
        )
