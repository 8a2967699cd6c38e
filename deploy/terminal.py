"""How every command speaks to a person: what it prints on, how it refuses, and how it runs until Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console

from deploy.home import OccupiedError
from services.shared.bus import BusError

DEFAULT_HOME = Path(".stratum")
#: How a program ends that Ctrl-C has ended.
INTERRUPTED = 130

HomeOption = Annotated[
    Path,
    typer.Option("--home", envvar="STRATUM_HOME", help="Where data, logs and secrets are kept.", show_default=True),
]

Result = TypeVar("Result")

console = Console(highlight=False)
#: For wide tables: a file or a pipe has no edge at which lines would have to be cut.
wide = console if console.is_terminal else Console(highlight=False, width=180)
errors = Console(stderr=True, highlight=False)


class ToldError(Exception):
    """Something did not work, and the message says to a person what, and what to do next."""


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Runs until it is done, or until Ctrl-C or SIGTERM, which end it in good order; errors say what to do next."""
    try:
        return asyncio.run(_interruptible(work))
    except asyncio.CancelledError:
        console.print("Stopped; nothing is left running.")
        raise typer.Exit(INTERRUPTED) from None
    except OccupiedError as error:
        refuse(f"{error}. Stop it with `stratum down`, or choose another --home.")
    except ToldError as error:
        refuse(str(error))
    except BusError as error:
        refuse(f"{error}. See `stratum status`.")


async def _interruptible(work: Coroutine[Any, Any, Result]) -> Result:
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    return await task


def refuse(sentence: str) -> NoReturn:
    """Says why not, and ends the program with 1."""
    errors.print("stratum:", style="red", end=" ")
    errors.print(sentence, markup=False, soft_wrap=True)
    raise typer.Exit(1)
