"""What `stratum budget` is asked and what it shows: the schedule and the settings in, tables, bars and advice out."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from rich.console import RenderableType
from rich.table import Table

from deploy.budget import (
    TOLERANCE_SECONDS,
    Forecast,
    Spending,
    UnreadableScheduleError,
    forecast,
    nba_like_month,
    read_starts,
)
from services.ingest.cadence import Phase
from services.ingest.config import DAYS_OF_A_MONTH, SMALLEST_PLAN_CREDITS, Config
from services.ingest.costs import BOOKMAKERS_PER_REGION, Endpoint
from services.ingest.provider import OddsApi, ProviderFailure, open_session
from services.shared.clock import utc_now
from services.shared.config import read

__all__ = ["UnreadableScheduleError", "forecast", "report", "schedule_from", "spending_from"]

#: The provider's plans, by credits a month; to be compared with its page before one is bought.
PLANS = (500, 20_000, 100_000, 5_000_000, 15_000_000)
BAR_WIDTH = 40
_NAMES = {
    Phase.EARLY: "within 36 hours",
    Phase.FAR: "within 6 hours",
    Phase.APPROACH: "within 3 hours",
    Phase.NEAR: "within 1 hour",
    Phase.CLOSE: "last 10 minutes",
    Phase.CAPTURE: "capture",
    Phase.LATE: "late start",
    Phase.IN_PLAY: "watched, in play",
    Phase.FIXED: "always",
}


@dataclass(frozen=True, slots=True)
class Schedule:
    """The games to play over, where they come from, and from when to when."""

    starts: tuple[datetime, ...]
    since: datetime
    until: datetime
    source: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What is spent from, and the settings behind the cost of a call."""

    spending: Spending
    config: Config


def schedule_from(month: str | None, file: Path | None, live: bool, games: int | None, seed: int) -> Schedule:
    """The schedule that was asked for. Raises UnreadableScheduleError, and ValueError for what is no month."""
    if live and file is not None:
        raise UnreadableScheduleError("--live and --starts name two schedules: give one")
    now = utc_now().replace(microsecond=0)
    if live:
        return _of(asyncio.run(_listed()), now, "the games that the provider lists now")
    if file is not None:
        try:
            return _of(read_starts(file.read_text()), None, str(file))
        except OSError as error:
            raise UnreadableScheduleError(f"{file} cannot be read: {error.strerror}") from None
        except UnreadableScheduleError as error:
            raise UnreadableScheduleError(f"{file}: {error}") from None
    try:
        first = _month_after(now.date()) if month is None else date.fromisoformat(f"{month}-01")
    except ValueError:
        raise UnreadableScheduleError(f"{month} is no month: write it as 2026-12") from None
    kind = "2 to 14 games a day" if games is None else f"{games} games a day"
    since = datetime(first.year, first.month, 1, tzinfo=UTC)
    after = _month_after(first)
    until = datetime(after.year, after.month, 1, tzinfo=UTC)
    starts = tuple(nba_like_month(first, seed, games))
    return Schedule(starts, since, until, f"a made-up month of {kind}, seed {seed}")


def spending_from(credits: int | None, day_credits: int | None, failing: float) -> Asked:
    """The plan of the command line over that of the settings. Raises ConfigurationError."""
    config = read(Config)
    day, month = config.limits
    if credits is not None:
        month, day = credits, credits // DAYS_OF_A_MONTH
    elif month is None:
        month, day = SMALLEST_PLAN_CREDITS, SMALLEST_PLAN_CREDITS // DAYS_OF_A_MONTH
    cost = config.cost(Endpoint.ODDS, len(config.odds_api_markets))
    return Asked(Spending(month, day if day_credits is None else day_credits, cost, config.cadence, failing), config)


def report(schedule: Schedule, asked: Asked, outcome: Forecast, day: date | None) -> Iterator[RenderableType]:
    """Everything there is to show, in order."""
    spending = asked.spending
    yield f"{len(outcome.starts)} games: {schedule.source}, {schedule.since:%Y-%m-%d} to {schedule.until:%Y-%m-%d} UTC"
    yield f"One call costs {spending.cost} credits: {_formula(asked.config)}."
    yield _summary(asked, outcome)
    yield _phases(asked, outcome)
    by_day = outcome.by_day
    days = {f"{when:%a %d}": spent for when, spent in by_day.items()}
    yield _bars("credits a day, UTC", days, spending.day)
    shown = day or max(by_day, key=lambda when: by_day[when], default=None)
    if shown is not None:
        hours = {f"{hour:02d}:00": spent for hour, spent in outcome.by_hour(shown).items() if spent}
        total = by_day.get(shown, 0)
        yield _bars(f"{shown:%A %Y-%m-%d}: {total:,} credits by hour, UTC", hours, None)
    for advice in _advice(schedule, asked, outcome):
        yield f"• {advice}"


def _summary(asked: Asked, outcome: Forecast) -> Table:
    spending = asked.spending
    gaps = outcome.gaps_before_tips()
    largest = max(gaps, key=lambda start: gaps[start], default=None)
    dearest = max(outcome.by_day.items(), key=lambda item: item[1], default=(None, 0))
    rows = [
        ("credits of the month", "no limit" if spending.month is None else f"{spending.month:,}"),
        ("credits spent", f"{outcome.credits:,}"),
        ("calls for prices", f"{len(outcome.calls):,}"),
        ("calls that brought nothing", f"{sum(not call.answered for call in outcome.calls):,}"),
        ("looks at the list of games (free)", f"{outcome.looks:,}"),
        ("calls that the budget refused", f"{outcome.refused:,}"),
        (
            "dearest day",
            f"{dearest[1]:,}" + ("" if spending.day is None else f" of {spending.day:,}"),
        ),
        (f"missed tip-offs (no answer in the {TOLERANCE_SECONDS:.0f} s before)", f"{outcome.missed()}"),
        ("largest gap before a tip", "" if largest is None else f"{gaps[largest]:.0f} s ({largest:%a %d, %H:%M})"),
    ]
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in rows:
        table.add_row(name, value)
    return table


def _phases(asked: Asked, outcome: Forecast) -> Table:
    table = Table(title="how often, by how near the next game is")
    for heading in ("next game", "calls", "credits", "usual interval", "median interval"):
        table.add_column(heading, justify="left" if heading == "next game" else "right", no_wrap=True)
    by_phase = outcome.by_phase
    for phase in (phase for phase in _NAMES if phase in by_phase):
        calls, median = by_phase[phase]
        credits = sum(call.credits for call in outcome.calls if call.phase is phase)
        usual = "" if phase in (Phase.CAPTURE, Phase.FIXED) else f"{asked.spending.cadence.of(phase):.0f} s"
        table.add_row(_NAMES[phase], f"{calls:,}", f"{credits:,}", usual, f"{median:.0f} s")
    return table


def _bars(title: str, values: Mapping[str, int], limit: int | None) -> Table:
    table = Table(title=title, show_header=False, box=None, padding=(0, 1))
    most = max(values.values(), default=0)
    for name, value in values.items():
        style = "yellow" if limit is not None and value > 0.95 * limit else "cyan"
        table.add_row(name, f"[{style}]{'█' * math.ceil(BAR_WIDTH * value / most) if most else ''}[/]", f"{value:,}")
    return table


def _formula(config: Config) -> str:
    markets = len(config.odds_api_markets)
    if config.odds_api_bookmakers:
        named = len(config.odds_api_bookmakers)
        return f"{markets} markets × {-(-named // BOOKMAKERS_PER_REGION)} for {named} bookmakers"
    return f"{markets} markets × {len(config.odds_api_regions)} regions"


def _advice(schedule: Schedule, asked: Asked, outcome: Forecast) -> Iterator[str]:
    spending, config = asked.spending, asked.config
    named, regions = len(config.odds_api_bookmakers), len(config.odds_api_regions)
    if not named and regions > 1:
        yield (
            f"Name up to {BOOKMAKERS_PER_REGION} bookmakers of any region in ODDS_API_BOOKMAKERS, pinnacle among them: "
            f"they cost as much as one region, so a call costs {spending.cost // regions} instead of {spending.cost}."
        )
    elif not named:
        yield (
            f"ODDS_API_BOOKMAKERS with up to {BOOKMAKERS_PER_REGION} names costs the same as your one region, and may "
            "mix regions: pinnacle beside American books."
        )
    if named % BOOKMAKERS_PER_REGION and named > BOOKMAKERS_PER_REGION:
        spare = named % BOOKMAKERS_PER_REGION
        yield f"Without {spare} of the {named} bookmakers a call costs {spending.cost - len(config.odds_api_markets)}."
    if config.odds_api_event_markets:
        yield "ODDS_API_EVENT_MARKETS are asked for game by game and are not in this forecast: each costs a call."
    if outcome.missed():
        yield f"{outcome.missed()} tip-offs would be missed: raise --credits, or ask for fewer markets or regions."
    if spending.month is None:
        return
    free = replace(spending, month=None, day=None)
    wanted = forecast(schedule.starts, schedule.since, schedule.until, free).credits
    if wanted > spending.month:
        plan = next((size for size in PLANS if size >= wanted), None)
        yield (
            f"Without a budget it would be {wanted:,} credits: the cadence is stretched to fit {spending.month:,}."
            + ("" if plan is None else f" The plan that needs no stretching has {plan:,}.")
        )
    elif spending.month > outcome.credits * 2:
        spare = spending.month - outcome.credits
        yield f"{spare:,} credits stay over: watch more games in play, or ask for more bookmakers."


def _of(starts: list[datetime], since: datetime | None, source: str) -> Schedule:
    begin = (starts[0] - timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return Schedule(tuple(starts), begin if since is None else since, starts[-1] + timedelta(hours=4), source)


async def _listed() -> list[datetime]:
    config = read(Config)
    if not config.polls:
        raise UnreadableScheduleError("--live asks the provider: set ODDS_API_KEY or ODDS_API_KEY_FILE")
    starts: list[datetime] = []
    async with open_session() as session:
        api = OddsApi(session, config)
        for sport_key in config.odds_api_sports:
            try:
                starts += [event.commence_time for event in (await api.events(sport_key)).value]
            except ProviderFailure as failure:
                raise UnreadableScheduleError(f"the provider did not list its games: {failure}") from None
    if not starts:
        raise UnreadableScheduleError("the provider lists no game now: leave --live out for a made-up month")
    return sorted(starts)


def _month_after(day: date) -> date:
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1)
