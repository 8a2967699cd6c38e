"""The simulated market: what every book offers on every game at any moment. Pure, and the same for the same seed.

`Market(seed, opened_at).board(moment)` depends on nothing else: not on who asks, how often, or what was asked before.
Each game is drawn once, whole, from the seed and its number:

* **Slate.** A game starts every 45 minutes; about twelve wait for their start and three are being played. Starts move:
  some by a delay known half an hour ahead, some by a few minutes at the last moment.
* **Latent means.** The expected home margin and the expected total each walk in steps. Most steps are *drift*, small,
  followed by each book when it gets round to it. Some are *news*, larger: the whole market follows, within minutes when
  it is loud, within a quarter of an hour when it is not. The nearer the start the more of both. After the start every
  possession is a step.
* **Books.** Each follows a step after its own delay (books of one feed after the same), sometimes sleeps through one
  for a long while, holds a shade of its own, and keeps its line until its price would be too far from even.
* **What goes wrong.** Outages of a book, a market taken down while news arrives, a total typed as 3.0, a stale book.
* **Reading.** The provider reads each book at intervals with a phase of their own, and `last_update` is that reading: a
  quote is what the book offered then.

What it is calibrated against, and how far off it is, `calibration.py` says.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from random import Random
from statistics import NormalDist
from zlib import crc32

from deploy.simulator.books import BOOKS, BookProfile
from services.shared.odds import decimal_from_american

SPORT_KEY = "basketball_nba"
SPORT_TITLE = "NBA"

TEAMS = (
    "Atlanta Hawks", "Boston Celtics", "Brooklyn Nets", "Charlotte Hornets", "Chicago Bulls",
    "Cleveland Cavaliers", "Dallas Mavericks", "Denver Nuggets", "Detroit Pistons", "Golden State Warriors",
    "Houston Rockets", "Indiana Pacers", "Los Angeles Clippers", "Los Angeles Lakers", "Memphis Grizzlies",
    "Miami Heat", "Milwaukee Bucks", "Minnesota Timberwolves", "New Orleans Pelicans", "New York Knicks",
    "Oklahoma City Thunder", "Orlando Magic", "Philadelphia 76ers", "Phoenix Suns", "Portland Trail Blazers",
    "Sacramento Kings", "San Antonio Spurs", "Toronto Raptors", "Utah Jazz", "Washington Wizards",
)  # fmt: skip

#: A game starts this often, is first quoted this long before, and lasts this long.
SPACING = timedelta(minutes=45)
LISTED_BEFORE = timedelta(hours=9)
DURATION = timedelta(minutes=140)
FIRST_START = timedelta(minutes=14)

#: Most news is noticed slowly: it takes the market a quarter of an hour, not two minutes.
SLOW_PACE = 8.0
#: Games that get news within the first quarter of an hour, so that nobody watches a market asleep.
OPENING_NEWS = (2, 4)

SIGMA = {"spreads": 12.3, "totals": 18.0}
#: A line is kept until the fair probability at it is this far from one half.
LINE_PATIENCE = {"spreads": 0.0125, "totals": 0.0115}
#: A head-to-head price is kept until the fair probability is this far from the one it was made for.
PRICE_PATIENCE = 0.009
#: Prices stand on a grid of fair probabilities.
PRICE_STEP = 0.01
MARKETS = ("h2h", "spreads", "totals")
TYPED_TOTAL = 3.0

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Step:
    """The market's mean from a moment on, in seconds from the game's first listing."""

    at: float
    mean: float
    #: How slowly news spreads: a book's own reaction time is multiplied by it. 0 is drift.
    pace: float


@dataclass(frozen=True, slots=True)
class Quote:
    """One book's prices in one market, American, canonical side first. `line` is the canonical side's point."""

    market: str
    line: float | None
    price: int
    price_other: int


@dataclass(frozen=True, slots=True)
class BookBoard:
    """What a book offered on a game when the provider last read it."""

    book: BookProfile
    last_update: datetime
    quotes: tuple[Quote, ...]


@dataclass(frozen=True, slots=True)
class GameBoard:
    """A game as the provider lists it."""

    id: str
    commence_time: datetime
    home_team: str
    away_team: str
    books: tuple[BookBoard, ...]


@dataclass(frozen=True, slots=True)
class Score:
    """A game's score so far; none before it has begun."""

    id: str
    commence_time: datetime
    home_team: str
    away_team: str
    completed: bool
    points: tuple[int, int] | None
    last_update: datetime | None


@dataclass(frozen=True, slots=True)
class _Gaps:
    """Disjoint intervals as one ascending row of bounds: a moment with an odd number of them behind it is in a gap."""

    bounds: tuple[float, ...] = ()

    def holds(self, moment: float) -> bool:
        return bisect_right(self.bounds, moment) % 2 == 1


@dataclass(frozen=True, slots=True)
class _Series:
    """A value that holds from each time to the next."""

    times: tuple[float, ...]
    quotes: tuple[Quote, ...]

    def at(self, moment: float) -> Quote | None:
        index = bisect_right(self.times, moment) - 1
        return self.quotes[index] if index >= 0 else None


@dataclass(frozen=True, slots=True)
class _Feed:
    margin: tuple[Step, ...]
    total: tuple[Step, ...]
    margin_shade: float
    total_shade: float


@dataclass(frozen=True, slots=True)
class _BookTimeline:
    book: BookProfile
    opens: float
    phase: float
    series: tuple[_Series, ...]
    away: _Gaps
    #: When each market is taken down, in the order of the series.
    closed: tuple[_Gaps, ...]
    typo: _Gaps

    def read_at(self, moment: float, game_id: str) -> float:
        """The provider's last reading at or before a moment; readings come early or late by up to a fifth."""
        number = math.floor((moment - self.phase) / self.book.read_interval)
        while True:
            lateness = crc32(f"{game_id}{self.book.key}{number}".encode()) / 2**32 * 0.2
            reading = self.phase + (number + lateness) * self.book.read_interval
            if reading <= moment:
                return math.floor(reading)
            number -= 1

    def quotes_at(self, reading: float) -> tuple[Quote, ...]:
        if reading < self.opens or self.away.holds(reading):
            return ()
        found = []
        for series, closed in zip(self.series, self.closed, strict=True):
            quote = series.at(reading)
            if quote is None or closed.holds(reading):
                continue
            if quote.market == "totals" and self.typo.holds(reading):
                quote = Quote("totals", TYPED_TOTAL, quote.price, quote.price_other)
            found.append(quote)
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Game:
    """One game's whole future."""

    id: str
    listed_at: datetime
    home_team: str
    away_team: str
    #: (from this second on, the start as then announced); the last one is when it begins.
    starts: tuple[tuple[float, datetime], ...]
    steps: tuple[tuple[Step, ...], ...]
    books: tuple[_BookTimeline, ...]
    final: tuple[int, int]

    @property
    def begins_at(self) -> datetime:
        return self.starts[-1][1]

    @property
    def ends_at(self) -> datetime:
        return self.begins_at + DURATION

    def commence_time(self, moment: datetime) -> datetime:
        """The start as announced at a moment."""
        second = (moment - self.listed_at).total_seconds()
        return [start for since, start in self.starts if since <= second][-1]

    def board(self, moment: datetime) -> GameBoard:
        """The game as the provider lists it at a moment between its listing and its end."""
        second = (moment - self.listed_at).total_seconds()
        books = []
        for timeline in self.books:
            reading = timeline.read_at(second, self.id)
            quotes = timeline.quotes_at(reading)
            if quotes:
                books.append(BookBoard(timeline.book, self.listed_at + timedelta(seconds=reading), quotes))
        return GameBoard(self.id, self.commence_time(moment), self.home_team, self.away_team, tuple(books))

    def score(self, moment: datetime) -> Score:
        """The score at a moment, growing evenly to the final one."""
        played = min(1.0, (moment - self.begins_at) / DURATION)
        begun = played >= 0.0
        points = (math.floor(self.final[0] * played), math.floor(self.final[1] * played)) if begun else None
        return Score(
            self.id, self.commence_time(moment), self.home_team, self.away_team, played >= 1.0, points,
            moment if begun else None,
        )  # fmt: skip


class Market:
    """Every game of a simulated season that opens at a moment. Equal seed and opening: equal market."""

    def __init__(self, seed: int, opened_at: datetime) -> None:
        self.seed = seed
        self.opened_at = opened_at
        self._game = lru_cache(maxsize=64)(self._draw)

    def board(self, moment: datetime) -> list[GameBoard]:
        """All games listed and not yet over, by start, as the provider would answer at a moment."""
        boards = [game.board(moment) for game in self._games(moment, moment) if game.ends_at > moment]
        return sorted(boards, key=lambda board: (board.commence_time, board.id))

    def scores(self, moment: datetime, days_from: int = 0) -> list[Score]:
        """Games listed, running, and those over for at most so many days."""
        games = self._games(moment - timedelta(days=days_from), moment)
        return sorted((game.score(moment) for game in games), key=lambda score: (score.commence_time, score.id))

    def game(self, number: int) -> Game:
        """The game of a number; 0 is the first to start after the opening, negative ones are being played then."""
        return self._game(number)

    def _games(self, since: datetime, moment: datetime) -> list[Game]:
        # A start may move by half an hour, so one game more on either side is looked at.
        first = math.floor((since - DURATION - self.opened_at - FIRST_START) / SPACING) - 1
        last = math.ceil((moment + LISTED_BEFORE - self.opened_at - FIRST_START) / SPACING) + 1
        games = [self.game(number) for number in range(first, last + 1)]
        return [game for game in games if game.listed_at <= moment and game.ends_at > since]

    def _draw(self, number: int) -> Game:
        random = Random(f"{self.seed}/game/{number}")  # noqa: S311 - a model, not a secret
        game_id = sha256(f"{self.seed}/{number}".encode()).hexdigest()[:32]
        round_number, place = divmod(number, len(TEAMS) // 2)
        order = list(TEAMS)
        Random(f"{self.seed}/round/{round_number}").shuffle(order)  # noqa: S311 - a model, not a secret
        scheduled = _to_five_minutes(self.opened_at + FIRST_START + number * SPACING)
        listed_at = scheduled - LISTED_BEFORE
        starts = _starts(random, listed_at, scheduled)
        begins = (starts[-1][1] - listed_at).total_seconds()
        ends = begins + DURATION.total_seconds()
        margin = round(random.gauss(2.5, 6.0) * 4) / 4
        total = round(random.gauss(227.0, 6.0) * 4) / 4
        opening = (self.opened_at - listed_at).total_seconds() if number in OPENING_NEWS else -math.inf
        steps = (
            _walk(random, margin, begins, ends, 1.0, opening + random.uniform(180.0, 480.0)),
            _walk(random, total, begins, ends, 1.35, opening + random.uniform(480.0, 900.0)),
        )
        feeds = {book.feed: _draw_feed(random, book, steps, begins) for book in BOOKS if book.feed == book.key}
        final_margin, final_total = round(steps[0][-1].mean), round(steps[1][-1].mean)
        # A tie is played on.
        home = (final_total + (final_margin or 1)) // 2
        return Game(
            id=game_id,
            listed_at=listed_at,
            home_team=order[2 * place],
            away_team=order[2 * place + 1],
            starts=starts,
            steps=steps,
            books=tuple(_timeline(random, book, feeds[book.feed], begins, ends) for book in BOOKS),
            final=(home, home - (final_margin or 1)),
        )


def steps_an_hour(hours_to_start: float) -> float:
    """How many steps a latent mean takes in an hour, by the distance to the start."""
    if hours_to_start > 6:
        return 0.75
    if hours_to_start > 3:
        return 0.85
    if hours_to_start > 1:
        return 1.1
    return 1.7


def _to_five_minutes(moment: datetime) -> datetime:
    seconds = moment.timestamp()
    return moment + timedelta(seconds=math.ceil(seconds / 300) * 300 - seconds)


def _starts(random: Random, listed_at: datetime, scheduled: datetime) -> tuple[tuple[float, datetime], ...]:
    planned = (scheduled - listed_at).total_seconds()
    starts = [(0.0, scheduled)]
    if random.random() < 0.12:
        starts.append((planned - random.uniform(1800, 4500), scheduled + timedelta(minutes=random.choice((15, 30)))))
    if random.random() < 0.5:
        late = timedelta(minutes=random.randint(1, 9))
        since = (starts[-1][1] - listed_at).total_seconds() - random.uniform(60, 900)
        starts.append((since, starts[-1][1] + late))
    return tuple(starts)


def _walk(
    random: Random, mean: float, begins: float, ends: float, scale: float, expected_news: float
) -> tuple[Step, ...]:
    """The steps of a latent mean: drift and news before the start, one possession after another behind it."""
    times = []
    at = 0.0
    while at < begins:
        at += random.expovariate(steps_an_hour((begins - at) / 3600.0) / 3600.0)
        times.append(at)
    steps = [Step(0.0, mean, pace=0.0)]
    for at in sorted([*times, expected_news]):
        if not 0.0 < at < begins:
            continue
        loud = random.random() < 0.2 or at == expected_news
        pace = 1.0 if loud else SLOW_PACE if random.random() < 0.5 else 0.0
        size = 0.55 + random.expovariate(2.5) if pace else random.uniform(0.15, 0.5)
        mean += scale * size * random.choice((-1.0, 1.0))
        steps.append(Step(at, mean, pace))
    at = begins
    while at < ends:
        at += random.uniform(20.0, 60.0)
        mean += random.gauss(0.0, 1.3 * scale)
        steps.append(Step(at, mean, pace=1.0))
    return tuple(steps)


def _followed(random: Random, book: BookProfile, path: tuple[Step, ...], begins: float) -> tuple[Step, ...]:
    """When a feed acts on each step: an older step that arrives late does not undo a newer one."""
    arrivals = []
    for index, step in enumerate(path):
        if index == 0:
            delay = 0.0
        elif step.at >= begins:
            delay = random.uniform(2.0, 20.0)
        elif step.pace:
            delay = book.reaction * step.pace * math.exp(random.gauss(0.0, 0.45))
        else:
            delay = random.uniform(30.0, 1500.0)
        if 0.0 < step.at < begins and random.random() < book.sleeps_through:
            delay += random.uniform(1200.0, 3000.0)
        arrivals.append((step.at + delay, index))
    followed: list[Step] = []
    newest = -1
    for at, index in sorted(arrivals):
        if index > newest:
            newest = index
            followed.append(Step(at, path[index].mean, path[index].pace))
    return tuple(followed)


def _draw_feed(random: Random, book: BookProfile, paths: tuple[tuple[Step, ...], ...], begins: float) -> _Feed:
    """What the books of one feed share: when they act on each step, and the shade they hold."""
    margin_path, total_path = (_followed(random, book, path, begins) for path in paths)
    return _Feed(margin_path, total_path, random.gauss(0.0, 0.15), random.gauss(0.0, 0.25))


def _timeline(random: Random, book: BookProfile, feed: _Feed, begins: float, ends: float) -> _BookTimeline:
    opens = max(0.0, begins - book.opens_hours * 3600.0 - random.uniform(0.0, 3600.0))
    days = (ends - opens) / 86_400.0
    away = [
        (begin, begin + random.uniform(180.0, 2400.0))
        for begin in _arrivals(random, opens, ends, book.outages_a_day / 86_400.0)
    ]
    closed = [
        [
            (step.at - 45.0, step.at + random.uniform(20.0, 120.0))
            for step in path
            if step.pace == 1.0 and random.random() < (0.06 if step.at < begins else 0.25)
        ]
        for path in (feed.margin, feed.margin, feed.total)
    ]
    typo = _Gaps()
    if random.random() < 0.02 * max(1.0, days):
        begin = random.uniform(opens, begins)
        typo = _Gaps((begin, begin + random.uniform(300.0, 2400.0)))
    return _BookTimeline(
        book=book,
        opens=opens,
        phase=random.uniform(0.0, book.read_interval),
        series=(
            _head_to_head(feed.margin, feed.margin_shade, book),
            _points("spreads", feed.margin, feed.margin_shade, book),
            _points("totals", feed.total, feed.total_shade, book),
        ),
        away=_united(away),
        closed=tuple(_united(intervals) for intervals in closed),
        typo=typo,
    )


def _united(intervals: Iterable[tuple[float, float]]) -> _Gaps:
    """The gaps that intervals cover together."""
    bounds: list[float] = []
    for begin, end in sorted(intervals):
        if bounds and begin <= bounds[-1]:
            bounds[-1] = max(bounds[-1], end)
        else:
            bounds += (begin, end)
    return _Gaps(tuple(bounds))


def _arrivals(random: Random, begin: float, end: float, rate: float) -> list[float]:
    found = []
    at = begin + random.expovariate(rate)
    while at < end:
        found.append(at)
        at += random.expovariate(rate)
    return found


def _american(probability: float) -> int:
    """The American price of an implied probability, on the ladder that books use."""
    held = min(0.985, max(0.015, probability))
    value = -100.0 * held / (1.0 - held) if held >= 0.5 else 100.0 * (1.0 - held) / held
    rung = 1 if abs(value) < 200 else 5 if abs(value) < 500 else 25
    rounded = round(value / rung) * rung
    # Between −100 and 100 there is no American price.
    return rounded if abs(rounded) >= 100 else 100


def _priced(market: str, line: float | None, fair: float, margin: float) -> Quote:
    return _quote(market, line, round(fair / PRICE_STEP), margin)


@lru_cache(maxsize=1 << 15)
def _quote(market: str, line: float | None, steps: int, margin: float) -> Quote:
    fair = steps * PRICE_STEP
    return Quote(market, line, _american(fair * (1.0 + margin)), _american((1.0 - fair) * (1.0 + margin)))


def _head_to_head(path: tuple[Step, ...], shade: float, book: BookProfile) -> _Series:
    times: list[float] = []
    quotes: list[Quote] = []
    made_for = math.inf
    for step in path:
        fair = _NORMAL.cdf((step.mean + shade) / SIGMA["spreads"])
        if abs(fair - made_for) < PRICE_PATIENCE:
            continue
        made_for = fair
        times.append(step.at)
        quotes.append(_priced("h2h", None, fair, book.margin_h2h))
    return _Series(tuple(times), tuple(quotes))


def _points(market: str, path: tuple[Step, ...], shade: float, book: BookProfile) -> _Series:
    times: list[float] = []
    quotes: list[Quote] = []
    line = math.inf
    for step in path:
        mean = step.mean + shade
        fair = _probability(market, mean, line)
        if not abs(fair - 0.5) < LINE_PATIENCE[market]:
            line = _nearest_line(market, mean)
            fair = _probability(market, mean, line)
        quote = _priced(market, line, fair, book.margin_points)
        if not quotes or quote != quotes[-1]:
            times.append(step.at)
            quotes.append(quote)
    return _Series(tuple(times), tuple(quotes))


def _probability(market: str, mean: float, line: float) -> float:
    if math.isinf(line):
        return math.inf
    distance = mean + line if market == "spreads" else mean - line
    return _NORMAL.cdf(distance / SIGMA[market])


def _nearest_line(market: str, mean: float) -> float:
    """The half point nearest to the mean, plus 0 so that a pick'em has no sign."""
    return round((-mean if market == "spreads" else mean) * 2.0) / 2.0 + 0.0


def decimal_price(american: int) -> float:
    """The decimal rendering as the provider gives it, two places."""
    return round(decimal_from_american(american), 2)
