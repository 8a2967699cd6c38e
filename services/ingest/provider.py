"""The Odds API, version 4: a typed client that says of every failure what kind it is.

The key travels in the query of every call, so nothing here lets an address out: failures name the path alone, are
raised outside the handler of what caused them, and what the provider says is searched for the key first.

What a body contains is not judged here but in `normalize`: bodies are decoded leniently, by `body`, since a bare `NaN`
is one outcome's fault and not the response's.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar, Generic, TypeVar, get_origin

import aiohttp
import msgspec
from prometheus_client import Counter
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from services.ingest.body import decode, plain
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


class OddsApi:
    """The provider's endpoints. Every method raises a `ProviderFailure` of the kind that fits."""

    def __init__(
        self, session: aiohttp.ClientSession, config: Config, heard: Callable[[str, bytes], None] | None = None
    ) -> None:
        """`heard` is given the path and the bytes of every good answer, before anything is made of it."""
        self._session = session
        self._heard = heard
        self._config = config
        #: Markets that an endpoint refused: asking again would fail again.
        self._refused: dict[str, set[str]] = {}

    async def sports(self, everything: bool = False) -> Answer[tuple[Sport, ...]]:
        """Sports in season, or all. Free."""
        return _converted(await self._get("/v4/sports", {"all": "true"} if everything else {}), tuple[Sport, ...])

    async def events(self, sport_key: str) -> Answer[tuple[Event, ...]]:
        """The events of a sport, without odds. Free."""
        return _converted(await self._get(f"/v4/sports/{sport_key}/events", _ISO), tuple[Event, ...])

    async def odds(self, sport_key: str) -> Answer[object]:
        """The featured markets of every event of a sport, as `normalize` reads them."""
        return await self._odds(Endpoint.ODDS, f"/v4/sports/{sport_key}/odds", self._config.odds_api_markets, {})

    async def event_odds(self, sport_key: str, event_id: str, markets: Sequence[str]) -> Answer[object]:
        """Any markets of one event, as `normalize` reads them."""
        return await self._odds(Endpoint.EVENT_ODDS, f"/v4/sports/{sport_key}/events/{event_id}/odds", markets, {})

    async def event_markets(self, sport_key: str, event_id: str) -> Answer[EventMarkets]:
        """Which markets an event has, at which books."""
        answer = await self._get(f"/v4/sports/{sport_key}/events/{event_id}/markets", {**self._sources(), **_ISO})
        return _converted(answer, EventMarkets)

    async def scores(self, sport_key: str, days_from: int | None = None) -> Answer[tuple[Score, ...]]:
        """Scores of events that are on, and of those finished in the last one to three days if asked for."""
        days = {} if days_from is None else {"daysFrom": str(days_from)}
        return _converted(await self._get(f"/v4/sports/{sport_key}/scores", {**days, **_ISO}), tuple[Score, ...])

    async def historical_odds(self, sport_key: str, at: datetime) -> Answer[Page[object]]:
        """The odds as they stood at a time or last before it."""
        path = f"/v4/historical/sports/{sport_key}/odds"
        markets = self._config.odds_api_markets
        return _page(await self._odds(Endpoint.HISTORICAL_ODDS, path, markets, {"date": _iso(at)}))

    async def historical_events(self, sport_key: str, at: datetime) -> Answer[Page[tuple[Event, ...]]]:
        """The events as they were known at a time or last before it."""
        answer = _page(await self._get(f"/v4/historical/sports/{sport_key}/events", {"date": _iso(at), **_ISO}))
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
        refused = self._refused.setdefault(_general(path), set())
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
                answer = await self._get(path, parameters)
            except InvalidMarkets as failure:
                offending = set(failure.markets) & set(wanted)
                if not offending:
                    raise
                log.error("the provider refuses markets, going on without", path=path, markets=sorted(offending))
                refused |= offending
                continue
            self._reconcile(endpoint, path, len(wanted), answer.quota.last)
            return replace(answer, markets=wanted)

    def _reconcile(self, endpoint: Endpoint, path: str, markets: int, cost: int | None) -> None:
        """Counts what a call cost: what the provider says, or the forecast where it says nothing."""
        regions, bookmakers = len(self._config.odds_api_regions), len(self._config.odds_api_bookmakers)
        expected = forecast(endpoint, markets, regions, bookmakers)
        credits_total.labels(endpoint.value).inc(expected if cost is None else max(0, cost))
        if cost is not None and cost > expected:
            log.warning("a call cost more than forecast", path=path, credits=cost, forecast=expected)

    async def _get(self, path: str, parameters: Mapping[str, str]) -> Answer[object]:
        """The decoded body of a call, after as many attempts as the settings allow."""
        attempts = AsyncRetrying(
            stop=stop_after_attempt(self._config.odds_api_retry_attempts),
            wait=self._pause,
            retry=retry_if_exception(lambda error: isinstance(error, ProviderFailure) and error.passing),
            before_sleep=_log_retry,
            reraise=True,
        )
        async for attempt in attempts:
            with attempt:
                return await self._attempt(path, parameters)
        raise AssertionError("tenacity ends with a result or an error")

    def _pause(self, state: RetryCallState) -> float:
        """Doubles with each attempt, with jitter so that pollers which failed together do not return together."""
        error = state.outcome.exception() if state.outcome is not None else None
        pause = self._config.odds_api_retry_backoff_seconds * 2.0 ** (state.attempt_number - 1)
        if isinstance(error, RateLimited):
            pause = max(pause, FREQUENCY_PAUSE_SECONDS)
        return min(LONGEST_PAUSE_SECONDS, pause) * random.uniform(1.0, 1.5)  # noqa: S311 - jitter is no secret

    @tracing.traced("provider call")
    async def _attempt(self, path: str, parameters: Mapping[str, str]) -> Answer[object]:
        key = self._config.odds_api_key
        secret = "" if key is None else key.get_secret_value()
        failure: ProviderFailure
        # Of the address the path alone: the query holds the key.
        tracing.annotate(**{"http.request.method": "GET", "url.path": path})
        try:
            async with self._session.get(
                self._config.odds_api_base_url + path,
                params={**parameters, "apiKey": secret} if secret else dict(parameters),
                headers={"Accept-Encoding": "gzip", "Accept": "application/json"},
                timeout=aiohttp.ClientTimeout(total=self._config.odds_api_http_timeout_seconds),
                # A redirect would carry the key to an address that nobody chose.
                allow_redirects=False,
            ) as response:
                body = await response.read()
                received_at = utc_now()
        except (TimeoutError, aiohttp.ClientError) as error:
            # Their texts hold the address, and the address holds the key.
            failure = Unavailable(path, type(error).__name__)
        else:
            tracing.annotate(
                **{
                    "http.response.status_code": response.status,
                    "http.response.body.size": len(body),
                    "credits": _whole(response.headers.get("x-requests-last")),
                }
            )
            if response.status == 200:
                if self._heard is not None:
                    self._heard(path, body)
                decoded = _decoded(path, body)
                if not isinstance(decoded, UnreadableBody):
                    dated = _date(response.headers.get("Date"))
                    return Answer(decoded, _quota(response.headers), received_at, dated)
                failure = decoded
            else:
                failure = _refusal(path, response.status, body, secret)
        raise failure


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
