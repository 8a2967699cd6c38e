"""A generated board of any size: what the benchmarks let the provider say.

Every event has one true number a market, and books stand at it or half a point beside, so that the market as a whole
agrees as real ones do. Between two responses an exact share of all quotes changes: which ones, the `Pattern` says.

A response of 5,000 events holds 60 MB of JSON, so it is not encoded anew each time: everything between two readings'
times is kept as bytes, and only a changed market is written again.
"""

from __future__ import annotations

import gzip
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

SPORT = "basketball_nba"
MARKETS = ("h2h", "spreads", "totals")
BOOKS = (
    *("ballybet", "betmgm", "betonlineag", "betrivers", "betus", "bovada", "draftkings", "espnbet", "fanatics"),
    *("fanduel", "fliff", "hardrockbet", "kalshi", "lowvig", "mybookieag", "novig", "pinnacle", "polymarket"),
    *("prophetx", "williamhill_us"),
)
#: From now to every start.
TIP = timedelta(hours=30)
#: What the two sides' implied probabilities sum to.
BOOK_SUM = 1.045
#: How far a book's probability stands from the market's; a change always takes another one.
PROBABILITIES = (-0.01, -0.005, 0.0, 0.005, 0.01)
#: How far a book's line stands from the market's: most stand at it.
LINES = (0.0, 0.0, 0.0, 0.0, -0.5, 0.5)
#: Share of changed spreads and totals whose line moves too; the rest only reprice.
LINE_MOVES = 0.25
#: Pieces that one book's part of a response consists of: five of text and four readings' times between them.
PIECES = 9

#: Of a quote: the event's number, the market's and the book's.
Place = tuple[int, int, int]


class Pattern(Protocol):
    """Which quotes change between two responses."""

    @property
    def share(self) -> float:
        """Of all quotes, those that change; on average, where it differs from one response to the next."""
        ...

    def places(self, board: Board, chance: random.Random) -> Iterable[Place]: ...

    def __str__(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Uniform:
    """An exact share of all quotes, each as likely as any other: the hardest on caches, since hardly an event rests."""

    share: float = 0.05

    def places(self, board: Board, chance: random.Random) -> Iterator[Place]:
        """A sample without repetition."""
        for number in chance.sample(range(board.quotes), round(self.share * board.quotes)):
            rest, book = divmod(number, board.books)
            event, market = divmod(rest, len(MARKETS))
            yield event, market, book

    def __str__(self) -> str:
        return f"{self.share:.0%} of the quotes, uniformly at random"


@dataclass(frozen=True, slots=True)
class Response:
    """What the provider says at one time, ready to be sent."""

    at: datetime
    #: Compressed, as the provider's are.
    body: bytes
    #: Quotes that differ from the response before; all that are new in one that first shows them.
    changes: int

    def plain(self) -> bytes:
        """The JSON."""
        return gzip.decompress(self.body)


class Board:
    """The state of every quote, and its bytes."""

    def __init__(self, events: int, books: int = len(BOOKS), seed: int = 1, pattern: Pattern | None = None) -> None:
        """`pattern` says which quotes change from one response to the next; by default 5 % at random."""
        self.events = events
        self.books = books
        self.pattern = pattern or Uniform()
        self._chance = random.Random(seed)
        #: By event and market: the market's own line and the canonical side's fair probability.
        self._true = [[self._truth(market) for market in MARKETS] for _ in range(events)]
        #: By event, market and book: how far the book stands from these.
        self._stands = [
            [[(self._chance.choice(LINES), self._chance.choice(PROBABILITIES)) for _ in range(books)] for _ in MARKETS]
            for _ in range(events)
        ]
        self._pieces: list[list[bytes]] = []

    @property
    def quotes(self) -> int:
        """How many quotes a whole response holds."""
        return self.events * len(MARKETS) * self.books

    @staticmethod
    def event_id(event: int) -> str:
        """The provider's name of an event."""
        return f"{event:032x}"

    def opening(self, at: datetime, cadence: timedelta, waves: int) -> Iterator[Response]:
        """The responses that first show the board, a share of the events in each.

        A keyframe follows every ten minutes from an event's first showing. Were all events shown at once, all would
        have theirs at once too, and a few measured cycles would hold either none of them or all; shown in waves a
        cadence apart, every later response holds its share. An event of another wave is there and cannot be read
        (it names no teams), so that ingest neither observes it nor takes it for gone.
        """
        for wave in range(waves):
            shown = range(wave, self.events, waves)
            yield Response(at + wave * cadence, self._body(at + wave * cadence, shown), len(shown) * self.quotes_each)

    @property
    def quotes_each(self) -> int:
        """Quotes of one event."""
        return len(MARKETS) * self.books

    def cycles(self, at: datetime, cadence: timedelta, count: int) -> Iterator[Response]:
        """So many responses, a cadence apart, each changed by the pattern."""
        for number in range(count):
            changes = self.change()
            yield Response(at + number * cadence, self._body(at + number * cadence), changes)

    def response(self, at: datetime, changes: int) -> Response:
        """The board as it stands."""
        return Response(at, self._body(at), changes)

    def body(self, at: datetime) -> bytes:
        """The board as the odds endpoint tells it, as plain JSON."""
        return b"".join(self._parts(at, range(self.events)))

    def change(self) -> int:
        """Changes what the pattern says; returns how many quotes that were."""
        changed = 0
        for event, market, book in self.pattern.places(self, self._chance):
            line, probability = self._stands[event][market][book]
            probability = self._chance.choice([other for other in PROBABILITIES if other != probability])
            if market and self._chance.random() < LINE_MOVES:
                line = self._chance.choice([other for other in set(LINES) if other != line])
            self._stands[event][market][book] = (line, probability)
            self._write(event, market, book)
            changed += 1
        return changed

    def move(self, event: int, market: str, points: float, books: Sequence[int]) -> int:
        """Moves some books of one market together, as when there is news; returns how many quotes changed."""
        number = MARKETS.index(market)
        for book in books:
            line, probability = self._stands[event][number][book]
            self._stands[event][number][book] = (line + points, probability)
            self._write(event, number, book)
        return len(books)

    def _truth(self, market: str) -> tuple[float, float]:
        if market == "h2h":
            return 0.0, self._chance.uniform(0.35, 0.65)
        line = self._chance.randrange(-24, 25) / 2 if market == "spreads" else self._chance.randrange(420, 481) / 2
        return line, 0.5

    def _body(self, at: datetime, shown: Sequence[int] | None = None) -> bytes:
        return gzip.compress(b"".join(self._parts(at, range(self.events) if shown is None else shown)), 1)

    def _parts(self, at: datetime, shown: Sequence[int]) -> Iterator[bytes]:
        if not self._pieces:
            self._pieces = [self._new_pieces(event, at) for event in range(self.events)]
        # Every book was read at a moment of its own, less than a minute ago.
        readings = [
            f"{at - timedelta(seconds=3 + 7 * book % 50):%Y-%m-%dT%H:%M:%SZ}".encode() for book in range(self.books)
        ]
        visible = set(shown)
        separator = b"["
        for event, pieces in enumerate(self._pieces):
            yield separator
            separator = b","
            if event in visible:
                for place in (1, 3, 5, 7):
                    pieces[place::PIECES] = readings
                yield b"".join(pieces)
            else:
                yield b'{"id":"%b","sport_key":"%b"}' % (self.event_id(event).encode(), SPORT.encode())
        yield b"]"

    def _new_pieces(self, event: int, at: datetime) -> list[bytes]:
        opening = (
            f'{{"id":"{self.event_id(event)}","sport_key":"{SPORT}","sport_title":"NBA",'
            f'"commence_time":"{at + TIP:%Y-%m-%dT%H:%M:%SZ}","home_team":"Home {event}","away_team":"Away {event}",'
            '"bookmakers":['
        )
        pieces: list[bytes] = []
        for book, name in enumerate(BOOKS[: self.books]):
            head = ("," if book else opening) + f'{{"key":"{name}","title":"{name}","last_update":"'
            first = b'","markets":[{"key":"h2h","last_update":"'
            pieces += [head.encode(), b"", first, b"", b"", b"", b"", b"", b""]
        self._pieces_of(event, pieces)
        return pieces

    def _pieces_of(self, event: int, pieces: list[bytes]) -> None:
        for book in range(self.books):
            for market in range(len(MARKETS)):
                pieces[PIECES * book + 4 + 2 * market] = self._market(event, market, book)

    def _write(self, event: int, market: int, book: int) -> None:
        if self._pieces:
            self._pieces[event][PIECES * book + 4 + 2 * market] = self._market(event, market, book)

    def _market(self, event: int, market: int, book: int) -> bytes:
        """One market's outcomes, and what stands between them and the next reading's time."""
        true_line, true_probability = self._true[event][market]
        off_line, off_probability = self._stands[event][market][book]
        probability, line = true_probability + off_probability, true_line + off_line
        price, other = round(1 / (probability * BOOK_SUM), 2), round(1 / ((1 - probability) * BOOK_SUM), 2)
        if market == 2:
            sides = (("Over", price, line), ("Under", other, line))
        else:
            sides = ((f"Home {event}", price, line), (f"Away {event}", other, -line))
        outcomes = ",".join(
            f'{{"name":"{name}","price":{value}' + (f',"point":{point}}}' if market else "}")
            for name, value, point in sides
        )
        if market < 2:
            return f'","outcomes":[{outcomes}]}},{{"key":"{MARKETS[market + 1]}","last_update":"'.encode()
        end = "]}" if book == self.books - 1 else ""
        return f'","outcomes":[{outcomes}]}}]}}{end}'.encode()
