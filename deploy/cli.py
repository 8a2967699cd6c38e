"""The program `stratum`: run the system on this machine, look at it, replay what was recorded, stop it."""

from __future__ import annotations

import asyncio
import json
import math
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
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

import psutil
import psycopg
import typer
from pydantic import SecretStr, ValidationError
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from deploy import books as bookmakers
from deploy import budget_report as budgeting
from deploy import dead_letters, examination, profiles, retention, schema
from deploy import demo as demonstration
from deploy import doctor as diagnosis
from deploy import kpis as indicators
from deploy.children import cpu_seconds
from deploy.home import Home, Living, Ports, PortTakenError, free_ports, ports_from, without_taken
from deploy.installation import Rows, found, vouching
from deploy.local.postgres import PostgresServer
from deploy.local.process import ServerFailedError
from deploy.partner_commands import accounts_app, keys_app
from deploy.provider import served
from deploy.record import Limits, RecordingError, Series, cost_of_a_call
from deploy.record import Progress as RecordProgress
from deploy.record import record as save
from deploy.recording import Recording, UnreadableRecordingError, open_recording
from deploy.replay import Progress as ReplayProgress
from deploy.replay import Replay, Summary, write_lines
from deploy.simulator import calibration, mischief
from deploy.simulator.server import opened_now
from deploy.stack import EDGE, Live, Market, Recorded, Simulated, Stack, StackSettings
from deploy.terminal import DEFAULT_HOME, INTERRUPTED, HomeOption, Result, console, errors, refuse, run, wide
from deploy.traces import Trace, as_svg, as_text, collecting, whole_traces
from gateway.envoy import NOTICE
from services.ingest.config import Config as IngestConfig
from services.ingest.normalize import read_time
from services.shared.clock import utc_now
from services.shared.config import ConfigurationError, read
from services.shared.dead_letters import Standing
from services.shared.keyring import Keyring
from services.shared.logging import configure_logging, masked

#: Long enough for two starts: the second one where somebody took a port.
START_SECONDS = 300.0
STOP_SECONDS = 60.0
#: A series whose answers lie this many times further apart than its profile is made for shows no movement as it was.
TOO_SPARSE = 4.0

app = typer.Typer(
    help="Watches how bookmakers price NBA games and says, with its reasons, when something worth knowing happens.\n\n"
    "Start with `stratum demo`: it needs nothing and leaves nothing behind.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

dead_letter_app = typer.Typer(
    help="Messages that a service could not read: see them, look into one, put them back through, or drop them.\n\n"
    "The event of a dead letter waits until the missing message comes after all, or until its next keyframe, which "
    "carries everything. With live polls a keyframe is asked for at once; a letter then says what was skipped, and "
    "nothing is left to do but to find out why. Where the event still waits, mend the code that reads the message, and "
    "`replay` it: everything that its producer keeps of the event is published again, in order, and what was applied "
    "already is recognised.\n\nExample: `stratum deadletters list`",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
app.add_typer(dead_letter_app, name="deadletters")
app.add_typer(accounts_app, name="accounts")
app.add_typer(keys_app, name="keys")

IngestOption = Annotated[
    str | None,
    typer.Option("--ingest", metavar="HOST:PORT", help="Where ingest answers. By default that of the running stack."),
]
KeyArgument = Annotated[
    str, typer.Argument(metavar="KEY", help="The provider's key of the book, as `stratum books` shows it.")
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why. It is kept in the log.")]
ActorOption = Annotated[str, typer.Option("--by", envvar="USER", help="Who decides. It is kept in the log.")]
FromOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="TIME",
        help="From which observation on, such as 2026-11-26T18:00:00Z. By default the next one. What is stored is not "
        "read again.",
    ),
]
PortBaseOption = Annotated[
    int | None,
    typer.Option(
        "--port-base",
        min=1024,
        max=65000,
        help="Use 22 ports in a row from this one on, the gateway first. Without it the gateway has 8080, or a free "
        "port where that is taken.",
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
        run(demonstration.run(settings, console, seconds))


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
        refuse(f"there is no profile {profile}. Choose one of {', '.join(profiles.CADENCES)}.")
    for target in filter(None, (out, summary)):
        if not target.absolute().parent.is_dir():
            refuse(f"{target.absolute().parent} is no folder. Make it first.")
    with _temporary_home("replay") as home, _opened(folder) as series:
        series_run = Replay(series, home, profile, kill)
        gap = series.median_gap_seconds
        first, last = (f"{moment:%Y-%m-%d %H:%M}" for moment in (series.times[0], series.times[-1]))
        console.print(f"{len(series)} answers of {series.sport_key} from {first} to {last} UTC", soft_wrap=True)
        told = "as told" if profile else f"the one that suits a median gap of {gap / 60:.4g} min"
        console.print(f"profile: [bold]{series_run.chosen_profile}[/] ({told})", soft_wrap=True)
        if gap > TOO_SPARSE * profiles.CADENCES[series_run.chosen_profile]:
            console.print("Its answers lie too far apart for movements: most will be suppressed as sparse_sampling.")
        result, lines = run(_with_progress(series_run))
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
        run(_supervise(settings))


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
            refuse(f"process {living.pid} has not ended after {STOP_SECONDS:.0f} s. See `stratum logs stack`.")
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
        port = str(getattr(living.ports, name, ""))
        table.add_row(name, _state_of(living, name, pid), str(pid), port, f"{cpu_seconds(pid):.1f}")
    console.print(table)
    _say_where(living)


@app.command()
def logs(
    name: Annotated[
        str, typer.Argument(help="stack, retention, postgres, nats, gateway, or one of ours: see `stratum status`.")
    ] = "stack",
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of the last lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines until Ctrl-C.")] = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """The last lines of a process's log.

    Example: `stratum logs signals --follow`
    """
    place = Home(home.absolute())
    files = {name: place.logs / f"{name}.log" for name in ("stack", "retention", *schema.SERVICES, *EDGE)}
    files |= {
        "postgres": place.database_folder() / "postgres.log",
        "nats": place.folder / "nats" / "nats.log",
        "gateway": place.folder / "gateway" / "envoy.log",
    }
    if name not in files:
        refuse(f"there is no log called {name}. Choose one of {', '.join(files)}.")
    if not files[name].exists():
        refuse(f"{files[name]} does not exist: nothing has run in {home} yet. Start it with `stratum up`.")
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
        refuse("say what to do: --check or --upgrade.")
    if check:
        try:
            schema.check()
        except (schema.SchemaError, ServerFailedError) as error:
            refuse(str(error))
        console.print("Every service's migrations make the tables that it declares.")
        return
    place = Home(home.absolute())
    living = place.living()
    if living is None:
        refuse(f"nothing runs in {home}. Start it with `stratum up`, which runs all migrations by itself.")
    server = PostgresServer(place.database_folder(), living.ports.postgres)
    schema.upgrade(server.url(), place.passwords())
    console.print("Every schema is up to date.")


@app.command("retention")
def retention_command(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    ahead: Annotated[
        int, typer.Option("--ahead", min=0, max=60, help="Days whose partitions are made in advance.")
    ] = retention.DAYS_AHEAD,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Make the coming days' partitions, drop those whose time is over, and remove old rows of small tables.

    The running stack does it by itself every hour. How long things are kept is set by …_RETENTION_DAYS, 0 for ever:
    see docs/keeping.md. It may be repeated, and run beside another run. Ends with 1 when something was in use and is
    left to the next run.

    Example: `stratum retention --dry-run`
    """
    place = Home(home.absolute())
    living = place.living()
    if living is None:
        refuse(f"nothing runs in {home}. Start it with `stratum up`, which does this every hour.")
    server = PostgresServer(place.database_folder(), living.ports.postgres)
    url = schema.service_url(server.url(), schema.MIGRATOR, place.passwords())
    try:
        done = retention.run(url, utc_now(), ahead, dry_run)
    except ConfigurationError as error:
        refuse(str(error))
    except SQLAlchemyError as error:
        refuse(f"the database does not answer: {error}. See `stratum status`.")
    console.print(retention.as_table(done))
    for sentence in done.sentences():
        console.print(sentence, soft_wrap=True)
    if done.left:
        raise typer.Exit(1)


LetterArgument = Annotated[
    str, typer.Argument(metavar="LETTER", help="service/sequence, as `stratum deadletters list` shows it.")
]


@dead_letter_app.command("list")
def list_dead_letters(
    everything: Annotated[bool, typer.Option("--all", help="Those too that somebody was done with.")] = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """What could not be read, and whether its event still waits for it.

    Example: `stratum deadletters list`
    """
    found = _in_office(home, lambda office: _with_standings(office, everything))
    if not found:
        console.print("There are no dead letters" + ("." if everything else " that wait for anybody."))
        return
    table = Table()
    for heading in ("letter", "stream", "event", "bytes", "when (UTC)", "reason", "now"):
        table.add_column(heading, justify="right" if heading == "bytes" else "left", overflow="fold")
    for one, standing in found:
        letter = one.letter
        now = letter.settlement or ("its event waits" if standing.waits else "its event has gone on")
        moment = f"{letter.noted_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
        stream = dead_letters.ROUTES[one.service].source.name
        size = f"{len(letter.payload):,}"
        table.add_row(one.address, stream, letter.event_id, size, moment, escape(letter.reason), escape(now))
    console.print(table)


@dead_letter_app.command("show")
def show_dead_letter(
    letter: LetterArgument,
    raw: Annotated[bool, typer.Option("--hex", help="The bytes, even where they can be read.")] = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """One dead letter: as JSON where it can be read as the message that it should be, else its bytes.

    Example: `stratum deadletters show consensus/1234`
    """

    async def look(office: dead_letters.Office) -> tuple[dead_letters.Found, Standing]:
        found = await office.find(letter)
        return found, await office.standing(found)

    found, standing = _in_office(home, look)
    one = found.letter
    console.print(f"{found.address} of event {one.event_id}: {one.reason}", markup=False, soft_wrap=True)
    state = "waits for what is missing" if standing.waits else "has gone on"
    console.print(f"{found.service} has applied revision {standing.applied_revision} of the event, which {state}.")
    text = None if raw else dead_letters.decoded(found)
    for line in dead_letters.hexadecimal(one.payload) if text is None else text.splitlines():
        console.print(line, markup=False, soft_wrap=True)


@dead_letter_app.command("replay")
def replay_dead_letters(
    letters: Annotated[list[str] | None, typer.Argument(metavar="[LETTER]…", help="Which ones.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that wait.")] = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Put dead letters back through, once the code that reads them is mended. Ends with 1 when one is not healed.

    Example: `stratum deadletters replay consensus/1234`
    """
    if bool(letters) == everything:
        refuse("say which: one or more letters, or --all.")

    async def put_back(office: dead_letters.Office) -> bool:
        chosen = await office.listed() if everything else [await office.find(address) for address in letters or ()]
        well = True
        for each in chosen:
            became = await office.put_back(each)
            console.print(f"{each.address}: {became.value}", soft_wrap=True)
            well = well and became in (dead_letters.Became.HEALED, dead_letters.Became.GONE_ON)
        return well

    if not _in_office(home, put_back):
        raise typer.Exit(1)


@dead_letter_app.command("drop")
def drop_dead_letter(
    letter: LetterArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why nobody needs it; kept with it.")],
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Take a dead letter off the list. It is kept, with the reason, and `list --all` shows it.

    Example: `stratum deadletters drop consensus/1234 --reason "a test message"`
    """
    if not reason.strip():
        refuse("say why, with --reason.")

    async def drop(office: dead_letters.Office) -> None:
        await office.drop(await office.find(letter), reason.strip())

    _in_office(home, drop)
    console.print(f"{letter}: dropped.", markup=False)


def _in_office(home: Path, work: Callable[[dead_letters.Office], Awaitable[Result]]) -> Result:
    """Does something with the dead letters of the stack that lives in a home."""
    place = Home(home.absolute())
    living = place.living()
    if living is None:
        refuse(f"nothing runs in {home}. Start it with `stratum up`; dead letters stay with the data.")

    async def within() -> Result:
        async with dead_letters.open_office(place, living) as office:
            return await work(office)

    return run(within())


async def _with_standings(office: dead_letters.Office, everything: bool) -> list[tuple[dead_letters.Found, Standing]]:
    return [(found, await office.standing(found)) for found in await office.listed(everything)]


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
        refuse(f"there is no failure called {fail}. Choose one of {', '.join(mischief.KINDS)}.")
    run(_simulate(port, seed, speed, None if fail is None else mischief.Mischief(fail, fail_share, seed)))


books = typer.Typer(
    help="Bookmakers that the provider names and the code does not know: see them, admit one, withdraw it.\n\n"
    "Alone it lists them.\n\nExample: `stratum books`, then `stratum books admit newbook --reason 'licensed in NJ'`",
    invoke_without_command=True,
    rich_markup_mode="markdown",
)
app.add_typer(books, name="books")


@books.callback()
def list_books(context: typer.Context, home: HomeOption = DEFAULT_HOME, ingest: IngestOption = None) -> None:
    """Lists them, unless a command follows."""
    sources = {name: context.get_parameter_source(name) for name in ("home", "ingest")}
    told = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if context.invoked_subcommand is not None and told:
        refuse(f"give --{told[0]} behind {context.invoked_subcommand}, which would not hear of it here.")
    if context.invoked_subcommand is None:
        quarantined, decisions = run(bookmakers.listed(_ingest_address(home, ingest), _ring(home)))
        console.print(bookmakers.quarantine(quarantined, decisions))
        console.print(bookmakers.admissions(decisions))
        console.print("Admit one: `stratum books admit KEY --reason …`; who decided what: `stratum books log`.")


@books.command("admit")
def admit_book(
    key: KeyArgument,
    reason: ReasonOption,
    actor: ActorOption,
    known_as: Annotated[
        str, typer.Option("--as", metavar="KEY", help="The book that it is another name of. By default it is its own.")
    ] = "",
    effective_from: FromOption = None,
    home: HomeOption = DEFAULT_HOME,
    ingest: IngestOption = None,
) -> None:
    """Let a quarantined book count, from the next observation on, without a restart.

    Example: `stratum books admit draftkings_nj --as draftkings --reason 'the same lines under a state key'`
    """
    moment = _moment(effective_from)
    work = bookmakers.admitted(_ingest_address(home, ingest), _ring(home), key, known_as, reason, actor, moment)
    for sentence in bookmakers.sentences(run(work)):
        console.print(sentence, soft_wrap=True)


@books.command("withdraw")
def withdraw_book(
    key: KeyArgument,
    reason: ReasonOption,
    actor: ActorOption,
    effective_from: FromOption = None,
    home: HomeOption = DEFAULT_HOME,
    ingest: IngestOption = None,
) -> None:
    """Put an admitted book back into quarantine: from the next observation on its quotes are gone.

    Example: `stratum books withdraw newbook --reason 'it copies another book'`
    """
    moment = _moment(effective_from)
    work = bookmakers.withdrawn(_ingest_address(home, ingest), _ring(home), key, reason, actor, moment)
    for sentence in bookmakers.sentences(run(work)):
        console.print(sentence, soft_wrap=True)


@books.command("log")
def log_of_books(home: HomeOption = DEFAULT_HOME, ingest: IngestOption = None) -> None:
    """Who admitted and withdrew which book, when and why, oldest first.

    Example: `stratum books log`
    """
    _, decisions = run(bookmakers.listed(_ingest_address(home, ingest), _ring(home)))
    console.print(bookmakers.log(decisions))


def _ingest_address(home: Path, told: str | None) -> str:
    if told is not None:
        return told
    living = Home(home.absolute()).living()
    if living is None:
        refuse(f"nothing runs in {home}. Start it with `stratum up`, or say with --ingest where ingest answers.")
    return f"127.0.0.1:{living.ports.ingest}"


def _ring(home: Path) -> Keyring:
    try:
        return vouching(Home(home.absolute()))
    except LookupError as error:
        refuse(str(error))


def _moment(told: str | None) -> datetime | None:
    if told is None:
        return None
    moment = read_time(told)
    if moment is None:
        refuse(f"{told} is no time with a zone, such as 2026-11-26T18:00:00Z.")
    return moment


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
        refuse(str(error))
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


DatabaseOption = Annotated[
    str,
    typer.Option(
        "--database-url",
        envvar="OPERATOR_DATABASE_URL",
        help="A login that may read every schema, for an installation that is not a home's.",
    ),
]


@app.command()
def kpis(
    home: HomeOption = DEFAULT_HOME,
    cycles: Annotated[int, typer.Option("--cycles", "-n", min=1, max=10_000, help="How many of the last.")] = 20,
    sport: Annotated[str, typer.Option("--sport", help="Of one sport alone.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line, newest first.")] = False,
    database_url: DatabaseOption = "",
) -> None:
    """The last poll cycles: what each cost, saw and led to. docs/ops-kpis.md says what each should be.

    Example: `stratum kpis --cycles 10`
    """
    place = found(Home(home.absolute()), database_url)
    if not place.database_url:
        refuse(f"nothing runs in {home}. Start it with `stratum up`, or give --database-url.")
    try:
        with Rows(place.database_url) as rows:
            known = indicators.last_cycles(rows, cycles, sport)
    except psycopg.Error as error:
        refuse(f"the database does not answer: {masked(str(error).strip())}. See `stratum doctor`.")
    if as_json:
        for cycle in known:
            sys.stdout.write(json.dumps(cycle.shown()) + "\n")
    elif known:
        wide.print(indicators.as_table(known))
    else:
        console.print("No cycle has ended yet. A poll is one; what is polled says `stratum status`.")


@app.command()
def doctor(
    home: HomeOption = DEFAULT_HOME,
    as_json: Annotated[bool, typer.Option("--json", help="The findings as one JSON object.")] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask the provider nothing, not even what is free.")
    ] = False,
    database_url: DatabaseOption = "",
) -> None:
    """Looks at everything an installation needs and says what is wrong and what to do about it. Changes nothing.

    Ends with 0 when nothing fails, with 1 when something does. A warning is no failure. Costs no credits: the provider
    is asked for its list of sports, which is free.

    Example: `stratum doctor`
    """
    findings = run(examination.examine(found(Home(home.absolute()), database_url), offline=offline))
    if as_json:
        sys.stdout.write(json.dumps(diagnosis.as_json(findings), indent=2) + "\n")
    else:
        wide.print(diagnosis.as_table(findings))
    if diagnosis.failed(findings):
        raise typer.Exit(1)


@app.command()
def record(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="New, or one that an earlier run has begun.")],
    sport: Annotated[str, typer.Option("--sport", help="The provider's key.")] = "basketball_nba",
    every: Annotated[float, typer.Option("--every", metavar="SECONDS", min=1.0, help="Between two calls.")] = 60.0,
    seconds: Annotated[float, typer.Option("--for", metavar="SECONDS", min=1.0, help="Stop after so long.")] = 3600.0,
    max_credits: Annotated[
        int | None, typer.Option("--max-credits", min=0, help="Spend no more. By default what is forecast.")
    ] = None,
    max_megabytes: Annotated[float, typer.Option("--max-mb", min=1.0, help="Save no more, before packing.")] = 2000.0,
    base_url: Annotated[str, typer.Option("--base-url", help="Ask here, such as a `stratum simulate`.")] = "",
    provider_clock: Annotated[
        bool, typer.Option("--provider-clock", help="Take the time of the answer's Date, as with a simulator.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before credits are spent.")] = False,
) -> None:
    """Save live answers as a recording that `stratum replay` reads.

    What to ask for is in the settings of ingest: ODDS_API_KEY, ODDS_API_MARKETS, ODDS_API_REGIONS and so on. It says
    first what it will cost. Ctrl-C ends it well; the same command goes on where it stopped. The key is kept nowhere.

    Example: `stratum record recordings/tonight --every 60 --for 14400`
    """
    config = _asking(base_url, provider_clock)
    calls = max(1, math.ceil(seconds / every))
    cost = cost_of_a_call(config)
    console.print(
        f"{calls} calls to {config.odds_api_base_url}, one each {every:g} s, at most {cost} credits each: "
        f"{calls * cost} in all" + ("." if config.is_live_provider else ", which are no real ones there."),
        soft_wrap=True,
    )
    if config.is_live_provider and not yes and not typer.confirm("Spend them?"):
        raise typer.Exit(1)
    limits = Limits(calls, calls * cost if max_credits is None else max_credits, max_megabytes)
    try:
        series = Series(folder, sport)
        if len(series):
            console.print(f"{folder} holds {len(series)} answers already; going on.")
        done = run(_recording(config, sport, series, every, limits))
    except RecordingError as error:
        refuse(str(error))
    console.print(
        f"{done.answers} answers saved ({done.bytes / 1e6:.1f} MB before packing), {done.repeated} had a time that was "
        f"there, {done.failed} failed; {done.credits} credits spent. It ended because {done.said}.\n"
        f"{folder} holds {len(series)} answers. Next: `stratum replay {folder}`",
        soft_wrap=True,
    )


def _asking(base_url: str, provider_clock: bool) -> IngestConfig:
    """The settings of ingest with what the command line says in their place. A stand-in never gets the key."""
    try:
        config = read(IngestConfig)
        given = config.model_dump()
        if base_url:
            given["odds_api_base_url"] = base_url
        if provider_clock:
            given["odds_api_clock"] = "provider"
        config = IngestConfig(**given)
        if not config.is_live_provider:
            config = IngestConfig(**{**given, "odds_api_key": SecretStr("a-stand-in-needs-no-secret")})
    except (ConfigurationError, ValidationError) as error:
        refuse(str(error))
    if config.odds_api_key is None:
        refuse("there is no key: set ODDS_API_KEY or ODDS_API_KEY_FILE, or give the --base-url of a stand-in.")
    return config


async def _recording(config: IngestConfig, sport: str, series: Series, every: float, limits: Limits) -> RecordProgress:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as bar:
        task = bar.add_task("asking", total=limits.answers, note="")

        def show(progress: RecordProgress) -> None:
            left = "unknown" if progress.credits_left is None else f"{progress.credits_left:,}"
            note = f"{progress.bytes / 1e6:.1f} MB, {progress.credits} credits spent, {left} left"
            bar.update(task, advance=1, description=progress.said, note=note)

        return await save(config, sport, series, every, limits, show)


@app.command()
def trace(
    listen: Annotated[
        int | None,
        typer.Option("--listen", metavar="PORT", help="Only listen, and show every trace that comes, until Ctrl-C."),
    ] = None,
    svg: Annotated[Path | None, typer.Option("--svg", help="Draw the last one shown into this file as well.")] = None,
) -> None:
    """One poll followed from the provider's call to the published signal, as a tree with times.

    Runs a simulated market of its own until a poll has led to a signal. With --listen it starts nothing: give its
    address to a running system as STRATUM_TRACE_ENDPOINT, and STRATUM_TRACE_RATIO=1 to see every poll.

    Example: `stratum trace --svg trace.svg`
    """
    if listen is not None:
        run(_listen(listen, svg))
        return
    with _temporary_home("trace") as home:
        run(_first_signal(home, svg))


async def _listen(port: int, svg: Path | None) -> None:
    try:
        async with collecting(port) as (url, collector):
            console.print(f"listening: STRATUM_TRACE_ENDPOINT={url} STRATUM_TRACE_RATIO=1 stratum up", soft_wrap=True)
            async for whole in whole_traces(collector):
                _show_trace(whole, svg)
    except RuntimeError:
        refuse(f"port {port} is taken. Choose another one, or 0 for a free one.")


async def _first_signal(home: Home, svg: Path | None) -> None:
    async with collecting() as (url, collector):
        followed = {"STRATUM_TRACE_ENDPOINT": url, "STRATUM_TRACE_RATIO": "1"}
        settings = StackSettings(home, free_ports(), Simulated(speed=240.0), environment=followed, gateway=False)
        async with Stack(settings, lambda sentence: console.print(sentence, style="dim")):
            console.print("waiting for a poll that leads to a signal…", style="dim")
            try:
                async with asyncio.timeout(START_SECONDS):
                    async for whole in whole_traces(collector):
                        if any(span.name == "publish SIGNALS" for span in whole.spans):
                            _show_trace(whole, svg)
                            return
            except TimeoutError:
                refuse(
                    f"no poll has led to a signal in {START_SECONDS:.0f} s. Try again when the machine is less busy."
                )


def _show_trace(whole: Trace, svg: Path | None) -> None:
    console.print(as_text(whole), soft_wrap=True, markup=False)
    if svg is not None:
        svg.write_text(as_svg(whole))
        console.print(f"drawn in {svg}")


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
        refuse(f"{error}. Give a folder with INDEX.tsv and its archives.")
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
        refuse(str(error))


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
    return refuse(f"it did not come up. The last lines of {log}:\n{_tail(log)}")


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-15:])


def _say_where(living: Living) -> None:
    url = f"http://127.0.0.1:{living.ports.gateway}"
    console.print(f"gateway: {url}/api/v1/intel/signals   documentation: {url}/docs")
    console.print(NOTICE, style="yellow", soft_wrap=True)


def _state_of(living: Living, name: str, pid: int) -> str:
    if not psutil.pid_exists(pid):
        return "[red]starting again[/]"
    port = getattr(living.ports, f"{name}_metrics", None)
    if port is None:
        return "running"
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
            return "[green]ready[/]"
    except (urllib.error.URLError, OSError):
        return "[yellow]not ready[/]"


def main() -> None:
    """What the command `stratum` runs."""
    # What the shared adapters log is for the services' files; a person at a terminal is told in sentences.
    configure_logging("stratum", "ERROR", "console")
    app()


if __name__ == "__main__":
    main()
