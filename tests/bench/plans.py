"""`make plans`: how PostgreSQL answers each query of the services on a generated year, as the stores really ask it.

Every statement that a store sends while it is being asked is explained with the parameters that it was sent with, by
the cursor that sends it: so what is shown cannot drift from what is done. A query fails the run when it reads a big
table, or a day of one, from end to end, or visits more days than it says it needs.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
from pydantic import SecretStr
from sqlalchemy import Engine, event
from sqlalchemy.ext.asyncio import AsyncConnection

from deploy import retention, schema
from deploy.local.postgres import PostgresServer
from services.consensus import store as consensus
from services.consensus.model import Consensus, ConsensusRow, GameRow, MarketKey, QuotePoint
from services.consensus.store import ConsensusStore, CurrentMarket, GamePosition, HistoryPosition, MarketPosition
from services.ingest import store as ingest
from services.ingest.changes import Coverage, Disappearance, Poll, observe_poll
from services.ingest.health import BookHealth, SportHealth
from services.ingest.normalize import SeenBook, normalize
from services.ingest.testing import a_book, an_event, spreads
from services.shared.bus import MARKETS, OBSERVATIONS, Outgoing, StreamState
from services.shared.config import ServiceConfig
from services.shared.database import Database, open_database
from services.shared.outbox import Outbox
from services.shared.stage import StageTables, _Statements
from services.signals import store as signals
from services.signals.events import found_signals
from services.signals.feed_testing import CONFIGURATION, a_signal, a_span
from services.signals.model import Reason
from services.signals.store import Filters, SignalStore, SpanPosition
from tests.bench import year

ROOT = Path(__file__).resolve().parents[2]
#: A table of so many rows is big: to read it from end to end is to wait.
BIG_ROWS = 2000
#: What a query may visit unless it says more: the days of one game.
DAYS_OF_A_GAME = 6
#: The newest suppressions lie behind the days that are made ahead, which are empty and cost nothing to look at; those
#: of an event are on any of the days that are kept.
NEWEST_DAYS, KEPT_DAYS = 12, 50
EXPLAINED = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")


@dataclass(slots=True)
class Asked:
    """One question to a store, and the plans of the statements that answered it."""

    name: str
    most_days: int
    statements: list[dict[str, Any]] = field(default_factory=list)
    #: Of the whole call, its explanations not counted.
    sizes: dict[str, float] = field(default_factory=dict)

    def nodes(self) -> Iterator[dict[str, Any]]:
        """Every part of every plan that was really executed."""
        for plan in self.statements:
            yield from _executed(plan["Plan"])


class Plans:
    """What was asked, and who listens now."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.current: Asked | None = None

    @contextmanager
    def of(self, name: str, most_days: int = DAYS_OF_A_GAME) -> Iterator[None]:
        """Explains what is sent in the block under this name."""
        self.current = Asked(name, most_days)
        try:
            yield
        finally:
            self.asked.append(self.current)
            self.current = None


PLANS = Plans()


class ExplainingCursor(psycopg.Cursor[Any]):
    """Explains each statement before it sends it, and undoes what the explanation did."""

    def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        """The same as the driver's."""
        if _is_explained(query):
            with psycopg.Cursor(self.connection) as plain:
                for _ in range(2):  # the first time, what it reads comes from the disk
                    if not self.connection.autocommit:
                        plain.execute("SAVEPOINT explained")
                    found = plain.execute(_explain(query), params).fetchall()
                    if not self.connection.autocommit:
                        plain.execute("ROLLBACK TO explained")
            _note(found)
        return super().execute(query, params, **options)


class ExplainingAsyncCursor(psycopg.AsyncCursor[Any]):
    """The same, for the services."""

    async def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        """The same as the driver's."""
        if _is_explained(query):
            async with psycopg.AsyncCursor(self.connection) as plain:
                for _ in range(2):
                    if not self.connection.autocommit:
                        await plain.execute("SAVEPOINT explained")
                    await plain.execute(_explain(query), params)
                    found = await plain.fetchall()
                    if not self.connection.autocommit:
                        await plain.execute("ROLLBACK TO explained")
            _note(found)
        return await super().execute(query, params, **options)


def _text(query: Any) -> str:
    return query.decode() if isinstance(query, bytes) else str(query)


def _is_explained(query: Any) -> bool:
    said = _text(query).lstrip()
    return PLANS.current is not None and said.startswith(EXPLAINED) and not said.startswith("SELECT pg_catalog")


def _explain(query: Any) -> bytes:
    return b"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + _text(query).encode()


def _note(found: list[Any]) -> None:
    assert PLANS.current is not None
    PLANS.current.statements.append(found[0][0][0])


def _executed(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if node.get("Actual Loops", 1):
        yield node
        for inner in node.get("Plans", ()):
            yield from _executed(inner)


def listen(dbapi_connection: Any, _record: object) -> None:
    """Gives every new connection, of the services and of retention, a cursor that explains."""
    driver = getattr(dbapi_connection, "driver_connection", dbapi_connection)
    is_async = isinstance(driver, psycopg.AsyncConnection)
    driver.cursor_factory = ExplainingAsyncCursor if is_async else ExplainingCursor


# What is asked.

NOW, LAST = year.NOW, year.LAST
OLD = f"{100:032x}"
SPORT = year.SPORT


class SilentBus:
    """Takes everything and says nothing."""

    async def publish(self, *_: object) -> int:
        """It ends there now."""
        return 2

    async def ensure_stream(self, _spec: object) -> StreamState:
        """It is there."""
        return StreamState("stream", 1, 1)

    stream_state = ensure_stream


@asynccontextmanager
async def rolled_back(database: Database) -> AsyncIterator[AsyncConnection]:
    """A transaction that leaves nothing behind."""
    async with database.engine.connect() as connection:
        await connection.begin()
        yield connection
        await connection.rollback()


async def ask_ingest(database: Database) -> None:
    """Every query of ingest."""
    seen = normalize([an_event(*[a_book(book, spreads(-5.5)) for book in ("betmgm", "fanduel")], event_id=LAST)])
    step = next(observe_poll({}, Poll(SPORT, NOW, 60.0, Coverage(("spreads",)), seen)))
    walk = ingest.Cursor(SPORT, NOW - timedelta(days=7), NOW, NOW)
    health = SportHealth(SPORT, NOW, NOW, 1.0, 60.0, 0, "", 15000)
    rows = ingest.Rows(
        states={LAST: step.state},
        renewed={LAST},
        starts=[step.state],
        snapshots=list(step.snapshots),
        disappearances=[Disappearance(LAST, "betmgm", "h2h", "", NOW, NOW)],
        polls=[ingest.PollRow(SPORT, NOW)],
        quarantined=[(SeenBook("new", "New", 3), SPORT, NOW)],
        books={SPORT: (BookHealth(SPORT, "betmgm", NOW, 3, 1, NOW),)},
        answered_keyframes={LAST},
    )
    rows.tallies[SPORT, "quotes", ""] += 1
    outbox = Outbox(database, SilentBus(), ingest.stage, OBSERVATIONS)  # type: ignore[arg-type]
    async with rolled_back(database) as connection:
        with PLANS.of("ingest: take, hold and give back the lease"):
            lease = await ingest.acquire_lease(connection, "plans", 10.0)
            assert lease is not None
            await ingest.hold_lease(connection, lease, 10.0)
            await ingest.release_lease(connection, lease)
        with PLANS.of("ingest: the events of a sport that the last poll showed"):
            assert await _loaded(ingest.load_present(connection, SPORT))
        with PLANS.of("ingest: some events, gone ones too"):
            await _loaded(ingest.load_events(connection, [LAST, OLD, "unknown"]))
        with PLANS.of("ingest: keyframes that were asked for"):
            await ingest.load_keyframe_requests(connection)
            await ingest.request_keyframes(connection, [OLD])
        with PLANS.of("ingest: keep a poll"):
            await ingest.write(connection, rows, ingest.StateRows())
        with PLANS.of("ingest: note a success and a failure"):
            await ingest.note_success(connection, health)
            await ingest.note_failure(connection, SPORT, NOW + timedelta(seconds=1), "http_500", 60.0, 1.0)
        with PLANS.of("ingest: feed health, quarantine, tallies"):
            await ingest.load_health(connection, [SPORT])
            await ingest.load_health(connection, [])
            await ingest.load_quarantined(connection)
            await ingest.load_tallies(connection, SPORT)
        await ask_about_spending(connection)
        with PLANS.of("ingest: a backfill's cursor"):
            await ingest.load_cursor(connection, SPORT, walk.since, walk.until)
            await ingest.save_cursor(connection, walk)
    with PLANS.of("ingest: the outbox"):
        async with rolled_back(database) as connection:
            await outbox.add(connection, [Outgoing(LAST, f"{LAST}:1", b"")])
        await outbox.publish()
        await outbox.is_empty()


async def ask_about_spending(connection: AsyncConnection) -> None:
    """What ingest asks about credits, cadences, watched events and books."""
    with PLANS.of("ingest: what may be spent, and how often is asked"):
        limits = ingest.Limits(1000, 20000)
        reserved = await ingest.reserve_credits(connection, ingest.Spend("odds", SPORT, 3, 1, 1), limits, NOW)
        assert isinstance(reserved, int)
        await ingest.settle_credits(connection, reserved, 3, 15000, NOW)
        await ingest.load_budget(connection, limits, NOW)
        await ingest.load_resting(connection)
        await ingest.load_starts(connection, SPORT, NOW - timedelta(hours=6))
        await ingest.set_watched(connection, "plans", [LAST])
        await ingest.load_watched(connection)
    with PLANS.of("ingest: decisions about books"):
        await ingest.load_decisions(connection)


async def _loaded(loading: Any) -> bool:
    try:
        return bool(await loading)
    except Exception as error:  # the generated states are none: that they were read is all that is wanted here
        return "MessagePack" in str(error) or "Expected" in str(error)


async def ask_consensus(database: Database) -> None:
    """Every query of consensus."""
    store = ConsensusStore(database)
    key = MarketKey("h2h")
    game = GameRow(LAST, SPORT, "Home", "Away", NOW, NOW, False, ("h2h",), 15)
    rows = [
        game,
        *(ConsensusRow(LAST, SPORT, MarketKey(m), NOW, Consensus(15, 12, False, "m"), False, "") for m in ("h2h", "x")),
        QuotePoint(LAST, key, "betmgm", NOW, None, 1.9, 1.9, 0.5),
        CurrentMarket(LAST, SPORT, key, quoted=True),
        CurrentMarket(LAST, SPORT, MarketKey("totals"), quoted=False),
    ]
    async with rolled_back(database) as connection:
        with PLANS.of("consensus: keep a batch"):
            await consensus.write(connection, rows)
    for name, sports, events, markets, after in (
        ("the present markets, first page", (), (), (), None),
        ("the present markets, next page", (), (), (), MarketPosition(LAST, "h2h", "")),
        ("the present markets of a sport", (SPORT,), (), (), MarketPosition(LAST, "h2h", "")),
        ("the present markets of an event", (), (LAST,), (), None),
        ("the present spreads", (), (), ("spreads",), None),
    ):
        with PLANS.of(f"consensus: {name}"):
            await store.current_markets(sports, events, markets, after, limit=51)
    since, until = NOW - timedelta(hours=6), NOW - timedelta(hours=3)
    for name, given in {
        "the history of a game, first page": {"event_id": LAST},
        "the history of a game long over": {"event_id": OLD},
        "the history of a game, next page": {"event_id": LAST, "after": HistoryPosition(since, "h2h", "")},
        "the history of a game as of a time": {"event_id": LAST, "since": since, "until": until},
        "the history of one market": {"event_id": LAST, "markets": ["spreads"]},
    }.items():
        with PLANS.of(f"consensus: {name}"):
            await store.history(**given, limit=51)  # type: ignore[arg-type]
    with PLANS.of("consensus: a game whole"):
        await store.game(LAST)
        await store.current_markets((), [LAST], ())
        await store.states([LAST])
        await store.newest(LAST, ())
        await store.history(LAST, ())
        await store.quotes(LAST, (), None)
    with PLANS.of("consensus: a game's newest hour"):
        await store.history(LAST, (), since=NOW - timedelta(hours=1))
        await store.quotes(LAST, (), NOW - timedelta(hours=1))
    page = GamePosition(NOW - timedelta(days=100), OLD)
    for name, sports, start, end, behind in (
        ("games that are not over", (), None, None, None),
        ("games that are not over, of a sport", (SPORT,), None, None, None),
        ("games that are not over, next page", (), None, None, GamePosition(NOW, LAST)),
        ("games of a week, of a sport", (SPORT,), NOW - timedelta(days=60), NOW - timedelta(days=53), None),
        ("games since, next page", (), NOW - timedelta(days=120), None, page),
    ):
        with PLANS.of(f"consensus: {name}"):
            await store.games(sports, start, end, behind, 51)
    await ask_stage("consensus", database, consensus.stage)


async def ask_signals(database: Database) -> None:
    """Every query of the feed."""
    store = SignalStore(database)
    day = NOW - timedelta(days=1)
    filters = {
        "all": Filters(),
        "a sport": Filters(sport_key=(SPORT,)),
        "an event": Filters(event_id=(LAST,)),
        "spreads, HIGH": Filters(market=("spreads",), tier=("HIGH",)),
        "STEAM toward home, late": Filters(
            signal_type=("STEAM",), direction=("TOWARD_HOME",), time_bucket=("LATE", "PRETIP")
        ),
        "a usual book": Filters(book=("draftkings",)),
        "a book that is seldom named": Filters(book=("seldom",)),
        "of the last day": Filters(since=day),
        "of a week in January": Filters(since=NOW - timedelta(days=90), until=NOW - timedelta(days=83)),
        "a score of at least 99.9": Filters(min_score=99.9),
        "strong and fast": Filters(min_strength=90, velocity_gt=0.9),
        "nothing passes": Filters(event_id=("nobody's",), tier=("HIGH",)),
    }
    for name, wanted in filters.items():
        for by_score in (True, False):
            order = "by score" if by_score else "by time"
            asked = {"by_score": by_score, "full": False, "size": 50}
            with PLANS.of(f"feed {order}: {name}"):
                page = await store.page(wanted, collapse=False, behind=None, **asked)  # type: ignore[arg-type]
            with PLANS.of(f"feed {order}, a fact once: {name}"):
                await store.page(wanted, collapse=True, behind=None, **asked)  # type: ignore[arg-type]
            if page.next is not None:
                with PLANS.of(f"feed {order}, next page: {name}"):
                    await store.page(wanted, collapse=False, behind=page.next, **asked)  # type: ignore[arg-type]
    with PLANS.of("feed: how far it goes, and when data came in"):
        state = await store.feed_state()
        await store.note_received(NOW)
    for name, after in (("right behind", state.position - 3), ("after months away", 1000)):
        for who, wanted in (("everything", Filters()), ("an event", Filters(event_id=(LAST,)))):
            with PLANS.of(f"stream, {name}: {who}"):
                await store.stretch(wanted, full=True, after=after, through=state.position, size=100)
    with PLANS.of("feed: one signal and its event's state"):
        await store.get("signal-4711")
        await store.event_state(LAST)
    begun = int((NOW - timedelta(days=3)).timestamp() * 1_000_000)
    for name, wanted, reasons, position, days in (
        ("all, first page", Filters(), (), None, NEWEST_DAYS),
        ("all, next page", Filters(), (), SpanPosition(begun, "x"), DAYS_OF_A_GAME),
        ("of an event", Filters(event_id=(LAST,)), (), None, KEPT_DAYS),
        ("of an event and a reason", Filters(event_id=(LAST,)), ("cooldown",), None, KEPT_DAYS),
        ("of the last day", Filters(since=day), (), None, NEWEST_DAYS),
        ("until a week ago", Filters(until=NOW - timedelta(days=7)), (), None, DAYS_OF_A_GAME),
    ):
        with PLANS.of(f"suppressions: {name}", days):
            await store.suppressions(wanted, reasons, size=50, behind=position)
    found = found_signals([a_signal("new", event_id=LAST, observed_at=NOW)])
    async with rolled_back(database) as connection:
        with PLANS.of("feed: add a signal"):
            await signals.write_signals(connection, found, CONFIGURATION, NOW)
        with PLANS.of("suppressions: keep two spans"):
            spans = [a_span(event_id=LAST, first_seen_at=NOW, last_seen_at=NOW, reason=r) for r in list(Reason)[:2]]
            await signals.write_suppressions(connection, spans)
    await ask_stage("signals", database, signals.stage)


async def ask_stage(name: str, database: Database, tables: StageTables) -> None:
    """Every statement of a stage, as it declares them, with an example of each value."""
    examples: dict[str, Any] = {
        "partitions": [0, 1],
        "identities": ["stream", "stream"],
        "sequences": [100000, 100000],
        "identity": "stream",
        "last": 100001,
        "event_ids": [LAST, OLD],
        "revisions": [4001, 4001],
        "awaiting": [False, False],
        "states": [b"state", b"state"],
        "reasons": ["unreadable", "unreadable"],
        "payloads": [b"", b""],
    }
    statements = {label.strip("_"): statement for label, statement in vars(_Statements(tables)).items()}
    async with rolled_back(database) as connection:
        with PLANS.of(f"{name}: the stage's {', '.join(sorted(statements))}"):
            for statement in statements.values():
                given = {bound: examples[bound] for bound in statement.compile().params}
                await connection.execute(statement, given)
    outbox = Outbox(database, SilentBus(), tables, MARKETS)  # type: ignore[arg-type]
    with PLANS.of(f"{name}: the outbox"):
        async with rolled_back(database) as connection:
            await outbox.add(connection, [Outgoing(LAST, f"{LAST}:1", b"")])
        await outbox.publish()
        await outbox.is_empty()


def ask_retention(url: str) -> None:
    """Retention: saying what would be done, and doing it."""
    with PLANS.of("retention: what would be done", most_days=KEPT_DAYS):
        retention.run(url, NOW, dry_run=True)
    with PLANS.of("retention", most_days=KEPT_DAYS):
        retention.run(url, NOW)


# What came of it.


@dataclass(frozen=True, slots=True)
class Line:
    """One question in figures."""

    name: str
    milliseconds: float
    rows: int
    #: Pages of 8 kB, from memory or disk.
    pages: int
    days: int
    by: str
    faults: tuple[str, ...]


def judged(asked: Asked, big: frozenset[str]) -> Line:
    """A question's figures, and what is wrong with its plans."""
    faults = []
    days: dict[str, set[str]] = {}
    indexes: set[str] = set()
    for node in asked.nodes():
        relation = node.get("Relation Name", "")
        table, divided, _ = relation.partition("_p20")
        if divided and "Scan" in node["Node Type"]:
            days.setdefault(table, set()).add(relation)
        named = [node["Index Name"]] if "Index Name" in node else node.get("Conflict Arbiter Indexes", [])
        indexes.update(_of_all_days(index) for index in named)
        if node["Node Type"] == "Seq Scan" and relation in big:
            faults.append(f"reads {relation} from end to end")
    most = max((len(found) for found in days.values()), default=0)
    if most > asked.most_days:
        faults.append(f"visits {most} days where {asked.most_days} do")
    plans = [statement["Plan"] for statement in asked.statements]
    return Line(
        name=asked.name,
        milliseconds=sum(one["Planning Time"] + one["Execution Time"] for one in asked.statements),
        rows=sum(int(plan["Actual Rows"]) for plan in plans),
        pages=sum(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] for plan in plans),
        days=most,
        by=", ".join(sorted(indexes)) or "none: small tables",
        faults=tuple(sorted(set(faults))),
    )


def _of_all_days(index: str) -> str:
    """An index of one day is called after its day's table and its columns: what all days' have in common."""
    table, divided, columns = index.partition("_p20")
    return f"{table}{columns[6:]} (days)" if divided else index


def big_tables(connection: psycopg.Connection[Any]) -> frozenset[str]:
    """Tables, and days of tables, with so many rows that nobody may read them from end to end."""
    named = connection.execute("SELECT relname FROM pg_class WHERE relkind = 'r' AND reltuples >= %s", [BIG_ROWS])
    return frozenset(name for (name,) in named if not name.startswith("pg_"))


SIZES = """
SELECT schemaname || '.' || tablename, count(*) FILTER (WHERE divided), sum(rows)::bigint, sum(bytes)::bigint
FROM (SELECT namespace.nspname AS schemaname, coalesce(parent.relname, one.relname) AS tablename,
        parent.oid IS NOT NULL AS divided, greatest(one.reltuples, 0) AS rows, pg_total_relation_size(one.oid) AS bytes
    FROM pg_class AS one JOIN pg_namespace AS namespace ON namespace.oid = one.relnamespace
    LEFT JOIN pg_inherits ON inhrelid = one.oid LEFT JOIN pg_class AS parent ON parent.oid = inhparent
    WHERE one.relkind = 'r' AND namespace.nspname IN ('ingest', 'consensus', 'signals')) AS stored
GROUP BY 1 HAVING sum(rows) >= 1000 ORDER BY 4 DESC
"""


def as_markdown(lines: list[Line], sizes: list[tuple[Any, ...]]) -> str:
    """The page docs/query-plans.md."""
    stored = [f"| `{name}` | {days or ''} | {rows:,} | {size / 1e6:,.0f} MB |" for name, days, rows, size in sizes]
    found = [
        f"| {line.name} | {line.milliseconds:.1f} | {line.rows} | {line.pages} | {line.days or ''} | {line.by} |"
        for line in lines
    ]
    return "\n".join(
        [
            "# How every query is answered on a year of data",
            "",
            "Made by `make plans`, which fills a PostgreSQL with a generated year (`tests/bench/year.py`: 1,300 games,",
            "15 books, 3 markets, polls 60 s apart near the start), puts every question of the services to their own",
            "stores, and explains each statement as it is sent. It fails when a big table, or a day of one, is read",
            f"from end to end (big: {BIG_ROWS:,} rows), or when more days are visited than a question needs:",
            f"{DAYS_OF_A_GAME}, the days of one game, unless `tests/bench/plans.py` says otherwise.",
            "",
            "Milliseconds are planning and execution in the server, of all statements of a question, with what they",
            "read in memory, on two cores that others used as well; *rows* are what the statements return, *pages*",
            "what they touch (8 kB each), *days* the most partitions of one table that are visited.",
            "",
            "| table | days | rows | size with indexes |",
            "|---|---:|---:|---:|",
            *stored,
            "",
            "| question | ms | rows | pages | days | by index |",
            "|---|---:|---:|---:|---:|---|",
            *found,
            "",
        ]
    )


async def ask_all(server: PostgresServer, passwords: dict[str, str]) -> None:
    """Puts every question."""
    event.listen(Engine, "connect", listen)
    for service, ask in (("ingest", ask_ingest), ("consensus", ask_consensus), ("signals", ask_signals)):
        url = schema.service_url(server.url(), service, passwords)
        async with open_database(ServiceConfig(database_url=SecretStr(url))) as database:
            await ask(database)
    await asyncio.to_thread(ask_retention, schema.service_url(server.url(), schema.MIGRATOR, passwords))


def main() -> int:
    """Fills, asks, prints and judges; 1 when a plan is not as it should be."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--changes", type=int, default=year.CHANGES, help="changes of each quote of each book")
    asked.add_argument("--write", action="store_true", help="write docs/query-plans.md")
    given = asked.parse_args()
    with tempfile.TemporaryDirectory(prefix="stratum-year-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as a user of its own
        # Nothing of the year has to survive: what the disk costs is not what is looked at.
        settings = {"fsync": "off", "full_page_writes": "off", "max_wal_size": "8GB", "autovacuum": "off"}
        with PostgresServer(folder / "postgres", settings={**settings, "log_min_duration_statement": "-1"}) as server:
            passwords = schema.generated_passwords()
            schema.upgrade(server.url(), passwords)
            with psycopg.connect(
                host="127.0.0.1", port=server.port, user="postgres", password=server.password, dbname=schema.DATABASE
            ) as connection:
                began = time.monotonic()
                year.fill(connection, given.changes)
                print(f"filled in {time.monotonic() - began:.0f} s")
                big, sizes = big_tables(connection), connection.execute(SIZES).fetchall()
                connection.commit()
            asyncio.run(ask_all(server, passwords))
    return report([judged(one, big) for one in PLANS.asked], sizes, given.write)


def report(lines: list[Line], sizes: list[tuple[Any, ...]], write: bool) -> int:
    """Prints everything, faults last."""
    page = as_markdown(lines, sizes)
    print(page)
    if write:
        (ROOT / "docs" / "query-plans.md").write_text(page)
    faults = [f"{line.name}: {fault}" for line in lines for fault in line.faults]
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"{len(lines)} questions, {sum(len(one.statements) for one in PLANS.asked)} statements, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
