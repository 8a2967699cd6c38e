"""Finds what changed between two sights of an event: the state before and a poll in, what to tell and store out. Pure.

A consumer that follows the messages of an event holds, at every moment, exactly what a keyframe of that moment would
tell it: a keyframe repeats what was already told and adds nothing. So no result downstream depends on which message
happens to be one.

A *sight* is an observation in which a quote was present. Its present value appeared within (`changed_after`,
`changed_by`]: after the provider's last reading of the old value and by the first reading of the new one, or between
two sights where readings do not say. A quote that vanished and came back, with whatever value, changed between its last
sight and its first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec

from services.ingest.normalize import OutcomeQuote, Quote, Seen, SeenEvent
from services.shared.identity import snapshot_id

#: A message carries everything whenever this much event time has passed since one that did.
KEYFRAME_EVERY = timedelta(minutes=10)
#: A quote that has been gone for this long is forgotten; if it returns it is new.
REMEMBER_GONE = timedelta(hours=24)
#: An answer without any event is not believed while a known event begins within this time.
DUE_WITHIN = timedelta(hours=48)

#: What a quote is a quote of: market, player, book.
QuoteKey = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Coverage:
    """What a poll asked for. What it did not ask for cannot have disappeared."""

    markets: tuple[str, ...]
    #: Empty: every book.
    books: tuple[str, ...] = ()

    def asks_for(self, market: str, book: str) -> bool:
        """Whether the poll would have shown this market of this book."""
        return market in self.markets and (not self.books or book in self.books)


class HeldOutcome(msgspec.Struct, frozen=True):
    """One side of a quote, and since when it has stood at its price and line."""

    outcome: str
    price: float
    observed_at: datetime
    snapshot_id: str
    link: str | None = None
    limit: float | None = None
    sid: str | None = None


class HeldQuote(msgspec.Struct, frozen=True):
    """A quote as last seen, with everything about it that has been told."""

    book: str
    market: str
    player: str
    line: float | None
    outcomes: tuple[HeldOutcome, ...]
    #: The provider's reading at the quote's last sight.
    last_update: datetime | None
    #: The reading that consumers know of; it trails `last_update` while nothing happens.
    told_update: datetime | None
    #: The observation that first showed the present value.
    observed_at: datetime
    #: The last sight.
    seen_at: datetime
    changed_after: datetime | None = None
    changed_by: datetime | None = None
    #: The last sight of the value before this one.
    previous_seen_at: datetime | None = None
    #: It was asked for and did not come.
    gone: bool = False

    @property
    def key(self) -> QuoteKey:
        """What it is a quote of."""
        return (self.market, self.player, self.book)


@dataclass(frozen=True, slots=True)
class EventState:
    """All that ingest knows of an event between two polls."""

    event_id: str
    sport_key: str
    home_team: str
    away_team: str
    commence_time: datetime | None
    revision: int
    observed_at: datetime
    keyframe_at: datetime
    #: It was missing from a poll that asked for its sport; nothing is told of it until it returns.
    gone: bool
    #: In the order of their keys; those gone for less than a day included.
    quotes: tuple[HeldQuote, ...]


@dataclass(frozen=True, slots=True)
class Read:
    """When the provider last read a quote that did not change."""

    book: str
    market: str
    player: str
    #: Seconds from the reading to the observation; negative where the book's clock is ahead.
    age_seconds: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One outcome's price and its own point, as first seen: a row to keep."""

    id: str
    event_id: str
    book: str
    market: str
    player: str
    outcome: str
    price: float
    #: The outcome's own signed point.
    line: float | None
    observed_at: datetime
    last_update: datetime | None
    changed_after: datetime | None
    changed_by: datetime | None
    link: str | None
    limit: float | None
    sid: str | None


@dataclass(frozen=True, slots=True)
class Disappearance:
    """A quote that was asked for and did not come: a row to keep."""

    event_id: str
    book: str
    market: str
    player: str
    last_seen_at: datetime
    observed_at: datetime


@dataclass(frozen=True, slots=True)
class Observation:
    """What the others are told of one event at one observation."""

    event_id: str
    sport_key: str
    home_team: str
    away_team: str
    commence_time: datetime | None
    revision: int
    previous_revision: int
    observed_at: datetime
    expected_interval_seconds: float
    asked: Coverage
    keyframe: bool
    #: New or changed quotes; in a keyframe every one there is.
    changes: tuple[HeldQuote, ...]
    #: Empty in a keyframe.
    removed: tuple[QuoteKey, ...]
    reads: tuple[Read, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """What one observation of one event leads to."""

    state: EventState
    observation: Observation
    snapshots: tuple[Snapshot, ...] = ()
    disappearances: tuple[Disappearance, ...] = ()
    #: Quotes whose value is new, changed or back.
    changed: int = 0


@dataclass(frozen=True, slots=True)
class Poll:
    """A successful poll of a sport: what it asked for, when it was answered, and the interval that polls keep."""

    sport_key: str
    observed_at: datetime
    expected_interval_seconds: float
    asked: Coverage
    seen: Seen
    #: Events of which a consumer asked for a keyframe.
    keyframes: frozenset[str] = field(default_factory=frozenset)
    #: False for an answer about single events, which says nothing of the sport's others.
    whole: bool = True


def observe_poll(states: Mapping[str, EventState], poll: Poll) -> Iterator[Step]:
    """A step for every event that the poll showed and for every known one of the sport that it no longer did.

    `states` holds the known events of the sport. An event that was already observed at this time or later is left
    alone: time only goes forward, whoever polls.
    """
    shown = {event.event_id: event for event in poll.seen.events}
    missing = {
        event_id
        for event_id, state in states.items()
        if poll.whole
        and state.sport_key == poll.sport_key
        and event_id not in shown
        and event_id not in poll.seen.unreadable
        and (not state.gone or event_id in poll.keyframes)
    }
    for event_id in sorted(shown.keys() | missing):
        state = states.get(event_id)
        if state is None or state.observed_at < poll.observed_at:
            yield observe(state, shown.get(event_id), poll)


def is_believable(states: Iterable[EventState], poll: Poll) -> bool:
    """False for an answer without any event while a known one of the sport is due within 48 hours: a failed poll.

    "Known" means shown by the last successful poll, so that poll was not empty. What holds something and nothing that
    can be read (an error's body, half an answer) is no answer about the market either.
    """
    if poll.seen.empty and poll.seen.rejected:
        return False
    return not poll.seen.empty or not any(
        state.sport_key == poll.sport_key
        and not state.gone
        and state.commence_time is not None
        and poll.observed_at < state.commence_time <= poll.observed_at + DUE_WITHIN
        for state in states
    )


def observe(before: EventState | None, seen: SeenEvent | None, poll: Poll) -> Step:
    """One observation of one event. `before` is None at its first, `seen` when the poll did not show it."""
    if before is None and seen is None:
        raise ValueError("an event that was never seen cannot be observed to be missing")
    event = _header(before, seen)
    # Other teams under the same id, or the same ones swapped, are another event: nothing held speaks for these sides.
    anew = before is None or (before.home_team, before.away_team) != (event.home_team, event.away_team)
    held = {} if before is None or anew else {known.key: known for known in before.quotes}
    present: dict[QuoteKey, HeldQuote] = {}
    told: set[QuoteKey] = set()
    snapshots: list[Snapshot] = []
    changed = 0
    for quote in seen.quotes if seen is not None else ():
        key = quote.key
        old = held.get(key)
        new = _hold(event.event_id, old, quote, poll.observed_at)
        present[key] = new
        if new.observed_at == poll.observed_at:
            changed += 1
            told.add(key)
            snapshots.extend(_snapshots(event.event_id, new, poll.observed_at))
        elif old is not None and old.outcomes != new.outcomes:
            told.add(key)
    removed: list[QuoteKey] = []
    absent: dict[QuoteKey, HeldQuote] = {}
    disappearances: list[Disappearance] = []
    for key, known in held.items():
        if key in present:
            continue
        if known.gone:
            if poll.observed_at - known.seen_at < REMEMBER_GONE:
                absent[key] = known
        elif seen is None or poll.asked.asks_for(known.market, known.book):
            removed.append(key)
            absent[key] = msgspec.structs.replace(known, gone=True)
            disappearances.append(
                Disappearance(event.event_id, known.book, known.market, known.player, known.seen_at, poll.observed_at)
            )
        else:
            present[key] = known
    touched = {(market, player) for market, player, _ in (*told, *removed)}
    reads = {
        key: read
        for key, quote in present.items()
        if key not in told and (read := _read(quote, key[:2] in touched, event.commence_time, poll.observed_at))
    }
    for key in (*told, *reads):
        held_now = present[key]
        if held_now.told_update != held_now.last_update:
            present[key] = msgspec.structs.replace(held_now, told_update=held_now.last_update)
    keyframe = (
        before is None
        or anew
        or poll.observed_at - before.keyframe_at >= KEYFRAME_EVERY
        or event.event_id in poll.keyframes
    )
    state = EventState(
        event_id=event.event_id,
        sport_key=event.sport_key,
        home_team=event.home_team,
        away_team=event.away_team,
        commence_time=event.commence_time,
        revision=(before.revision if before is not None else 0) + 1,
        observed_at=poll.observed_at,
        keyframe_at=poll.observed_at if before is None or keyframe else before.keyframe_at,
        gone=seen is None,
        quotes=_in_order(present | absent),
    )
    observation = Observation(
        event_id=event.event_id,
        sport_key=event.sport_key,
        home_team=event.home_team,
        away_team=event.away_team,
        commence_time=event.commence_time,
        revision=state.revision,
        previous_revision=state.revision - 1,
        observed_at=poll.observed_at,
        expected_interval_seconds=poll.expected_interval_seconds,
        asked=poll.asked,
        keyframe=keyframe,
        changes=_in_order(present if keyframe else {key: present[key] for key in told}),
        removed=() if keyframe else tuple(sorted(removed)),
        reads=() if keyframe else tuple(reads[key] for key in sorted(reads)),
    )
    return Step(state, observation, tuple(snapshots), tuple(disappearances), changed)


def _header(before: EventState | None, seen: SeenEvent | None) -> SeenEvent | EventState:
    event = seen if seen is not None else before
    assert event is not None
    return event


def _in_order(quotes: Mapping[QuoteKey, HeldQuote]) -> tuple[HeldQuote, ...]:
    return tuple([quotes[key] for key in sorted(quotes)])


def _hold(event_id: str, old: HeldQuote | None, new: Quote, observed_at: datetime) -> HeldQuote:
    """The quote as it is now known, given what it was."""
    standing = old if old is not None and not old.gone and old.line == new.line else None
    if (
        standing is not None
        and len(standing.outcomes) == len(new.outcomes)
        and all(map(_stands, standing.outcomes, new.outcomes))
    ):
        return msgspec.structs.replace(standing, last_update=new.last_update, seen_at=observed_at)
    outcomes = tuple(_hold_outcome(event_id, standing, new, outcome, observed_at) for outcome in new.outcomes)
    if (
        standing is not None
        and len(standing.outcomes) == len(outcomes)
        and all(outcome.observed_at < observed_at for outcome in outcomes)
    ):
        return msgspec.structs.replace(standing, outcomes=outcomes, last_update=new.last_update, seen_at=observed_at)
    after, by = (None, None) if old is None else _change_interval(old, new.last_update, observed_at)
    return HeldQuote(
        book=new.book,
        market=new.market,
        player=new.player,
        line=new.line,
        outcomes=outcomes,
        last_update=new.last_update,
        told_update=new.last_update,
        observed_at=observed_at,
        seen_at=observed_at,
        changed_after=after,
        changed_by=by,
        previous_seen_at=None if old is None else old.seen_at,
    )


def _stands(held: HeldOutcome, offered: OutcomeQuote) -> bool:
    """Whether a side is offered in every respect as it was."""
    return (
        held.price == offered.price
        and held.outcome == offered.outcome
        and held.link == offered.link
        and held.limit == offered.limit
        and held.sid == offered.sid
    )


def _hold_outcome(
    event_id: str, standing: HeldQuote | None, new: Quote, outcome: OutcomeQuote, observed_at: datetime
) -> HeldOutcome:
    """One side as it is now known; `standing` is the quote before, if it stood at the same line."""
    for held in standing.outcomes if standing is not None else ():
        if held.outcome == outcome.outcome and held.price == outcome.price:
            if held.link == outcome.link and held.limit == outcome.limit and held.sid == outcome.sid:
                return held
            return msgspec.structs.replace(held, link=outcome.link, limit=outcome.limit, sid=outcome.sid)
    return HeldOutcome(
        outcome=outcome.outcome,
        price=outcome.price,
        observed_at=observed_at,
        snapshot_id=snapshot_id(event_id, new.book, new.market, new.player, outcome.outcome, observed_at),
        link=outcome.link,
        limit=outcome.limit,
        sid=outcome.sid,
    )


def _change_interval(old: HeldQuote, last_update: datetime | None, observed_at: datetime) -> tuple[datetime, datetime]:
    """The interval in which the value changed: by the provider's readings, or between sights where they do not say."""
    if not old.gone:
        after = old.last_update or old.seen_at
        by = min(observed_at, last_update or observed_at)
        if after < by:
            return after, by
    return old.seen_at, observed_at


def _read(quote: HeldQuote, market_changes: bool, commence_time: datetime | None, observed_at: datetime) -> Read | None:
    """What to tell of an unchanged quote's newest reading: nothing unless its market changes or it passed the start."""
    update = quote.last_update
    if update is None or update == quote.told_update:
        return None
    crosses = commence_time is not None and (
        quote.told_update is None or (quote.told_update < commence_time) != (update < commence_time)
    )
    if not market_changes and not crosses:
        return None
    return Read(quote.book, quote.market, quote.player, (observed_at - update).total_seconds())


def _snapshots(event_id: str, quote: HeldQuote, observed_at: datetime) -> Iterator[Snapshot]:
    for outcome in quote.outcomes:
        if outcome.observed_at == observed_at:
            mirrored = outcome.outcome == "away" and quote.line is not None
            yield Snapshot(
                id=outcome.snapshot_id,
                event_id=event_id,
                book=quote.book,
                market=quote.market,
                player=quote.player,
                outcome=outcome.outcome,
                price=outcome.price,
                line=0.0 - quote.line if mirrored and quote.line is not None else quote.line,
                observed_at=observed_at,
                last_update=quote.last_update,
                changed_after=quote.changed_after,
                changed_by=quote.changed_by,
                link=outcome.link,
                limit=outcome.limit,
                sid=outcome.sid,
            )
