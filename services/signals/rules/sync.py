"""MULTIBOOK_SYNC: several books moved the same way together, before the market as a whole has: the early warning.

Fires before the start, when within 5 minutes at least 3 clusters changed the same way (their line; in h2h their fair
probability by 0.006), and more that way than against. Its delta is the median of the movers' own deltas, `from` the
median of where they stood, and it is scored by MOVE's thresholds. One in 300 s for a market and direction.
"""

from __future__ import annotations

from services.shared.odds import MarketKind, canonical, median
from services.signals.model import MarketState, Reason, SignalType
from services.signals.rules import movement
from services.signals.rules.candidate import NOTHING, Candidate, Held, Verdict
from services.signals.rules.movement import number
from services.signals.rules.window import Moment, Movers, Panel, clusters_of, direction_of, find_movers, find_panel


def judge(market: MarketState, kind: MarketKind, moment: Moment) -> Verdict:
    """Whether several books moved together, either way, or would have but for a reason."""
    settings = moment.settings
    seconds = settings.window_seconds(settings.sync_window_minutes)
    step = settings.step(kind)
    panel = find_panel(market, kind, moment, seconds, movers=settings.sync_min_books, step=step)
    if panel is None:
        return NOTHING
    candidates: list[Candidate] = []
    held: list[Held] = []
    for sign in (1.0, -1.0):
        movers = find_movers(panel, sign, step)
        reason: Reason | None
        if len(movers.clusters) >= settings.sync_min_books:
            reason = movement.timing_reason(panel, movers, moment)
            if reason is None and len(movers.clusters) <= movers.against:
                reason = Reason.AGAINST
        elif panel.left and _enough(find_movers(panel.with_those_that_left(), sign, step), moment):
            reason = movement.hidden_by_sampling(panel)
        else:
            continue
        if reason is None:
            candidates.append(_candidate(market, kind, moment, panel, movers))
        else:
            held.append(Held(market.key, SignalType.MULTIBOOK_SYNC, direction_of(kind, sign), "", reason))
    return Verdict(tuple(candidates), tuple(held))


def _enough(movers: Movers, moment: Moment) -> bool:
    return len(movers.clusters) >= moment.settings.sync_min_books


def _candidate(market: MarketState, kind: MarketKind, moment: Moment, panel: Panel, movers: Movers) -> Candidate:
    names = {member.book for member in movers.books}

    def movers_delta(part: Panel) -> float:
        moved = clusters_of(member for member in part.changed if member.book in names)
        return canonical(median([cluster.own_change for cluster in moved]))

    steps = (
        f"{len(movers.clusters)} clusters moved the same way, where {moment.settings.sync_min_books} are asked for, "
        f"and {movers.against} against.",
        f"The median of the movers' own changes is {number(movers.delta)}, from {number(movers.from_value)}.",
    )
    return movement.candidate(
        market,
        kind,
        moment,
        panel,
        movers,
        SignalType.MULTIBOOK_SYNC,
        movers.from_value,
        movers.delta,
        moment.settings.move_threshold(kind),
        movers_delta,
        steps,
        {"clusters_against": str(movers.against)},
    )
