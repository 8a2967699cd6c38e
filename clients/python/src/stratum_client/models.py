"""What the API answers, as types: the messages and words of the contracts.

Made by clients/python/generate.py from the contracts. Not to be edited.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from stratum_client.words import Message, Moment, SecretMessage, Word


class SignalType(Word):
    """What kind of thing happened."""

    UNSPECIFIED = "UNSPECIFIED"
    MOVE = "MOVE"
    """The market's line (or probability) moved, book against itself."""
    KEY_CROSS = "KEY_CROSS"
    """A spread moved over, onto or off a margin by which games are often decided."""
    MULTIBOOK_SYNC = "MULTIBOOK_SYNC"
    """Several books moved the same way together: the early warning."""
    STEAM = "STEAM"
    """Many books moved fast, the same way, with hardly one against."""
    DISLOCATION = "DISLOCATION"
    """One book stands apart from the rest. It makes no claim who is right."""
    LIVE_SHOCK = "LIVE_SHOCK"
    """A sudden change in play. Reserved for watched events."""


#: A SignalType, or its text.
SignalTypeLike: TypeAlias = (
    SignalType | Literal["MOVE", "KEY_CROSS", "MULTIBOOK_SYNC", "STEAM", "DISLOCATION", "LIVE_SHOCK"]
)


class Direction(Word):
    """Toward which side the market moved; for a dislocation, the side that the book offers better than the
    others.
    """

    UNSPECIFIED = "UNSPECIFIED"
    TOWARD_HOME = "TOWARD_HOME"
    TOWARD_AWAY = "TOWARD_AWAY"
    OVER = "OVER"
    UNDER = "UNDER"


#: A Direction, or its text.
DirectionLike: TypeAlias = Direction | Literal["TOWARD_HOME", "TOWARD_AWAY", "OVER", "UNDER"]


class Tier(Word):
    """How much activity, by the composite score. Tiers rank activity, not value."""

    UNSPECIFIED = "UNSPECIFIED"
    LOW = "LOW"
    """Below 55."""
    MEDIUM = "MEDIUM"
    """From 55 to below 75."""
    HIGH = "HIGH"
    """75 and more: at least two thresholds, fast and broad."""


#: A Tier, or its text.
TierLike: TypeAlias = Tier | Literal["LOW", "MEDIUM", "HIGH"]


class TimeBucket(Word):
    """How far away the start was when the signal completed. Never re-bucketed."""

    UNSPECIFIED = "UNSPECIFIED"
    OPEN = "OPEN"
    """Six hours or more."""
    MID = "MID"
    """Two hours to six."""
    LATE = "LATE"
    """Half an hour to two hours."""
    PRETIP = "PRETIP"
    """Less than half an hour."""
    INPLAY = "INPLAY"
    """Begun."""
    UNKNOWN = "UNKNOWN"
    """No readable start."""


#: A TimeBucket, or its text.
TimeBucketLike: TypeAlias = TimeBucket | Literal["OPEN", "MID", "LATE", "PRETIP", "INPLAY", "UNKNOWN"]


class Collapse(Word):
    """What to fold together."""

    UNSPECIFIED = "UNSPECIFIED"
    FACT = "FACT"
    """Of the signals of one fact, the strongest only."""


#: A Collapse, or its text.
CollapseLike: TypeAlias = Collapse | Literal["FACT"]


class OrderBy(Word):
    """How to order the feed."""

    UNSPECIFIED = "UNSPECIFIED"
    SCORE = "SCORE"
    """Highest composite score first. The default."""
    TIME = "TIME"
    """Newest first."""


#: A OrderBy, or its text.
OrderByLike: TypeAlias = OrderBy | Literal["SCORE", "TIME"]


class View(Word):
    """How much of each signal to give."""

    UNSPECIFIED = "UNSPECIFIED"
    BASIC = "BASIC"
    """Without the long lists. The default."""
    FULL = "FULL"
    """Everything."""


#: A View, or its text.
ViewLike: TypeAlias = View | Literal["BASIC", "FULL"]


class ScoreSource(Word):
    """How the composite score was made."""

    UNSPECIFIED = "UNSPECIFIED"
    COMPOSITE = "COMPOSITE"
    """From all its parts."""
    STRENGTH_FALLBACK = "STRENGTH_FALLBACK"
    """From the strength alone: the start or the dispersion is missing."""


class Outcome(Word):
    """The side of a market that a number speaks for."""

    UNSPECIFIED = "UNSPECIFIED"
    HOME = "HOME"
    """The home team wins (h2h), or covers (spreads). The canonical side of both."""
    AWAY = "AWAY"
    """The away team wins, or covers."""
    DRAW = "DRAW"
    """Neither: only where a book offers three ways."""
    OVER = "OVER"
    """More than the line. The canonical side of totals."""
    UNDER = "UNDER"
    """Less than the line."""


class SportHealthStatus(Word):
    """SportHealthStatus: an open list of words."""

    UNSPECIFIED = "UNSPECIFIED"
    OK = "OK"
    """Polls are answered in time, and every book is there and is being read. Silence means that nothing
    happened.
    """
    STALE = "STALE"
    """The newest successful poll is older than a quote outlives it (three intervals, at least 180 s), or
    the provider reads no book any more. Prices are history and silence means nothing; nothing is
    concluded from them.
    """
    IDLE = "IDLE"
    """Nobody asks the provider for this sport: a recording, or a sport that is not polled."""
    DEGRADED = "DEGRADED"
    """Prices are fresh and something is missing: `reasons` says what. Trust all but the books it names."""
    LATE = "LATE"
    """A poll is overdue by more than an interval, and the quotes still stand. Wait before acting on a
    price.
    """


class DegradedReasonKind(Word):
    """DegradedReasonKind: an open list of words."""

    UNSPECIFIED = "UNSPECIFIED"
    NEVER_POLLED = "NEVER_POLLED"
    """No poll of the sport has succeeded yet."""
    POLL_OVERDUE = "POLL_OVERDUE"
    """The newest successful poll is older than two intervals."""
    POLL_FAILED = "POLL_FAILED"
    """The newest poll failed; `detail` is the kind of failure, such as `out_of_credits`, `key_refused`,
    `unavailable`.
    """
    BOOK_MISSING = "BOOK_MISSING"
    """A book that was asked for by name, or that has quoted a game that is still to come, quotes nothing."""
    BOOK_NOT_READ = "BOOK_NOT_READ"
    """The provider shows the book's quotes and has not read them for more than 15 minutes."""


class AccountStanding(Word):
    """AccountStanding: an open list of words."""

    UNSPECIFIED = "UNSPECIFIED"
    GOOD = "GOOD"
    """Everything is paid."""
    GRACE = "GRACE"
    """A payment failed; served while it is tried again."""
    SUSPENDED = "SUSPENDED"
    """Not served."""


class ApiKeyMode(Word):
    """ApiKeyMode: an open list of words."""

    UNSPECIFIED = "UNSPECIFIED"
    LIVE = "LIVE"
    """Reads the market. Counted."""
    TEST = "TEST"
    """Reads a recorded evening at the same paths. Not counted."""


class ApiKeyStatus(Word):
    """ApiKeyStatus: an open list of words."""

    UNSPECIFIED = "UNSPECIFIED"
    ACTIVE = "ACTIVE"
    EXPIRED = "EXPIRED"
    REVOKED = "REVOKED"


class ScorePart(Message, frozen=True, kw_only=True):
    """A named part of the strength."""

    name: str = ""
    points: float = 0.0


class ScoreComponent(Message, frozen=True, kw_only=True):
    """A named part of the composite score."""

    name: str = ""
    points: float = 0.0
    parts: tuple[ScorePart, ...] = ()
    """What the strength was made of; only under `strength`."""


class BookMove(Message, frozen=True, kw_only=True):
    """One book's own move."""

    book: str = ""
    cluster: str = ""
    from_value: float = 0.0
    to_value: float = 0.0
    changed_after: Moment | None = None
    """It moved within (changed_after, changed_by]."""
    changed_by: Moment | None = None


class BookHolding(Message, frozen=True, kw_only=True):
    """A book that still offers the old number."""

    book: str = ""
    line: float | None = None
    price: float = 0.0
    """Decimal odds of the side named by `direction`."""
    price_other: float = 0.0
    """Decimal odds of the other side."""
    last_update: Moment | None = None
    age_seconds: float | None = None
    """Seconds from the provider's last reading to the observation."""
    ev_now: float | None = None
    """price × consensus probability at that line − 1: what the old number still costs, or gives."""
    link: str | None = None
    limit: float | None = None


class Signal(Message, frozen=True, kw_only=True):
    """Something in a market that is worth knowing, with the reasons for saying so.

    Values speak for the canonical side (home, or over). h2h has no line: from, to, delta and velocity
    are probabilities (0..1). Absent fields are absent: absent means null.
    """

    id: str = ""
    """Output only. Unique and stable, so consumers can ignore repeats."""
    fact_id: str = ""
    """The same for all signals that one fact caused."""
    also: tuple[str, ...] = ()
    """Ids of the other signals of the same fact."""
    sport_key: str = ""
    event_id: str = ""
    home_team: str = ""
    away_team: str = ""
    commence_time: Moment | None = None
    """As given in the completing observation."""
    market: str = ""
    player: str = ""
    """For props the player; empty otherwise."""
    signal_type: SignalType = SignalType.UNSPECIFIED
    direction: Direction = Direction.UNSPECIFIED
    book: str | None = None
    """The book that stands apart; only for DISLOCATION."""
    from_value: float | None = None
    to_value: float | None = None
    delta: float = 0.0
    from_price: float | None = None
    """Consensus price in decimal odds, before and after."""
    to_price: float | None = None
    strength: int = 0
    """1..100: size, speed and breadth of the movement."""
    velocity: float | None = None
    """|delta| per minute."""
    acceleration: float | None = None
    """Velocity of the window's second half minus the first's; absent where the sampling is too coarse to
    know.
    """
    composite_score: float = 0.0
    """1..100, a ranking heuristic; not a probability of winning."""
    score_source: ScoreSource = ScoreSource.UNSPECIFIED
    tier: Tier = Tier.UNSPECIFIED
    components: tuple[ScoreComponent, ...] = ()
    """The parts, which add up to the composite score exactly."""
    minutes_to_tip: float | None = None
    time_bucket: TimeBucket = TimeBucket.UNSPECIFIED
    observed_at: Moment
    """When ingest saw the quote that completed it."""
    published_at: Moment | None = None
    """When it left us."""
    sampling_seconds: float = 0.0
    """The interval that the polls kept."""
    window_seconds: float | None = None
    elapsed_seconds: float | None = None
    """The longest that the move can have taken."""
    clusters_moved: int = 0
    clusters_in_panel: int = 0
    books_moved: tuple[BookMove, ...] = ()
    """FULL view only."""
    books_holding: tuple[BookHolding, ...] = ()
    """FULL view only. Who still offered the old number, at the completing observation."""
    consensus_line: float | None = None
    fair_line: float | None = None
    fair_probability: float | None = None
    devig_method: str = ""
    dispersion: float | None = None
    snapshot_ids: tuple[str, ...] = ()
    """FULL view only. The quotes that it was computed from."""
    rules_version: str = ""
    config_hash: str = ""
    profile: str = ""
    """Which cadence the windows are cut for."""
    meta: dict[str, str] = msgspec.field(default_factory=dict)
    """Facts that only some types have, by name."""
    cursor: str = ""
    """Where the signal stands in the feed: give it as `after` to a stream to go on behind it."""
    books: tuple[str, ...] = ()
    """The books that moved, in the direction; in every view."""


class ListSignalsResponse(Message, frozen=True, kw_only=True):
    """What `signals` is answered."""

    signals: tuple[Signal, ...] = ()
    next_page_token: str = ""
    """Empty on the last page."""


class GetSignalResponse(Message, frozen=True, kw_only=True):
    """What `signal` is answered."""

    signal: Signal
    books_holding_now: tuple[BookHolding, ...] = ()
    """Who offers the old number at the newest observation."""
    holding_observed_at: Moment | None = None
    """The newest observation of the event."""


class ExplainedInput(Message, frozen=True, kw_only=True):
    """A quote that a signal was computed from."""

    snapshot_id: str = ""
    book: str = ""
    cluster: str = ""
    role: str = ""
    """`from` or `to`: which end of the window."""
    line: float | None = None
    price: float = 0.0
    price_other: float = 0.0
    fair_probability: float | None = None
    observed_at: Moment
    last_update: Moment | None = None


class ExplainSignalResponse(Message, frozen=True, kw_only=True):
    """What `explain` is answered."""

    signal: Signal
    rule: str = ""
    """The rule in words: its specification as the running code holds it."""
    rules_version: str = ""
    config_hash: str = ""
    configuration: str = ""
    """The whole configuration behind the hash, as JSON."""
    inputs: tuple[ExplainedInput, ...] = ()
    """The quotes at both ends of the window that it was computed from."""
    steps: tuple[str, ...] = ()
    """One sentence a step, in the order in which it was decided."""


class Suppression(Message, frozen=True, kw_only=True):
    """Something that met a trigger and was held back, for as long as it was held back at consecutive
    observations.
    """

    event_id: str = ""
    sport_key: str = ""
    market: str = ""
    player: str = ""
    signal_type: SignalType = SignalType.UNSPECIFIED
    direction: Direction = Direction.UNSPECIFIED
    book: str = ""
    """Only for DISLOCATION and `implausible`."""
    reason: str = ""
    """The first that holds: stale_feed, sparse_sampling, too_few_books, against, implausible, cooldown,
    cap.
    """
    count: int = 0
    """Observations at which it was held back."""
    first_seen_at: Moment
    last_seen_at: Moment


class ListSuppressionsResponse(Message, frozen=True, kw_only=True):
    """What `suppressions` is answered."""

    suppressions: tuple[Suppression, ...] = ()
    next_page_token: str = ""


class ExcludedBook(Message, frozen=True, kw_only=True):
    """A book that is not part of the consensus, and why."""

    book: str = ""
    reason: str = ""
    """`implausible`, `pre_tip_quote`, `stale`: it counts for nothing. `other_line`: without a scale for
    the sport its line counts, but not its price, because it stands on another line than the consensus.
    """


class BookWeight(Message, frozen=True, kw_only=True):
    """What a book counted for."""

    book: str = ""
    weight: float = 0.0


class Consensus(Message, frozen=True, kw_only=True):
    """What the market as a whole thinks. Every number speaks for the canonical side: home, or over."""

    event_id: str = ""
    sport_key: str = ""
    market: str = ""
    player: str = ""
    """For props the player; empty otherwise."""
    observed_at: Moment
    consensus_line: float | None = None
    """Median of the books' lines; absent where the market has none."""
    fair_line: float | None = None
    """The line at which both sides would be worth the same; absent without a scale for the sport."""
    fair_probability: float | None = None
    """Probability of the canonical side at the consensus line, the vig removed; absent with too few books."""
    consensus_price: float | None = None
    """1 / fair_probability, in decimal odds."""
    dispersion: float | None = None
    """Population standard deviation of the lines; of the fair probabilities for h2h."""
    dispersion_mad: float | None = None
    """Median absolute deviation of the same."""
    books: int = 0
    """Books and clusters that count in it."""
    clusters: int = 0
    devig_method: str = ""
    """How the vig was removed."""
    in_play: bool = False
    """The event had begun by the start given in the same observation."""
    excluded: tuple[ExcludedBook, ...] = ()
    note: str = ""
    """`too_few_books` or `no_sigma`, where that limits what is said; empty otherwise."""
    weights: tuple[BookWeight, ...] = ()
    heartbeat: bool = False
    """True where the row repeats an unchanged market, so that silence can be told from steadiness."""


class ListConsensusResponse(Message, frozen=True, kw_only=True):
    """What `consensus` is answered."""

    consensus: tuple[Consensus, ...] = ()
    next_page_token: str = ""
    """Empty on the last page."""


class ListConsensusHistoryResponse(Message, frozen=True, kw_only=True):
    """What `consensus_history` is answered."""

    consensus: tuple[Consensus, ...] = ()
    next_page_token: str = ""


class Game(Message, frozen=True, kw_only=True):
    """An event of a sport."""

    event_id: str = ""
    sport_key: str = ""
    home_team: str = ""
    away_team: str = ""
    commence_time: Moment | None = None
    """As the provider last gave it; starts move."""
    observed_at: Moment
    """The newest observation that covered it."""
    in_play: bool = False
    markets: tuple[str, ...] = ()
    """Markets and books that quote it now."""
    books: int = 0


class ListGamesResponse(Message, frozen=True, kw_only=True):
    """What `games` is answered."""

    games: tuple[Game, ...] = ()
    next_page_token: str = ""


class MarketKey(Message, frozen=True, kw_only=True):
    """Names a market inside an event."""

    market: str = ""
    """The provider's key: h2h, spreads, totals, player_points, …"""
    player: str = ""
    """For props the player; empty otherwise."""


class OutcomePrice(Message, frozen=True, kw_only=True):
    """One outcome's price at one book."""

    outcome: Outcome = Outcome.UNSPECIFIED
    price: float = 0.0
    """Decimal odds, above 1. American odds are a rendering."""
    observed_at: Moment
    """When ingest first saw the present price and line. With event, book, market, player and outcome it
    names the snapshot.
    """
    snapshot_id: str = ""
    """The snapshot's id: a hash over (event, book, market, player, outcome, observed_at). Empty in the
    messages of the pipeline, whose readers have everything that it is made of.
    """
    link: str | None = None
    """Where to bet it, if the book told."""
    limit: float | None = None
    """The largest stake the book accepts, if told, in the book's currency."""
    sid: str | None = None
    """The book's own id of the selection, if told."""


class BookQuote(Message, frozen=True, kw_only=True):
    """One book's present quote for a whole market: every outcome, and the canonical side's line."""

    book: str = ""
    """The provider's key of the bookmaker, canonical: draftkings, betmgm, …"""
    key: MarketKey
    line: float | None = None
    """The canonical side's point; absent where the market has no line."""
    outcomes: tuple[OutcomePrice, ...] = ()
    """Two, or three with a draw; the canonical side first."""
    last_update: Moment | None = None
    """When the provider last read this market at this book. Not when it changed."""
    changed_after: Moment | None = None
    """The present value appeared within (changed_after, changed_by]. Absent when this is the first that
    was ever seen.
    """
    changed_by: Moment | None = None
    observed_at: Moment
    """When ingest first saw the present value: prices and line."""
    previous_seen_at: Moment | None = None
    """When ingest saw the value before this one for the last time. Absent at a first observation."""


class OthersView(Message, frozen=True, kw_only=True):
    """The rest of the market, as seen from one book: the consensus of the books outside its cluster,
    however few they are. `fair_probability` is at their `consensus_line`.
    """

    clusters: int = 0
    fair_line: float | None = None
    fair_probability: float | None = None
    dispersion: float | None = None
    consensus_line: float | None = None


class BookView(Message, frozen=True, kw_only=True):
    """One book in a market, and how it stands against the books outside its cluster."""

    quote: BookQuote
    cluster: str = ""
    """Books that share a feed have the same cluster."""
    fair_probability: float | None = None
    """The canonical side's probability at the book's own line, the vig removed."""
    implied_mean: float | None = None
    """The implied mean on the common scale: −line + σ·Φ⁻¹(p) for spreads, line + σ·Φ⁻¹(p) for totals,
    logit p for h2h.
    """
    excluded: str = ""
    """Why it is left out of the consensus: `implausible`, `pre_tip_quote`, `stale`. Empty when it is in."""
    others: OthersView | None = None
    """The comparison; absent when no other cluster stands in the market."""


class CurrentQuote(Message, frozen=True, kw_only=True):
    """A book's quote and how old each part of it is."""

    view: BookView
    read_age_seconds: float | None = None
    """Seconds from the provider's last reading to the newest observation."""
    value_age_seconds: float = 0.0
    """Seconds that the present value has stood, up to the newest observation."""
    american: int = 0
    """American odds of the canonical side and of the other, as a rendering."""
    american_other: int = 0


class SeriesPoint(Message, frozen=True, kw_only=True):
    observed_at: Moment
    line: float | None = None
    price: float | None = None
    """The canonical side's price: the book's own, or the consensus price."""
    fair_probability: float | None = None
    gone: bool = False
    """True from where the quote was gone."""


class BookSeries(Message, frozen=True, kw_only=True):
    book: str = ""
    points: tuple[SeriesPoint, ...] = ()


class GameMarket(Message, frozen=True, kw_only=True):
    """A market of a game, with what each book quotes and how it got there."""

    key: MarketKey
    consensus: Consensus
    books: tuple[CurrentQuote, ...] = ()
    consensus_series: tuple[SeriesPoint, ...] = ()
    """Oldest first, at most 500 points, thinned evenly when there are more."""
    book_series: tuple[BookSeries, ...] = ()


class GetGameResponse(Message, frozen=True, kw_only=True):
    """What `game` is answered."""

    game: Game
    markets: tuple[GameMarket, ...] = ()


class BookHealth(Message, frozen=True, kw_only=True):
    """How one book's quotes are doing, over the events of the newest poll."""

    book: str = ""
    last_update: Moment | None = None
    """The newest reading that the provider gave."""
    age_seconds: float | None = None
    quotes: int = 0
    """Quotes in the newest poll."""
    events: int = 0
    """Events in which it quoted, of those in the newest poll."""
    changed_share: float | None = None
    """Share of its quotes that a poll finds changed, older polls counting less: half after 10 minutes."""
    missing: bool = False
    """It should quote now and does not."""
    seen_at: Moment | None = None
    """The newest poll that showed a quote of it; absent when none did."""


class DegradedReason(Message, frozen=True, kw_only=True):
    """One thing that is wrong with a feed."""

    kind: DegradedReasonKind = DegradedReasonKind.UNSPECIFIED
    book: str | None = None
    """The book that it is about; absent where it is about the sport."""
    detail: str = ""
    """For people; of a failed poll the kind of failure."""


class SportHealth(Message, frozen=True, kw_only=True):
    """How one sport's feed is doing."""

    sport_key: str = ""
    status: SportHealthStatus = SportHealthStatus.UNSPECIFIED
    observed_at: Moment | None = None
    """The newest successful poll."""
    age_seconds: float | None = None
    expected_interval_seconds: float = 0.0
    consecutive_failures: int = 0
    """Failed polls since the last success."""
    last_failure: str = ""
    """Why the last poll failed, by kind; empty after a success."""
    books: tuple[BookHealth, ...] = ()
    credits_remaining: int | None = None
    """Credits left as the provider last said; absent when it did not."""
    reasons: tuple[DegradedReason, ...] = ()
    """Why the status is not OK; empty when it is, or when nothing is polled."""
    changed_share: float | None = None
    """Share of quotes that a poll finds changed, older polls counting less: half after 10 minutes. Absent
    without quotes.
    """
    missing_books: tuple[str, ...] = ()
    """Books that should quote now and do not, by key."""
    last_failure_at: Moment | None = None
    """The newest poll that failed, kept after a success; absent when none ever did."""


class GetFeedHealthResponse(Message, frozen=True, kw_only=True):
    """What `health` is answered."""

    sports: tuple[SportHealth, ...] = ()


class UsageForecast(Message, frozen=True, kw_only=True):
    """Where a period's usage leads to, if it goes on as in the last seven days (or since the period
    began).
    """

    units: int = 0
    overage_units: int = 0
    overage_cost_cents: int = 0
    limit_reached_at: Moment | None = None
    """When the soft limit is reached; absent if it is not in this period."""


class KeyUsage(Message, frozen=True, kw_only=True):
    """What one key used in the period."""

    key_id: str = ""
    name: str = ""
    units: int = 0
    requests: int = 0


class DayUsage(Message, frozen=True, kw_only=True):
    """What was used on one day (UTC)."""

    day: str = ""
    """2026-11-26."""
    units: int = 0
    requests: int = 0


class UsageNotice(Message, frozen=True, kw_only=True):
    """A share of the soft limit that was reached."""

    threshold_percent: int = 0
    """80, 100 or 120."""
    reached_at: Moment
    used_units: int = 0
    included_units: int = 0


class UsageSummary(Message, frozen=True, kw_only=True):
    """One account's usage in one period."""

    account_id: str = ""
    period_start: Moment
    period_end: Moment
    included_units: int = 0
    """The soft limit."""
    used_units: int = 0
    remaining_units: int = 0
    """Included and not used; 0 above the limit."""
    overage_units: int = 0
    """Used above the limit."""
    overage_cost_cents: int = 0
    """What they cost so far, in cents: each beginning cent counts."""
    counted_at: Moment
    """What was counted until now: calls of the last seconds may be missing."""
    forecast: UsageForecast | None = None
    """Absent for a period that is over."""
    keys: tuple[KeyUsage, ...] = ()
    days: tuple[DayUsage, ...] = ()
    """Days with usage, oldest first."""
    notices: tuple[UsageNotice, ...] = ()
    """Limits that were reached, in order."""


class GetUsageResponse(Message, frozen=True, kw_only=True):
    """What `usage` is answered."""

    usage: UsageSummary


class LedgerEntry(Message, frozen=True, kw_only=True):
    """One served call, or one stretch of a stream."""

    request_id: str = ""
    """The X-Request-Id that the answer carried."""
    part: int = 0
    """0 for a call; of a stream the number of the stretch, from 0."""
    started_at: Moment
    """When the call, or the stretch, began."""
    key_id: str = ""
    method: str = ""
    """ReadSignals, StreamSignals, …"""
    path: str = ""
    """Without the query."""
    status: int = 0
    units: int = 0
    """What it counts: 1, or 0 where nothing was delivered."""
    overage_units: int = 0
    """Of these, above the soft limit."""
    billed_hour: Moment
    """The hour under which it is billed: its own, or a later one if it became known after its own was
    closed.
    """
    late: bool = False
    """Became known after its hour was closed."""


class ListUsageLedgerResponse(Message, frozen=True, kw_only=True):
    """What `ledger` is answered."""

    entries: tuple[LedgerEntry, ...] = ()
    next_page_token: str = ""
    """Empty on the last page."""


class QuoteUsageResponse(Message, frozen=True, kw_only=True):
    """What `quote` is answered."""

    method: str = ""
    """ReadSignals, StreamSignals, …"""
    billable: bool = False
    """Whether the call is counted."""
    units: int = 0
    """What it counts when it is served; of a stream, what each stretch counts."""
    stretch_seconds: int | None = None
    """Of a stream: how long a stretch is. Absent for other calls."""
    remaining_units: int = 0
    """Included units that are left now."""
    overage: bool = False
    """Whether it would be above the soft limit."""
    cost_cents: float = 0.0
    """What it would cost beyond the plan, in cents: 0 within the soft limit."""
    scope: str = ""
    """The scope that a key needs for it; empty when it needs none."""


class RateLimit(Message, frozen=True, kw_only=True):
    """How fast one key may call. A bucket that holds `requests` and fills evenly in `per_seconds`."""

    requests: int = 0
    per_seconds: int = 0


class PlanStatus(Message, frozen=True, kw_only=True):
    """What an account bought and how it stands."""

    account_id: str = ""
    api_access_enabled: bool = False
    api_plan_code: str = ""
    api_usage_soft_limit: int = 0
    api_overage_rate_cents: int = 0
    """Cents for 1,000 units above the soft limit."""
    standing: AccountStanding = AccountStanding.UNSPECIFIED
    rate_class: str = ""
    rate_limit: RateLimit
    """For each key."""
    period_start: Moment
    period_end: Moment
    in_overage: bool = False
    """Whether the soft limit of the period is passed."""
    overage_units: int = 0
    overage_cost_cents: int = 0


class GetPlanResponse(Message, frozen=True, kw_only=True):
    """What `plan` is answered."""

    plan: PlanStatus


class ApiKey(Message, frozen=True, kw_only=True):
    """What a partner's program proves itself with. The secret is given once, when the key is made, and
    kept as a keyed hash.
    """

    id: str = ""
    account_id: str = ""
    name: str = ""
    mode: ApiKeyMode = ApiKeyMode.UNSPECIFIED
    hint: str = ""
    """Its beginning and its last four characters, to tell keys apart by: stratum_live_…x7Qk."""
    status: ApiKeyStatus = ApiKeyStatus.UNSPECIFIED
    scopes: tuple[str, ...] = ()
    allowed_addresses: tuple[str, ...] = ()
    """Addresses (203.0.113.7) and networks (203.0.113.0/24) that it may be used from; anywhere when empty."""
    created_at: Moment
    expires_at: Moment | None = None
    """Absent: never."""
    last_used_at: Moment | None = None
    """As metering last saw it: a minute late at most."""
    revoked_at: Moment | None = None
    revoked_reason: str = ""
    """Why: revoked, rotated, leaked."""
    replaces: str | None = None
    """The key that this one was made to replace; absent for a key that replaced none."""


class ListOwnKeysResponse(Message, frozen=True, kw_only=True):
    """What `keys` is answered."""

    keys: tuple[ApiKey, ...] = ()


class RotateOwnKeyResponse(SecretMessage, frozen=True, kw_only=True):
    """What `rotate_key` is answered."""

    key: ApiKey
    secret: str = ""
    """The new secret. Given once: a repeated call with the same Idempotency-Key gives the same key without
    it.
    """
    old_key_expires_at: Moment
    """Until when the old key goes on."""


class RevokeOwnKeyResponse(Message, frozen=True, kw_only=True):
    """What `revoke_key` is answered."""

    key: ApiKey


class ReportLeakedKeyResponse(Message, frozen=True, kw_only=True):
    """What `report_leaked_key` is answered."""

    revoked: bool = False
    """It was a key of ours, and opens nothing any more."""


class Heartbeat(Message, frozen=True, kw_only=True):
    """Nothing new; the stream lives. Carries the cursor to resume from."""

    cursor: str = ""


class Truncated(Message, frozen=True, kw_only=True):
    """Older signals than these can no longer be given."""

    reason: str = ""
    """Why: `retention`, `unknown_feed`."""
    cursor: str = ""
    """Where the stream goes on."""
