"""The program `stratum`: run the system on this machine, look at it, replay what was recorded, stop it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import psutil
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from deploy import budget_report as budgeting
from deploy import demo as demonstration
from deploy import profiles, schema
from deploy.children import cpu_seconds
from deploy.home import Home, Living, OccupiedError, Ports, PortTakenError, free_ports, ports_from, without_taken
from deploy.local.postgres import PostgresServer
from deploy.local.process import ServerFailedError
from deploy.provider import served
from deploy.recording import Recording, UnreadableRecordingError, open_recording
from deploy.replay import Progress as ReplayProgress
from deploy.replay import Replay, ReplayFailedError, Summary, write_lines
from deploy.simulator import calibration, mischief
from deploy.simulator.server import opened_now
from deploy.stack import Live, Market, Recorded, Simulated, Stack, StackFailedError, StackSettings
from gateway.envoy import NOTICE
from services.shared.clock import utc_now
from services.shared.config import ConfigurationError
from services.shared.logging import configure_logging

#: Long enough for two starts: the second one where somebody took a port.
START_SECONDS = 300.0
STOP_SECONDS = 60.0
#: How a program ends that Ctrl-C has ended.
INTERRUPTED = 130
#: A series whose answers lie this many times further apart than its profile is made for shows no movement as it was.
TOO_SPARSE = 4.0
DEFAULT_HOME = Path(".stratum")

Result = TypeVar("Result")

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)
app = typer.Typer(
    help="Watches how bookmakers price NBA games and says, with its reasons, when something worth knowing happens.\n\n"
    "Start with `stratum demo`: it needs nothing and leaves nothing behind.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

HomeOption = Annotated[
    Path,
    typer.Option("--home", envvar="STRATUM_HOME", help="Where data, logs and secrets are kept.", show_default=True),
]
PortBaseOption = Annotated[
    int | None,
    typer.Option(
        "--port-base",
        min=1024,
        max=65000,
        help="Use twelve ports from this one on, the gateway first. Without it the gateway has 8080, or a free port "
        "where that is taken.",
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", help="The simulated market's seed: the same one, the same market.")]
SpeedOption = Annotated[
    float, typer.Option("--speed", min=1.0, max=120.0, help="Seconds of the simulated market's time in one of ours.")
]
RecordingArgument = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="A recorded series: a folder with INDEX.tsv, or historical answers.")
]


@app.command()
def demo(
    seconds: Annotated[
        float | None, typer.Option("--for", metavar="SECONDS", min=1.0, help="Stop by itself after so many seconds.")
    ] = None,
    recording: Annotated[
        Path | None, typer.Option("--recording", metavar="FOLDER", help="Show a recorded series instead.")
    ] = None,
    seed: SeedOption = 1,
    speed: SpeedOption = 40.0,
    port_base: PortBaseOption = None,
) -> None:
    """Everything on this machine, with signals shown as they arrive.

    PostgreSQL, NATS, the services and the gateway run in a temporary folder of their own, beside whatever else runs.
    The market is simulated; with ODDS_API_KEY set it is the live provider. Ctrl-C stops everything.

    Example: `stratum demo --for 60`
    """
    with _temporary_home("demo") as home, _market(recording, seed, speed) as (market, profile):
        usual = replace(free_ports(), gateway=Ports().gateway)
        settings = StackSettings(home, _ports(port_base, usual), market, profile, keep_ports=port_base is not None)
        _run(demonstration.run(settings, console, seconds))


@app.command()
def replay(
    folder: RecordingArgument,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the signals here, a JSON object a line, sorted.")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option("--profile", help=f"Whose windows to use: {', '.join(profiles.CADENCES)}. By default what suits."),
    ] = None,
    summary: Annotated[Path | None, typer.Option("--summary", help="Write the summary here, as JSON.")] = None,
    kill: Annotated[
        bool, typer.Option("--kill", hidden=True, help="Kill -9 each process once in turn, to show the same bytes.")
    ] = False,
) -> None:
    """A recorded series through the real services, as fast as it goes, in the recording's own time.

    The same recording and configuration give the same bytes in --out every time.

    Example: `stratum replay recordings/nba_2h --out signals.jsonl --summary summary.json`
    """
    if profile is not None and profile not in profiles.CADENCES:
        _refuse(f"there is no profile {profile}. Choose one of {', '.join(profiles.CADENCES)}.")
    for target in filter(None, (out, summary)):
        if not target.absolute().parent.is_dir():
            _refuse(f"{target.absolute().parent} is no folder. Make it first.")
    with _temporary_home("replay") as home, _opened(folder) as series:
        run = Replay(series, home, profile, kill)
        gap = series.median_gap_seconds
        first, last = (f"{moment:%Y-%m-%d %H:%M}" for moment in (series.times[0], series.times[-1]))
        console.print(f"{len(series)} answers of {series.sport_key} from {first} to {last} UTC", soft_wrap=True)
        told = "as told" if profile else f"the one that suits a median gap of {gap / 60:.4g} min"
        console.print(f"profile: [bold]{run.chosen_profile}[/] ({told})", soft_wrap=True)
        if gap > TOO_SPARSE * profiles.CADENCES[run.chosen_profile]:
            console.print("Its answers lie too far apart for movements: most will be suppressed as sparse_sampling.")
        result, lines = _run(_with_progress(run))
    if out is not None:
        write_lines(lines, out)
        console.print(f"{len(lines)} signals in {out}")
    if summary is not None:
        summary.write_text(result.as_json())
        console.print(f"summary in {summary}")
    console.print(_summary_table(result))
    console.print(demonstration.by_type_and_tier(result.signals_by_type_and_tier))


@app.command()
def up(
    home: HomeOption = DEFAULT_HOME, seed: SeedOption = 1, speed: SpeedOption = 1.0, port_base: PortBaseOption = None
) -> None:
    """Start the whole system and leave it running; what dies is started again.

    With ODDS_API_KEY set it watches the live provider, else a simulated market in real time. Data stays in --home.
    When it is up already, nothing changes.

    Example: `stratum up && stratum status`
    """
    place = Home(home.absolute())
    living = place.living()
    if living is not None:
        console.print(f"It is up already (process {living.pid}); nothing was changed.")
        _say_where(living)
        return
    if port_base is not None:
        _ports(port_base, Ports())
    place.make()
    arguments = ["--home", str(place.folder), "--seed", str(seed), "--speed", str(speed)]
    if port_base is not None:
        arguments += ["--port-base", str(port_base)]
    with (place.logs / "stack.log").open("ab") as log:
        supervisor = subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-m", "deploy.cli", "supervise", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    living = _await_up(place, supervisor)
    console.print(f"Up, with {living.market}. What runs: `stratum status`; stop it: `stratum down`.", soft_wrap=True)
    _say_where(living)


@app.command(hidden=True)
def supervise(
    home: HomeOption = DEFAULT_HOME, seed: SeedOption = 1, speed: SpeedOption = 1.0, port_base: PortBaseOption = None
) -> None:
    """What `up` leaves running: the stack's parent. It ends, and ends everything, on SIGTERM."""
    with _market(None, seed, speed) as (market, profile):
        ports = _ports(port_base, Ports())
        settings = StackSettings(Home(home.absolute()), ports, market, profile, keep_ports=port_base is not None)
        _run(_supervise(settings))


@app.command()
def down(home: HomeOption = DEFAULT_HOME) -> None:
    """Stop what `up` started. The data stays.

    Example: `stratum down`
    """
    living = Home(home.absolute()).living()
    process = living.process if living else None
    if living is None or process is None:
        console.print(f"Nothing runs in {home}.")
        return
    process.terminate()
    with console.status("stopping…"):
        try:
            process.wait(STOP_SECONDS)
        except psutil.TimeoutExpired:
            _refuse(f"process {living.pid} has not ended after {STOP_SECONDS:.0f} s. See `stratum logs stack`.")
    console.print("Stopped; nothing is left running.")


@app.command()
def status(home: HomeOption = DEFAULT_HOME) -> None:
    """What runs, where, and whether it is ready. Ends with 3 when nothing runs.

    Example: `stratum status`
    """
    living = Home(home.absolute()).living()
    if living is None:
        console.print(f"Nothing runs in {home}. Start it with `stratum up`.")
        raise typer.Exit(3)
    console.print(f"Up, with {living.market}; process {living.pid}.", soft_wrap=True)
    table = Table()
    for heading in ("name", "state", "process", "port", "CPU s"):
        table.add_column(heading, justify="right" if heading in ("process", "port", "CPU s") else "left")
    for name, pid in living.processes.items():
        port = str(getattr(living.ports, name))
        table.add_row(name, _state_of(living, name, pid), str(pid), port, f"{cpu_seconds(pid):.1f}")
    console.print(table)
    _say_where(living)


@app.command()
def logs(
    name: Annotated[
        str, typer.Argument(help="stack, ingest, consensus, signals, postgres, nats or gateway.")
    ] = "stack",
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of the last lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines until Ctrl-C.")] = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """The last lines of a process's log.

    Example: `stratum logs signals --follow`
    """
    place = Home(home.absolute())
    files = {service: place.logs / f"{service}.log" for service in ("stack", *schema.SERVICES)}
    files |= {
        "postgres": place.database_folder() / "postgres.log",
        "nats": place.folder / "nats" / "nats.log",
        "gateway": place.folder / "gateway" / "envoy.log",
    }
    if name not in files:
        _refuse(f"there is no log called {name}. Choose one of {', '.join(files)}.")
    if not files[name].exists():
        _refuse(f"{files[name]} does not exist: nothing has run in {home} yet. Start it with `stratum up`.")
    with files[name].open(errors="replace") as log:
        sys.stdout.writelines(deque(log, maxlen=lines))
        try:
            while follow:
                sys.stdout.writelines(log)
                sys.stdout.flush()
                time.sleep(0.2)
        except KeyboardInterrupt:
            return


@app.command("schema")
def schema_command(
    check: Annotated[
        bool, typer.Option("--check", help="Do the migrations make the tables that the code declares?")
    ] = False,
    upgrade: Annotated[bool, typer.Option("--upgrade", help="Bring the running stack's schemas up to date.")] = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Check the migrations, or run those that are missing.

    Example: `stratum schema --check`
    """
    if check == upgrade:
        _refuse("say what to do: --check or --upgrade.")
    if check:
        try:
            schema.check()
        except (schema.SchemaError, ServerFailedError) as error:
            _refuse(str(error))
        console.print("Every service's migrations make the tables that it declares.")
        return
    place = Home(home.absolute())
    living = place.living()
    if living is None:
        _refuse(f"nothing runs in {home}. Start it with `stratum up`, which runs all migrations by itself.")
    server = PostgresServer(place.database_folder(), living.ports.postgres)
    schema.upgrade(server.url(), place.passwords())
    console.print("Every schema is up to date.")


@app.command()
def simulate(
    port: Annotated[int, typer.Option("--port", help="Where to listen, on 127.0.0.1; 0 takes a free port.")] = 8090,
    seed: SeedOption = 1,
    speed: SpeedOption = 40.0,
    compare: Annotated[
        bool, typer.Option("--compare", help="Print how it compares with recorded series, and end.")
    ] = False,
    fail: Annotated[
        str | None, typer.Option("--fail", metavar="KIND", help=f"Fail in one way: {', '.join(mischief.KINDS)}.")
    ] = None,
    fail_share: Annotated[
        float, typer.Option("--fail-share", min=0.0, max=1.0, help="The share of calls that --fail lets fail.")
    ] = 1.0,
) -> None:
    """The simulated provider alone: a market that speaks The Odds API's protocol in its own accelerated time.

    Example: `stratum simulate --port 8090 &  curl 'http://127.0.0.1:8090/v4/sports/basketball_nba/odds?apiKey=x&regions=us'`
    """
    if compare:
        for name in calibration.RECORDED:
            console.print(demonstration.comparison(name, {}, seed))
        return
    if fail is not None and fail not in mischief.KINDS:
        _refuse(f"there is no failure called {fail}. Choose one of {', '.join(mischief.KINDS)}.")
    _run(_simulate(port, seed, speed, None if fail is None else mischief.Mischief(fail, fail_share, seed)))


@app.command()
def budget(
    credits: Annotated[
        int | None, typer.Option("--credits", min=0, help="Credits of the month; by default ODDS_API_MONTH_CREDITS.")
    ] = None,
    day_credits: Annotated[
        int | None, typer.Option("--day-credits", min=0, help="Credits of a day; by default a twentieth of the month.")
    ] = None,
    month: Annotated[
        str | None, typer.Option("--month", metavar="YYYY-MM", help="Which month; by default the next one.")
    ] = None,
    starts: Annotated[
        Path | None,
        typer.Option(
            "--starts",
            metavar="FILE",
            help="Starts, a time a line or an answer of /events, instead of a made-up month.",
        ),
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="The games that the provider lists now: a free question, with ODDS_API_KEY.")
    ] = False,
    day: Annotated[
        str | None, typer.Option("--day", metavar="YYYY-MM-DD", help="Whose hours to show; by default the dearest day.")
    ] = None,
    games: Annotated[
        int | None, typer.Option("--games", min=1, max=30, help="So many games every day instead of 2 to 14.")
    ] = None,
    watched: Annotated[
        int, typer.Option("--watched", min=0, max=30, help="Games a day that are followed in play.")
    ] = 0,
    failing: Annotated[
        float,
        typer.Option("--failing", min=0.0, max=0.9, help="Share of calls that bring nothing and cost all the same."),
    ] = 0.0,
    seed: Annotated[int, typer.Option("--seed", help="Of the made-up month: the same one, the same month.")] = 1,
) -> None:
    """What a month and a day will cost before anything is spent, and whether any tip-off would be missed.

    Plays the poller's own decisions over a schedule, with the markets, regions or bookmakers and intervals of the
    settings (ODDS_API_…), and says what would make it cheaper.

    Example: `stratum budget --credits 20000 --month 2026-12`
    """
    try:
        schedule = budgeting.schedule_from(month, starts, live, games, seed)
        asked = budgeting.spending_from(credits, day_credits, failing)
        shown = None if day is None else date.fromisoformat(day)
    except (budgeting.UnreadableScheduleError, ConfigurationError, ValueError) as error:
        _refuse(str(error))
    with console.status("playing the poller over the schedule…"):
        outcome = budgeting.forecast(schedule.starts, schedule.since, schedule.until, asked.spending, watched, seed)
    for part in budgeting.report(schedule, asked, outcome, shown):
        console.print(part, soft_wrap=True)


async def _simulate(port: int, seed: int, speed: float, trouble: mischief.Mischief | None) -> None:
    application = opened_now(utc_now, seed, speed).application()
    if trouble is not None:
        trouble.added_to(application)
    async with served(application, port) as url:
        console.print(f"listening on {url}; one second here is {speed:g} there. Ctrl-C ends it.", soft_wrap=True)
        await asyncio.Event().wait()


async def _supervise(settings: StackSettings) -> None:
    async with Stack(settings, lambda sentence: console.print(f"{utc_now():%Y-%m-%dT%H:%M:%SZ} {sentence}")) as stack:
        console.print(f"{utc_now():%Y-%m-%dT%H:%M:%SZ} up: {stack.gateway_url}")
        await stack.failed()


async def _with_progress(run: Replay) -> tuple[Summary, list[bytes]]:
    """The replay with a bar that says where in the recording it is, and how far the stages are behind."""
    first, last = run.recording.times[0], run.recording.times[-1]
    length = max(1.0, (last - first).total_seconds())
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as bar:
        task = bar.add_task("starting", total=length, note="")

        def show(progress: ReplayProgress) -> None:
            reached = 0.0 if progress.at is None else (progress.at - first).total_seconds()
            behind = ", ".join(f"{stage} {'…' if lag is None else lag}" for stage, lag in progress.lag.items())
            note = f"{progress.responses} answers, {progress.signals} signals, behind: {behind}"
            place = "starting" if progress.at is None else f"{progress.at:%Y-%m-%d %H:%M}"
            bar.update(task, completed=reached, description=place, note=note)

        run.show = show
        run.say = lambda sentence: bar.console.print(f"  {sentence}", style="dim")
        return await run.run()


def _summary_table(summary: Summary) -> Table:
    table = Table(title=f"{summary.recording}, profile {summary.profile}", show_header=False)
    rows: list[tuple[str, object]] = [
        ("responses", summary.responses),
        ("quotes", summary.quotes),
        ("changed quotes", summary.changes),
        ("snapshots", summary.snapshots),
        ("consensus rows", summary.consensus_rows),
        ("signals", summary.signals),
        *((f"suppressed: {reason}", number) for reason, number in summary.suppressed_by_reason.items()),
        *((f"rejected: {reason}", number) for reason, number in summary.rejected_by_reason.items()),
        *((f"failed responses: {kind}", number) for kind, number in summary.failed_responses.items()),
        ("dead letters", summary.dead_letters),
        ("wall seconds", summary.wall_seconds),
        ("changed quotes a second", summary.changes_per_second),
        *((f"CPU seconds: {name}", seconds) for name, seconds in summary.cpu_seconds.items()),
    ]
    if summary.killed:
        rows.append(("killed (-9)", ", ".join(summary.killed)))
    table.add_column()
    table.add_column(justify="right")
    for name, value in rows:
        table.add_row(name, f"{value:,}" if isinstance(value, int | float) else str(value))
    return table


@contextmanager
def _temporary_home(purpose: str) -> Iterator[Home]:
    """A folder for one run, removed when it went well and kept, with its logs, when it did not."""
    folder = Path(tempfile.mkdtemp(prefix=f"stratum-{purpose}-"))
    folder.chmod(0o711)  # the database may run as another user, who has to get to its own folder inside
    went_well = False
    try:
        yield Home(folder)
        went_well = True
    except typer.Exit as leaving:
        went_well = leaving.exit_code == INTERRUPTED
        raise
    finally:
        if went_well or not (folder / "logs").is_dir():
            # A second Ctrl-C must not leave half a folder behind.
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
            shutil.rmtree(folder, ignore_errors=True)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
        else:
            errors.print(f"Logs were kept in {folder / 'logs'}", soft_wrap=True)


@contextmanager
def _opened(folder: Path) -> Iterator[Recording]:
    try:
        recording = open_recording(folder)
    except UnreadableRecordingError as error:
        _refuse(f"{error}. Give a folder with INDEX.tsv and its archives.")
    with recording:
        yield recording


@contextmanager
def _market(folder: Path | None, seed: int, speed: float) -> Iterator[tuple[Market, str]]:
    """The market to watch and the profile that suits it."""
    if folder is not None:
        with _opened(folder) as recording:
            yield Recorded(recording), profiles.profile_for(recording.median_gap_seconds)
    elif os.environ.get("ODDS_API_KEY") or os.environ.get("ODDS_API_KEY_FILE"):
        yield Live(), "live"
    else:
        yield Simulated(seed, speed), "live"


def _ports(base: int | None, usual: Ports) -> Ports:
    if base is None:
        ports, said = without_taken(usual)
        for sentence in said:
            console.print(sentence, style="dim")
        return ports
    try:
        return ports_from(base)
    except PortTakenError as error:
        _refuse(str(error))


def _await_up(place: Home, supervisor: subprocess.Popen[bytes]) -> Living:
    deadline = time.monotonic() + START_SECONDS
    with console.status("starting…"):
        while supervisor.poll() is None and time.monotonic() < deadline:
            living = place.living()
            if living is not None and living.ready:
                return living
            time.sleep(0.1)
    supervisor.terminate()
    supervisor.wait()
    log = place.logs / "stack.log"
    return _refuse(f"it did not come up. The last lines of {log}:\n{_tail(log)}")


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-15:])


def _say_where(living: Living) -> None:
    url = f"http://127.0.0.1:{living.ports.gateway}"
    console.print(f"gateway: {url}/api/v1/intel/signals   documentation: {url}/docs")
    console.print(NOTICE, style="yellow", soft_wrap=True)


def _state_of(living: Living, name: str, pid: int) -> str:
    if not psutil.pid_exists(pid):
        return "[red]starting again[/]"
    if name not in schema.SERVICES:
        return "running"
    port = getattr(living.ports, f"{name}_metrics")
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
            return "[green]ready[/]"
    except (urllib.error.URLError, OSError):
        return "[yellow]not ready[/]"


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    """Runs until it is done, or until Ctrl-C or SIGTERM, which end it in good order; errors say what to do next."""
    try:
        return asyncio.run(_interruptible(work))
    except asyncio.CancelledError:
        console.print("Stopped; nothing is left running.")
        raise typer.Exit(INTERRUPTED) from None
    except OccupiedError as error:
        _refuse(f"{error}. Stop it with `stratum down`, or choose another --home.")
    except (StackFailedError, ReplayFailedError) as error:
        _refuse(str(error))


async def _interruptible(work: Coroutine[Any, Any, Result]) -> Result:
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    return await task


def _refuse(sentence: str) -> NoReturn:
    errors.print("stratum:", style="red", end=" ")
    errors.print(sentence, markup=False, soft_wrap=True)
    raise typer.Exit(1)


def main() -> None:
    """What the command `stratum` runs."""
    # What the shared adapters log is for the services' files; a person at a terminal is told in sentences.
    configure_logging("stratum", "ERROR", "console")
    app()


if __name__ == "__main__":
    main()
