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

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec

from services.ingest.normalize import Offer, OutcomeQuote, QuoteKey, Seen, SeenEvent
from services.shared.identity import snapshot_id

#: A message carries everything whenever this much event time has passed since one that did.
KEYFRAME_EVERY = timedelta(minutes=10)
#: A quote that has been gone for this long is forgotten; if it returns it is new.
REMEMBER_GONE = timedelta(hours=24)
#: An answer without any event is not believed while a known event begins within this time.
DUE_WITHIN = timedelta(hours=48)

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Coverage:
    """What a poll asked for. What it did not ask for cannot have disappeared."""

    markets: tuple[str, ...]
    #: Empty: every book.
    books: tuple[str, ...] = ()

    def asks_for(self, market: str, book: str) -> bool:
        """Whether the poll would have shown this market of this book."""
        return market in self.markets and (not self.books or book in self.books)


class HeldQuote(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An offer, and since when it has stood. It stays the same object until something about it changes."""

    offer: Offer
    #: When each outcome was first seen at its present price and line.
    since: tuple[datetime, ...]
    #: The observation that first showed the present value.
    observed_at: datetime
    changed_after: datetime | None = None
    changed_by: datetime | None = None
    #: The last sight of the value before this one.
    previous_seen_at: datetime | None = None

    @property
    def key(self) -> QuoteKey:
        """What it is a quote of."""
        return self.offer.key


class GoneQuote(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A quote that was asked for and did not come."""

    quote: HeldQuote
    seen_at: datetime

    @property
    def key(self) -> QuoteKey:
        """What it was a quote of."""
        return self.quote.key


class EventState(msgspec.Struct, frozen=True, gc=False):
    """All that ingest knows of an event between two polls.

    What moves with every poll stands in columns beside the quotes, the n-th value for the n-th quote.
    """

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
    #: What each quote is a quote of; in order.
    keys: tuple[QuoteKey, ...]
    quotes: tuple[HeldQuote, ...]
    #: The last sight of each.
    seen_at: tuple[datetime, ...]
    #: The provider's reading at the last sight of each.
    readings: tuple[datetime | None, ...]
    #: The readings that consumers know of; they trail `readings` while nothing happens.
    told: tuple[datetime | None, ...]
    #: Quotes that have been gone for less than a day, in the order of their keys.
    absent: tuple[GoneQuote, ...]


class Reads(msgspec.Struct, frozen=True, gc=False):
    """When the provider last read the quotes of a market that did not change."""

    market: str
    player: str
    books: tuple[str, ...]
    #: For each book, seconds from the reading to the observation; negative where the book's clock is ahead.
    ages_seconds: tuple[float, ...]


class Snapshot(msgspec.Struct, frozen=True, gc=False):
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


class Disappearance(msgspec.Struct, frozen=True, gc=False):
    """A quote that was asked for and did not come: a row to keep."""

    event_id: str
    book: str
    market: str
    player: str
    last_seen_at: datetime
    observed_at: datetime


class Observation(msgspec.Struct, frozen=True, gc=False):
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
    #: For each of these, the reading that consumers are to know of.
    readings: tuple[datetime | None, ...]
    #: Empty in a keyframe.
    removed: tuple[QuoteKey, ...]
    #: By market. Empty in a keyframe.
    reads: tuple[Reads, ...]


class Step(msgspec.Struct, frozen=True, gc=False):
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
    at = poll.observed_at
    # Other teams under the same id, or the same ones swapped, are another event: nothing held speaks for these sides.
    anew = before is None or (before.home_team, before.away_team) != (event.home_team, event.away_team)
    board = _set_side_by_side(None if anew else before, seen, poll)
    quotes = list(board.held)
    told: set[int] = set()
    snapshots: list[Snapshot] = []
    changed = 0
    for place, (old, offer) in enumerate(zip(board.held, board.offers, strict=True)):
        if offer is None or (old is not None and old.offer is offer):
            continue
        if old is not None and old.offer == offer:
            # The same in another object, as after a start: this one is what the next poll repeats.
            quotes[place] = msgspec.structs.replace(old, offer=offer)
            continue
        new = quotes[place] = _hold(board, place, offer, at)
        told.add(place)
        if new.observed_at == at:
            changed += 1
            snapshots.extend(_snapshots(event.event_id, new, board.readings[place], at))
    removed = board.removed
    touched = {board.keys[place][:2] for place in told} | {gone.key[:2] for gone in removed}
    reads = _reads(board, told, touched, event.commence_time)
    updates = list(board.told)
    for place in (*told, *reads):
        updates[place] = board.readings[place]
    keyframe = before is None or anew or at - before.keyframe_at >= KEYFRAME_EVERY or event.event_id in poll.keyframes
    state = EventState(
        event_id=event.event_id,
        sport_key=event.sport_key,
        home_team=event.home_team,
        away_team=event.away_team,
        commence_time=event.commence_time,
        revision=(before.revision if before is not None else 0) + 1,
        observed_at=at,
        keyframe_at=at if before is None or keyframe else before.keyframe_at,
        gone=seen is None,
        keys=board.keys,
        quotes=tuple([quote for quote in quotes if quote is not None]),
        seen_at=board.seen_at,
        readings=board.readings,
        told=tuple(updates),
        absent=board.absent,
    )
    shown = range(len(quotes)) if keyframe else sorted(told)
    observation = Observation(
        event_id=event.event_id,
        sport_key=event.sport_key,
        home_team=event.home_team,
        away_team=event.away_team,
        commence_time=event.commence_time,
        revision=state.revision,
        previous_revision=state.revision - 1,
        observed_at=at,
        expected_interval_seconds=poll.expected_interval_seconds,
        asked=poll.asked,
        keyframe=keyframe,
        changes=tuple([state.quotes[place] for place in shown]),
        readings=tuple([updates[place] for place in shown]),
        removed=() if keyframe else tuple([gone.key for gone in removed]),
        reads=() if keyframe else _by_market(board, reads, at),
    )
    disappearances = tuple([_disappearance(event.event_id, gone, at) for gone in removed])
    return Step(state, observation, tuple(snapshots), disappearances, changed)


def _header(before: EventState | None, seen: SeenEvent | None) -> SeenEvent | EventState:
    event = seen if seen is not None else before
    assert event is not None
    return event


class _Board(msgspec.Struct, frozen=True, gc=False):
    """The quotes that there are at an observation, in the order of their keys, and beside each what was held of it."""

    keys: tuple[QuoteKey, ...]
    #: None for a quote that was not asked for: it stays as it is.
    offers: Sequence[Offer | None]
    seen_at: tuple[datetime, ...]
    readings: tuple[datetime | None, ...]
    #: None for a quote that is new, or was gone.
    held: Sequence[HeldQuote | None]
    held_seen_at: Sequence[datetime | None]
    held_readings: Sequence[datetime | None]
    told: Sequence[datetime | None]
    #: What was gone, where it is shown again.
    returned: Mapping[QuoteKey, GoneQuote]
    #: Quotes that were asked for and did not come, and all that are gone; in the order of their keys.
    removed: tuple[GoneQuote, ...]
    absent: tuple[GoneQuote, ...]


def _set_side_by_side(before: EventState | None, seen: SeenEvent | None, poll: Poll) -> _Board:
    at = poll.observed_at
    gone = () if before is None else before.absent
    if before is not None and seen is not None and before.keys == seen.keys:
        return _Board(
            keys=seen.keys,
            offers=seen.offers,
            seen_at=(at,) * len(seen.keys),
            readings=seen.readings,
            held=before.quotes,
            held_seen_at=before.seen_at,
            held_readings=before.readings,
            told=before.told,
            returned={},
            removed=(),
            absent=_remembered(gone, at),
        )
    shown = {} if seen is None else {key: place for place, key in enumerate(seen.keys)}
    known = {} if before is None else {key: place for place, key in enumerate(before.keys)}
    missing = [key for key in known if key not in shown and (seen is None or poll.asked.asks_for(key[0], key[2]))]
    keys = tuple(sorted((shown.keys() | known.keys()).difference(missing)))
    now = [shown.get(key) for key in keys]
    then = [known.get(key) for key in keys]
    offers = _picked(() if seen is None else seen.offers, now)
    readings = _picked(() if seen is None else seen.readings, now)
    held_seen_at = _picked(() if before is None else before.seen_at, then)
    held_readings = _picked(() if before is None else before.readings, then)
    removed = () if before is None else tuple([_gone(before, known[key]) for key in missing])
    away = _remembered([quote for quote in gone if quote.key not in shown], at)
    return _Board(
        keys=keys,
        offers=offers,
        seen_at=tuple(
            [at if place is not None or old is None else old for place, old in zip(now, held_seen_at, strict=True)]
        ),
        readings=tuple(
            [old if place is None else new for place, new, old in zip(now, readings, held_readings, strict=True)]
        ),
        held=_picked(() if before is None else before.quotes, then),
        held_seen_at=held_seen_at,
        held_readings=held_readings,
        told=_picked(() if before is None else before.told, then),
        returned={quote.key: quote for quote in gone if quote.key in shown},
        removed=removed,
        absent=tuple(sorted((*removed, *away), key=lambda quote: quote.key)),
    )


def _remembered(gone: Iterable[GoneQuote], at: datetime) -> tuple[GoneQuote, ...]:
    return tuple([quote for quote in gone if at - quote.seen_at < REMEMBER_GONE])


def _picked(values: Sequence[Value], places: Sequence[int | None]) -> list[Value | None]:
    return [None if place is None else values[place] for place in places]


def _gone(before: EventState, place: int) -> GoneQuote:
    return GoneQuote(before.quotes[place], before.seen_at[place])


def _hold(board: _Board, place: int, offer: Offer, observed_at: datetime) -> HeldQuote:
    """An offer that is not the one held, as it is now known."""
    old = board.held[place]
    standing = old if old is not None and old.offer.line == offer.line else None
    since = tuple([_since(standing, outcome, observed_at) for outcome in offer.outcomes])
    if standing is not None and len(standing.since) == len(since) and max(since) < observed_at:
        return msgspec.structs.replace(standing, offer=offer, since=since)
    returned = board.returned.get(offer.key)
    after, by = _change_interval(board, place, returned, observed_at)
    return HeldQuote(
        offer=offer,
        since=since,
        observed_at=observed_at,
        changed_after=after,
        changed_by=by,
        previous_seen_at=board.held_seen_at[place] if returned is None else returned.seen_at,
    )


def _since(standing: HeldQuote | None, outcome: OutcomeQuote, observed_at: datetime) -> datetime:
    """Since when one side is at its price; `standing` is the quote before, if it stood at the same line."""
    if standing is not None:
        for held, since in zip(standing.offer.outcomes, standing.since, strict=True):
            if held.outcome == outcome.outcome and held.price == outcome.price:
                return since
    return observed_at


def _change_interval(
    board: _Board, place: int, returned: GoneQuote | None, observed_at: datetime
) -> tuple[datetime | None, datetime | None]:
    """The interval in which the value changed: by the provider's readings, or between sights where they do not say."""
    if returned is not None:
        return returned.seen_at, observed_at
    seen_at = board.held_seen_at[place]
    if seen_at is None:
        return None, None
    after = board.held_readings[place] or seen_at
    by = min(observed_at, board.readings[place] or observed_at)
    return (after, by) if after < by else (seen_at, observed_at)


def _reads(board: _Board, told: set[int], touched: set[tuple[str, str]], start: datetime | None) -> list[int]:
    """Which unchanged quotes' newest reading is to be told: where their market changes, or it passed the start."""
    places: Iterable[int] = (place for market in sorted(touched) for place in _places(board.keys, market))
    if _may_pass(board, start):
        places = range(len(board.keys))
    found = []
    for place in places:
        update, known = board.readings[place], board.told[place]
        if update is None or update == known or place in told:
            continue
        passes = start is not None and (known is None or (known < start) != (update < start))
        if passes or board.keys[place][:2] in touched:
            found.append(place)
    return found


def _may_pass(board: _Board, start: datetime | None) -> bool:
    """Whether any reading can have passed the start since the one that was told."""
    if start is None:
        return False
    moments = {*board.readings, *board.told}
    return None in moments or len({moment < start for moment in moments if moment is not None}) > 1


def _places(keys: tuple[QuoteKey, ...], market: tuple[str, str]) -> range:
    """Where a market's quotes stand: keys are in order, and begin with the market and the player."""
    return range(bisect_left(keys, market), bisect_right(keys, market, key=_market))


def _market(key: QuoteKey) -> tuple[str, str]:
    return key[:2]


def _by_market(board: _Board, places: Sequence[int], observed_at: datetime) -> tuple[Reads, ...]:
    # Books are mostly read together: their readings are few.
    ages = {reading: _age(reading, observed_at) for reading in {board.readings[place] for place in places}}
    columns: dict[tuple[str, str], list[int]] = {}
    for place in places:
        columns.setdefault(board.keys[place][:2], []).append(place)
    return tuple(
        [
            Reads(
                market,
                player,
                tuple([board.keys[place][2] for place in held]),
                tuple([ages[board.readings[place]] for place in held]),
            )
            for (market, player), held in columns.items()
        ]
    )


def _age(reading: datetime | None, observed_at: datetime) -> float:
    assert reading is not None
    return (observed_at - reading).total_seconds()


def _snapshots(
    event_id: str, held: HeldQuote, last_update: datetime | None, observed_at: datetime
) -> Iterator[Snapshot]:
    offer = held.offer
    market, player, book = offer.key
    for outcome, since in zip(offer.outcomes, held.since, strict=True):
        if since == observed_at:
            mirrored = outcome.outcome == "away" and offer.line is not None
            yield Snapshot(
                id=snapshot_id(event_id, book, market, player, outcome.outcome, observed_at),
                event_id=event_id,
                book=book,
                market=market,
                player=player,
                outcome=outcome.outcome,
                price=outcome.price,
                line=0.0 - offer.line if mirrored and offer.line is not None else offer.line,
                observed_at=observed_at,
                last_update=last_update,
                changed_after=held.changed_after,
                changed_by=held.changed_by,
                link=outcome.link,
                limit=outcome.limit,
                sid=outcome.sid,
            )


def _disappearance(event_id: str, gone: GoneQuote, observed_at: datetime) -> Disappearance:
    market, player, book = gone.key
    return Disappearance(event_id, book, market, player, gone.seen_at, observed_at)
