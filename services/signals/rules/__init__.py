"""What decides: one observation of an event in, the signals that it completes out. Pure; the same live and replayed.

`observe` remembers the observation (`memory`), asks each rule about each market that could have something to say
(`move` with `key_cross`, `sync`, `steam`, `dislocation`), lets the strongest pass cooldown and cap (`publish`), and
logs what was held back (`suppression`). All of it is pre-game: in play nothing is judged. Time is the observations'.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from types import ModuleType

from msgspec.structs import replace

from services.signals.model import (
    DetectedSignal,
    EventState,
    MarketKey,
    MarketState,
    Observation,
    SignalType,
    SuppressionRow,
)
from services.signals.rules import dislocation, key_cross, move, publish, score, steam, suppression, sync
from services.signals.rules.candidate import Candidate, Held
from services.signals.rules.holding import holding_now
from services.signals.rules.memory import IncompleteError, remember
from services.signals.rules.settings import RULES_VERSION, RuleSettings
from services.signals.rules.window import Moment, asks_for, kind_of

__all__ = ["RULES_VERSION", "IncompleteError", "RuleSettings", "holding_now", "observe", "specification"]

_RULES: dict[SignalType, ModuleType] = {
    SignalType.MOVE: move,
    SignalType.KEY_CROSS: key_cross,
    SignalType.MULTIBOOK_SYNC: sync,
    SignalType.STEAM: steam,
    SignalType.DISLOCATION: dislocation,
}


def observe(
    state: EventState | None, observation: Observation, settings: RuleSettings
) -> tuple[EventState, tuple[DetectedSignal, ...], tuple[SuppressionRow, ...]]:
    """The event's state after an observation, the signals that it completes, and what was held back at it.

    `state` is what the call before gave for the same event, None at its first observation. Observations come in order.
    Raises IncompleteError for one that builds on what the state does not hold; a keyframe never does.
    """
    state, changed = remember(state, observation, settings)
    if state.pregame_since is None:
        return _at_rest(state, settings), (), ()

    moment = Moment(state.sport_key, state.sights, state.pregame_since, settings)
    judged: dict[MarketKey, MarketState] = {}
    candidates: list[Candidate] = []
    held: list[Held] = []
    for market in state.markets:
        if not asks_for(observation.asked, market.key.market):
            continue
        standing = _could_stand_apart(market, changed, moment)
        moving = bool(market.moves) and market.moves[-1] > moment.sights[0].observed_at
        if standing or moving:
            judged[market.key] = _judge(market, moment, standing, moving, candidates, held)
    if not judged:
        return state, (), ()

    if not candidates and not held and not any(market.held_back for market in judged.values()):
        return _with_markets(state, judged.values()), (), ()
    choice = publish.choose(candidates, judged, state.capped, moment)
    signals = publish.compose(choice.chosen, judged, state, moment) if choice.chosen else ()
    held.extend(choice.held)
    rows: list[SuppressionRow] = []
    after: list[MarketState] = []
    for key, market in judged.items():
        spans = suppression.continue_spans(market.held_back, (one for one in held if one.key == key), moment.now)
        rows.extend(suppression.rows(state.event_id, state.sport_key, key, spans))
        published = [candidate for candidate in choice.chosen if candidate.key == key]
        after.append(publish.after_publishing(market, published, spans, moment.now))
    return _with_markets(replace(state, capped=choice.capped), after), signals, tuple(rows)


def specification(signal_type: SignalType) -> str:
    """A rule in words, as the running code holds it: its own specification, and how it is scored."""
    texts = [inspect.getdoc(_RULES[signal_type]), inspect.getdoc(score)]
    if signal_type is SignalType.KEY_CROSS:
        texts.insert(1, inspect.getdoc(move))
    return "\n\n".join(text for text in texts if text)


def _could_stand_apart(market: MarketState, changed: frozenset[MarketKey], moment: Moment) -> bool:
    """Whether episodes could go on otherwise than they stand: most observations change nothing, and cost nothing."""
    return (
        market.key in changed
        or bool(market.held_back)
        # A start that was put off ends the rest that the game had brought, though nothing else may have changed.
        or moment.pregame_since == moment.now
        or any(episode.told_multiple == 0 for episode in market.episodes)
        or dislocation.after_silence(market, moment)
    )


def _judge(
    market: MarketState, moment: Moment, standing: bool, moving: bool, candidates: list[Candidate], held: list[Held]
) -> MarketState:
    kind = kind_of(market.key.market)
    if kind is None:
        return market
    verdicts = [rule.judge(market, kind, moment) for rule in (move, sync, steam)] if moving else []
    if standing:
        episodes, ends, apart = dislocation.judge(market, kind, moment)
        verdicts.append(apart)
        if episodes != market.episodes or ends != market.episode_ends:
            market = replace(market, episodes=episodes, episode_ends=ends)
    for verdict in verdicts:
        candidates.extend(verdict.candidates)
        held.extend(verdict.held)
    return market


def _at_rest(state: EventState, settings: RuleSettings) -> EventState:
    """The state in play: episodes have ended, and nothing is held back."""
    moment = Moment(state.sport_key, state.sights, state.observed_at, settings)
    return _with_markets(
        state,
        [
            replace(
                market,
                episodes=(),
                episode_ends=dislocation.ends_after(market, list(market.episodes), moment),
                held_back=(),
            )
            for market in state.markets
            if market.episodes or market.held_back
        ],
    )


def _with_markets(state: EventState, markets: Iterable[MarketState]) -> EventState:
    known = {market.key: market for market in state.markets}
    replaced = {market.key: market for market in markets if market is not known[market.key]}
    if not replaced:
        return state
    return replace(state, markets=tuple([replaced.get(key, market) for key, market in known.items()]))
