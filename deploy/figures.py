"""How the market of a run looked, from what ingest stored; `deploy.simulator.calibration` says what each figure means.

A quote is taken to stand from when it was first seen to its game's start: the minutes in which a book was away are few.
"""

from __future__ import annotations

from deploy.simulator.calibration import BOOKS, CHANGES, HORIZON, LINES, OVERROUND
from deploy.simulator.market import MARKETS
from deploy.stack import Stack

#: The arguments are the markets, and twice the horizon.
_OF_QUOTES = """
WITH outcome AS (
    SELECT event_id, book, market, snapshot.observed_at, commence_time,
        lag(snapshot.observed_at) OVER history IS NOT NULL AS changed,
        line IS DISTINCT FROM lag(line) OVER history AS line_moved
    FROM ingest.odds_snapshots AS snapshot JOIN ingest.games USING (event_id)
    WHERE market = ANY (%s)
    WINDOW history AS (PARTITION BY event_id, book, market, player, outcome ORDER BY snapshot.observed_at)
), change AS (
    SELECT market, bool_or(line_moved) AS line_moved
    FROM outcome
    WHERE changed AND observed_at < commence_time AND observed_at >= commence_time - %s
    GROUP BY event_id, book, market, observed_at
), stood AS (
    SELECT event_id, book, market, greatest(min(observed_at), commence_time - %s) AS since,
        least(commence_time, (SELECT max(observed_at) FROM ingest.polls)) AS until
    FROM outcome
    GROUP BY event_id, book, market, commence_time
), quote AS (
    SELECT event_id, book, extract(epoch FROM until - since) / 60 AS minutes FROM stood WHERE until > since
), presence AS (
    SELECT event_id, max(minutes) AS minutes FROM quote GROUP BY event_id, book
), event AS (
    SELECT max(minutes) AS minutes FROM presence GROUP BY event_id
)
SELECT
    100.0 * (SELECT count(*) FROM change) / (SELECT sum(minutes) FROM quote),
    (SELECT sum(minutes) FROM presence) / (SELECT sum(minutes) FROM event),
    (SELECT avg(line_moved::int) FROM change WHERE market <> 'h2h')
"""
#: The argument is the markets. Both outcomes' newest prices before the start.
_OVERROUND = """
WITH newest AS (
    SELECT DISTINCT ON (event_id, book, market, player, outcome) event_id, book, market, player, price
    FROM ingest.odds_snapshots AS snapshot JOIN ingest.games USING (event_id)
    WHERE market = ANY (%s) AND snapshot.observed_at < commence_time
    ORDER BY event_id, book, market, player, outcome, snapshot.observed_at DESC
), quote AS (
    SELECT market, sum(1 / price) - 1 AS overround
    FROM newest
    GROUP BY event_id, book, market, player
    HAVING count(*) = 2
)
SELECT market, percentile_cont(0.5) WITHIN GROUP (ORDER BY overround) FROM quote GROUP BY market ORDER BY market
"""


async def of_run(stack: Stack) -> dict[str, float]:
    """The figures by name; one that nothing was stored for is left out. Raises psycopg.Error."""
    markets = list(MARKETS)
    (counted,) = await stack.rows(_OF_QUOTES, markets, HORIZON, HORIZON)
    overround = {f"{OVERROUND} {market}": value for market, value in await stack.rows(_OVERROUND, markets)}
    named = {**dict(zip((CHANGES, BOOKS, LINES), counted, strict=True)), **overround}
    return {name: float(value) for name, value in named.items() if value is not None}
