"""STEAM: many books moved fast and far, the same way, with hardly one against.

Fires before the start, in spreads and totals, when within 3 minutes (STEAM_WINDOW_MINUTES) at least 4 clusters
(STEAM_MIN_BOOKS) moved the same way, the panel's median changed by at least 0.5 (STEAM_MIN_MOVE_SPREAD) or 1.0
(STEAM_MIN_MOVE_TOTAL) with the median of the clusters' own changes, and at most one cluster moved against. Scored by
MOVE's thresholds. One in 900 s for a market and direction, 4 an event in any 60 minutes.
"""

from __future__ import annotations

from services.shared.odds import MarketKind
from services.signals.model import MarketState, Reason, SignalType
from services.signals.rules import movement
from services.signals.rules.candidate import NOTHING, Verdict
from services.signals.rules.move import panel_delta, reaches
from services.signals.rules.movement import number
from services.signals.rules.window import Moment, Movers, Panel, direction_of, find_movers, find_panel


def judge(market: MarketState, kind: MarketKind, moment: Moment) -> Verdict:
    """Whether there is steam, or would be but for a reason."""
    settings = moment.settings
    if kind is MarketKind.H2H:
        return NOTHING
    seconds = settings.window_seconds(settings.steam_window_minutes)
    far = settings.steam_threshold(kind)
    panel = find_panel(market, kind, moment, seconds, movers=settings.steam_min_books, far=far)
    if panel is None:
        return NOTHING
    movers = _trigger(panel, kind, moment)
    if movers is None:
        wide = panel.with_those_that_left()
        if panel.left and _trigger(wide, kind, moment) is not None:
            direction = direction_of(kind, panel_delta(wide))
            return movement.held(market, SignalType.STEAM, direction, movement.hidden_by_sampling(panel))
        return NOTHING

    delta = panel_delta(panel)
    reason = movement.timing_reason(panel, movers, moment)
    if reason is None and (movers.against > settings.steam_max_against or panel.own_change * delta <= 0):
        reason = Reason.AGAINST
    if reason is not None:
        return movement.held(market, SignalType.STEAM, direction_of(kind, delta), reason)

    steps = (
        f"{len(movers.clusters)} clusters moved the same way, where {settings.steam_min_books} are asked for, and "
        f"{movers.against} against, where {settings.steam_max_against} is allowed.",
        f"The median went from {number(panel.from_value)} to {number(panel.to_value)}: {number(delta)}, "
        f"where {number(settings.steam_threshold(kind))} is asked for; that of the clusters' own changes is "
        f"{number(panel.own_change)}.",
    )
    found = movement.candidate(
        market,
        kind,
        moment,
        panel,
        movers,
        SignalType.STEAM,
        panel.from_value,
        delta,
        settings.move_threshold(kind),
        panel_delta,
        steps,
        {"clusters_against": str(movers.against), "own_change": number(panel.own_change)},
    )
    return Verdict(candidates=(found,))


def _trigger(panel: Panel, kind: MarketKind, moment: Moment) -> Movers | None:
    """Those who moved with the median, when they are enough and it went far enough."""
    if not reaches(panel, moment.settings.steam_threshold(kind)):
        return None
    movers = find_movers(panel, 1.0 if panel_delta(panel) > 0 else -1.0, moment.settings.step(kind))
    return movers if len(movers.clusters) >= moment.settings.steam_min_books else None
