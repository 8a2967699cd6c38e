"""A generated year in a real PostgreSQL: a season of games, as every service would have stored it.

1,300 games, fifteen books, three markets. A game is quoted for three days before its start and two hours into it; each
book changes each of its quotes some thirty times, most of them in the last hours, when polls are 60 s apart (before
that 5 and 15 min). That is the rate of the recorded series (`deploy.simulator.calibration`: about 1.1 of 100 quotes a
minute).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import LiteralString

import psycopg

#: The moment at which the year ends, in the middle of an evening.
NOW = datetime(2026, 4, 12, 23, 30, tzinfo=UTC)
GAMES, CHANGES = 1300, 30
SPORT = "basketball_nba"
#: A third of the games of the evening with which the year ends have not begun.
LAST = f"{GAMES - 1:032x}"

_MARKETS = "(VALUES ('h2h', 'home', 'away'), ('spreads', 'home', 'away'), ('totals', 'over', 'under'))"
_BOOKS = (
    "unnest(ARRAY['ballybet','betmgm','betonlineag','betrivers','betus','bovada','draftkings','espnbet','fanatics',"
    "'fanduel','hardrockbet','lowvig','mybookieag','pinnacle','williamhill_us'])"
)

#: Run in this order, each in a transaction of its own.
STATEMENTS: Mapping[str, LiteralString] = {
    "the games": f"""
        CREATE SCHEMA year;
        -- A season of 176 days with seven games an evening; the last evening is the present one.
        CREATE TABLE year.game AS SELECT lpad(to_hex(n), 32, '0') AS event_id, 'Home ' || n %% 30 AS home,
            'Away ' || (n + 1) %% 30 AS away,
            timestamptz '2026-04-12 22:00+00' - ((1299 - n) / 7) * interval '1 day 2 min' + n %% 7 * interval '30 min'
                AS tip
            FROM generate_series(0, 1299) AS n;
        -- What every book changed when. Polls stand further apart the further the start is away.
        SELECT setseed(0.5);
        CREATE TABLE year.change AS SELECT DISTINCT ON (event_id, market, book, at) event_id, market, side, other_side,
            book, tip, at, (random() * 24 - 12)::int / 2.0 AS line, round((1.5 + random())::numeric, 2) AS price
            FROM (SELECT game.*, market, side, other_side, book,
                    date_bin(CASE WHEN before < interval '3 hours' THEN interval '60 s'
                        WHEN before < interval '12 hours' THEN interval '300 s' ELSE interval '900 s' END,
                        tip - before, timestamptz '2025-01-01 00:00+00') AS at
                FROM year.game, {_MARKETS} AS market (market, side, other_side), {_BOOKS} AS book,
                    LATERAL (SELECT power(random(), 3) * interval '74 hours' - interval '2 hours' AS before,
                        game.event_id, n FROM generate_series(1, %(changes)s) AS n) AS drawn) AS drawn
            WHERE at <= %(now)s ORDER BY event_id, market, book, at;
        ANALYZE year.change""",
    "ingest": f"""
        SELECT ingest.keep_days(ARRAY['odds_snapshots', 'disappearances'], ARRAY(
            SELECT DISTINCT (at AT TIME ZONE 'UTC')::date FROM year.change));
        INSERT INTO ingest.odds_snapshots (id, observed_at, event_id, book, market, player, outcome, price, line,
                last_update, changed_after, changed_by)
            SELECT left(md5(event_id || market || book || outcome || at), 32), at, event_id, book, market, '', outcome,
                price, line, at - interval '20 s', at - interval '80 s', at - interval '20 s'
            FROM year.change, unnest(ARRAY[side, other_side]) AS outcome ORDER BY event_id, at;
        INSERT INTO ingest.disappearances (event_id, market, player, book, observed_at, last_seen_at)
            SELECT event_id, market, '', book, max(at), max(at) - interval '1 min' FROM year.change GROUP BY 1, 2, 4;
        INSERT INTO ingest.games (event_id, sport_key, home_team, away_team, commence_time, first_seen_at, observed_at,
                gone)
            SELECT event_id, '{SPORT}', home, away, tip, tip - interval '3 days',
                least(tip + interval '150 min', %(now)s), tip + interval '150 min' < %(now)s FROM year.game;
        INSERT INTO ingest.game_starts SELECT event_id, tip - interval '3 days', tip FROM year.game;
        INSERT INTO ingest.polls (sport_key, observed_at, failure, events, quotes, changes, snapshots, credits_last,
                credits_remaining)
            SELECT '{SPORT}', %(now)s - n * interval '1 min', '', 7, 315, 5, 10, 3, 15000
            FROM generate_series(1, 91 * 24 * 60) AS n;  -- what retention left, and a day
        INSERT INTO ingest.event_state (event_id, partition, applied_revision, awaiting_keyframe, state)
            SELECT event_id, 0, 4000, false, decode(repeat(md5(event_id), CASE WHEN gone THEN 12 ELSE 900 END), 'hex')
            FROM ingest.games;
        INSERT INTO ingest.tallies SELECT '{SPORT}', 'rejected', 'reason ' || n, n FROM generate_series(1, 20) AS n;
        INSERT INTO ingest.keyframe_requests SELECT event_id FROM year.game ORDER BY event_id DESC LIMIT 2""",
    "consensus": f"""
        SELECT consensus.keep_days(ARRAY['consensus_snapshots', 'quote_history'], ARRAY(
            SELECT DISTINCT (at AT TIME ZONE 'UTC')::date FROM year.change));
        INSERT INTO consensus.quote_history (event_id, market, player, book, observed_at, line, price, price_other,
                fair_probability)
            SELECT event_id, market, '', book, at, line, price, price, 0.5 FROM year.change;
        INSERT INTO consensus.consensus_snapshots (event_id, observed_at, market, player, sport_key, consensus_line,
                fair_line, fair_probability, consensus_price, dispersion, dispersion_mad, books, clusters, devig_method,
                in_play, excluded, note, weights, heartbeat, config_hash)
            SELECT event_id, at, market, '', '{SPORT}', line, line, 0.5, 1.95, 0.4, 0.3, 15, 12, 'multiplicative',
                at >= tip, '{{}}', '', '{{"betmgm": 1.0, "draftkings": 1.0, "fanduel": 1.0, "pinnacle": 1.5}}',
                heartbeat, '0123456789abcdef'
            FROM (SELECT DISTINCT ON (event_id, at, market) * FROM (
                SELECT event_id, at, market, tip, line, false AS heartbeat FROM year.change
                UNION ALL SELECT event_id, beat, market, tip, 0, true FROM year.game, {_MARKETS} AS market (market),
                    generate_series(tip - interval '70 hours', least(tip, %(now)s), interval '10 min') AS beat
            ) AS row ORDER BY event_id, at, market, heartbeat) AS row
            WHERE at >= (SELECT min(at) FROM year.change);
        INSERT INTO consensus.games (event_id, sport_key, home_team, away_team, commence_time, observed_at, in_play,
                markets, books, first_observed_at)
            SELECT event_id, '{SPORT}', home, away, tip, least(tip + interval '150 min', %(now)s), tip <= %(now)s,
                ARRAY['h2h', 'spreads', 'totals'], CASE WHEN tip + interval '150 min' < %(now)s THEN 0 ELSE 15 END,
                tip - interval '3 days' FROM year.game;
        INSERT INTO consensus.current_market (event_id, market, player, sport_key)
            SELECT event_id, market, '', '{SPORT}'
            FROM consensus.games, {_MARKETS} AS market (market) WHERE books > 0;
        INSERT INTO consensus.event_state (event_id, partition, applied_revision, awaiting_keyframe, state)
            SELECT event_id, 0, 4000, false, decode(repeat(md5(event_id), CASE WHEN books = 0 THEN 3 ELSE 900 END),
                'hex') FROM consensus.games""",
    "signals": f"""
        SELECT signals.keep_days(ARRAY['suppression'], ARRAY(
            SELECT DISTINCT (at AT TIME ZONE 'UTC')::date FROM year.change WHERE at > %(now)s - interval '31 days'));
        INSERT INTO signals.configuration VALUES ('0123456789abcdef', '{{}}');
        INSERT INTO signals.signal (id, feed_position, fact_id, fact_rank, sport_key, event_id, market, player,
                signal_type, direction, tier, time_bucket, books, composite_score, strength, velocity, observed_at,
                published_at, config_hash, basic, "full", explanation)
            SELECT 'signal-' || n, n, 'fact-' || n / 2, n %% 2, '{SPORT}', event_id, market, '',
                (ARRAY['MOVE', 'KEY_CROSS', 'MULTIBOOK_SYNC', 'STEAM', 'DISLOCATION'])[1 + n %% 5],
                (ARRAY['TOWARD_HOME', 'TOWARD_AWAY'])[1 + n %% 2],
                (ARRAY['LOW', 'LOW', 'MEDIUM', 'LOW', 'MEDIUM', 'HIGH'])[1 + n %% 6],
                (ARRAY['OPEN', 'MID', 'LATE', 'PRETIP'])[1 + n %% 4],
                CASE WHEN n %% 1000 = 0 THEN ARRAY['seldom'] ELSE ARRAY[book, 'draftkings', 'fanduel'] END,
                round((random() * 100)::numeric, 2), (random() * 100)::int, random(), at, at + interval '50 ms',
                '0123456789abcdef', payload, payload || payload, payload || payload || payload
            FROM (SELECT row_number() OVER (ORDER BY at, event_id, market, book) AS n, change.* FROM year.change
                WHERE line = round(line) AND get_byte(decode(md5(event_id || market || book || at), 'hex'), 0) < 24)
                AS found,
                LATERAL (SELECT string_agg(sha512((n || ' ' || part)::bytea), '') AS payload
                    FROM generate_series(1, 8) AS part) AS made;
        UPDATE signals.feed SET position = (SELECT max(feed_position) FROM signals.signal), received_at = %(now)s;
        INSERT INTO signals.suppression (id, event_id, sport_key, market, player, signal_type, direction, book, reason,
                count, first_seen_at, last_seen_at)
            SELECT md5(event_id || market || book || at), event_id, '{SPORT}', market, '', 'MOVE', 'TOWARD_HOME', book,
                (ARRAY['sparse_sampling', 'cooldown', 'too_few_books'])[1 + length(book) %% 3], 5, at,
                at + interval '10 min' FROM year.change WHERE at > %(now)s - interval '30 days';
        INSERT INTO signals.event_state (event_id, partition, applied_revision, awaiting_keyframe, state)
            SELECT event_id, 0, 4000, false, decode(repeat(md5(event_id), CASE WHEN books = 0 THEN 1 ELSE 2000 END),
                'hex') FROM consensus.games""",
    "dead letters and the stages' places": "".join(
        f"""
        INSERT INTO {schema}.dead_letter (stream_identity, sequence, partition, event_id, reason, payload)
            SELECT 'stream', n, 0, 'event', 'unreadable', '' FROM generate_series(1, 50) AS n;
        INSERT INTO {schema}.position SELECT n, 'stream', 100000 FROM generate_series(0, 15) AS n;
        INSERT INTO {schema}.outbox (partition, event_id, message_id, payload)
            SELECT n %% 16, 'event', 'event:' || n, '' FROM generate_series(1, 20) AS n;"""
        for schema in ("ingest", "consensus", "signals")
    ),
}


def fill(connection: psycopg.Connection, changes: int = CHANGES) -> None:
    """Puts the year into a database with every service's schema. Says how far it is."""
    connection.execute("SET synchronous_commit = off")
    connection.execute("SET work_mem = '256MB'")
    connection.execute("SET maintenance_work_mem = '256MB'")
    for name, statement in STATEMENTS.items():
        print(f"  {name}…", flush=True)
        # Sent in pieces with the values in place: a server prepares no more than one statement at a time.
        given = {"changes": changes, "now": NOW}
        with psycopg.ClientCursor(connection) as cursor:
            cursor.execute(statement, given)
        connection.commit()
    print("  statistics…", flush=True)
    connection.execute("DROP SCHEMA year CASCADE")
    connection.commit()
    connection.autocommit = True
    connection.execute("ANALYZE")
    connection.autocommit = False
