"""MOVE: the market went to another number, each book measured against itself.

Fires before the start, when at least 4 clusters stood at both ends of the window (10 minutes; totals 15), the median
of their lines changed by at least 0.5 (spreads) or 1.0 (totals), in h2h that of their fair probabilities by 0.015, and
the median of the clusters' own changes has the same sign, so that at least half of them moved that way. The movers must
have changed within 1.1 windows. Afterwards the market's window starts at the completing observation: no change counts
twice, and a reversal is a new fact. A spread that crosses key numbers is told as KEY_CROSS instead.
"""

from __future__ import annotations

from services.shared.odds import MarketKind, canonical
from services.signals.model import MarketState, Reason, SignalType
from services.signals.rules import key_cross, movement
from services.signals.rules.candidate import NOTHING, Verdict
from services.signals.rules.movement import number
from services.signals.rules.score import key_mass_part
from services.signals.rules.window import Moment, Panel, direction_of, find_movers, find_panel


def judge(market: MarketState, kind: MarketKind, moment: Moment) -> Verdict:
    """Whether the market moved, crossed key numbers, or would have but for a reason."""
    settings = moment.settings
    threshold = settings.move_threshold(kind)
    panel = find_panel(market, kind, moment, settings.move_window_seconds(kind), market.anchor, far=threshold)
    if panel is None:
        return NOTHING
    if not reaches(panel, threshold):
        wide = panel.with_those_that_left()
        if panel.left and reaches(wide, threshold):
            signal_type, _ = _type_and_mass(market, kind, moment, wide)
            direction = direction_of(kind, panel_delta(wide))
            return movement.held(market, signal_type, direction, movement.hidden_by_sampling(panel))
        return NOTHING

    delta = panel_delta(panel)
    sign = 1.0 if delta > 0 else -1.0
    signal_type, mass = _type_and_mass(market, kind, moment, panel)
    movers = find_movers(panel, sign, settings.step(kind))
    if not movers.books:
        movers = find_movers(panel, sign, step=0.0)  # an h2h median may go further than any one book did
    reason = movement.timing_reason(panel, movers, moment)
    if reason is None and panel.size < settings.move_min_books:
        reason = Reason.TOO_FEW_BOOKS
    if reason is None and panel.own_change * sign <= 0:
        reason = Reason.AGAINST
    if reason is not None:
        return movement.held(market, signal_type, direction_of(kind, delta), reason)

    steps = [
        f"The median went from {number(panel.from_value)} to {number(panel.to_value)}: {number(delta)}, "
        f"where {number(threshold)} is asked for.",
        f"The median of the clusters' own changes is {number(panel.own_change)}: the same way.",
    ]
    meta = {"own_change": number(panel.own_change)}
    if signal_type is SignalType.KEY_CROSS:
        shares = settings.key_numbers(moment.sport_key)
        crossed = ", ".join(
            str(margin) for margin in key_cross.numbers_crossed(panel.from_value, panel.to_value, shares)
        )
        meta |= {"key_mass": number(mass), "key_numbers": crossed}
        steps.append(
            f"It touches {crossed}, a mass of {number(mass)}; from {settings.key_cross_min_mass} it is a crossing."
        )
    found = movement.candidate(
        market,
        kind,
        moment,
        panel,
        movers,
        signal_type,
        panel.from_value,
        delta,
        threshold,
        panel_delta,
        tuple(steps),
        meta,
        key_mass_part(mass) if signal_type is SignalType.KEY_CROSS else 0.0,
    )
    return Verdict(candidates=(found,))


def panel_delta(panel: Panel) -> float:
    """The change of the panel's median."""
    return canonical(panel.to_value - panel.from_value)


def reaches(panel: Panel, threshold: float) -> bool:
    """Whether the panel's median changed by the threshold."""
    return panel.size > 0 and abs(panel_delta(panel)) >= threshold


def _type_and_mass(market: MarketState, kind: MarketKind, moment: Moment, panel: Panel) -> tuple[SignalType, float]:
    settings = moment.settings
    # A quarter's margins fall otherwise than a game's, so only the full game's spread has key numbers.
    if kind is not MarketKind.SPREAD or market.key.market != "spreads":
        return SignalType.MOVE, 0.0
    mass = key_cross.mass_crossed(panel.from_value, panel.to_value, settings.key_numbers(moment.sport_key))
    return (SignalType.KEY_CROSS if mass >= settings.key_cross_min_mass else SignalType.MOVE), mass
