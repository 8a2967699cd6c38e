"""The suppression log: whatever met a trigger and was held back, one row for as long as it is held back.

A row is a span of consecutive observations at which the same (market, type, direction, book) was held back for the same
reason, with a count, the first and the last observation. Reasons, of which the first that holds is named: `stale_feed`,
`sparse_sampling`, `too_few_books`, `against`, `implausible`, `cooldown`, `cap`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from services.signals.model import Direction, HeldBack, MarketKey, Reason, SignalType, SuppressionRow
from services.signals.rules.candidate import Held


def continue_spans(before: Iterable[HeldBack], held: Iterable[Held], now: datetime) -> tuple[HeldBack, ...]:
    """The spans that are open after this observation: continued where the same was held back at the one before."""
    running = {(span.signal_type, span.direction, span.book, span.reason): span for span in before}
    spans: list[HeldBack] = []
    for one in sorted(set(held)):
        name = (str(one.signal_type), str(one.direction), one.book, str(one.reason))
        span = running.get(name)
        first_seen_at, count = (now, 0) if span is None else (span.first_seen_at, span.count)
        spans.append(HeldBack(*name, count + 1, first_seen_at, now))
    return tuple(spans)


def rows(event_id: str, sport_key: str, key: MarketKey, spans: Iterable[HeldBack]) -> tuple[SuppressionRow, ...]:
    """The spans as rows of the log."""
    return tuple(
        SuppressionRow(
            event_id=event_id,
            sport_key=sport_key,
            market=key.market,
            player=key.player,
            signal_type=SignalType(span.signal_type),
            direction=Direction(span.direction),
            book=span.book,
            reason=Reason(span.reason),
            count=span.count,
            first_seen_at=span.first_seen_at,
            last_seen_at=span.last_seen_at,
        )
        for span in spans
    )
