"""Processes that are kept alive: each is started, watched, counted and, when it dies, started again."""

from __future__ import annotations

import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

from deploy.local.process import end, spawn

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
#: A process that lived this long was well; what it does next is not the same failure again.
HEALTHY_SECONDS = 15.0
#: So many short lives in a row, and somebody has to look.
SHORT_LIVES = 8
#: How often a process's time is read: it means a look at every process of the machine.
COUNT_SECONDS = 0.5


class GaveUpError(Exception):
    """A process ended again and again. The message says which, how, and where its log is."""


class Runnable(Protocol):
    """A process that can be started, and started again."""

    @property
    def pid(self) -> int: ...

    @property
    def running(self) -> bool: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...


class Program:
    """A command as our child; the servers of `deploy.local` are children of the same kind."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str],
        ready_url: str | None = None,
        drain_seconds: float = 10.0,
    ) -> None:
        self.log = log
        self._command = command
        self._environment = environment
        self._ready_url = ready_url
        self._drain_seconds = drain_seconds
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it lives."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start it; whether it is ready is asked separately, so that several can start side by side."""
        self._process = spawn(self._command, self.log, signal.SIGTERM, environment=self._environment)

    def ask_to_end(self) -> None:
        """Begin an orderly end, which `stop` waits for."""
        if self._process is not None and self.running:
            self._process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """An orderly end, or after its time a quick one."""
        if self._process is not None:
            end(self._process, signal.SIGTERM, self._drain_seconds)

    def ready(self) -> bool:
        """Whether it says that it may be asked."""
        if self._ready_url is None:
            return self.running
        try:
            with urllib.request.urlopen(self._ready_url, timeout=2) as answer:  # noqa: S310 - our own http address
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


@dataclass(slots=True)
class Kept:
    """One process under watch."""

    name: str
    runnable: Runnable
    log: Path
    #: A program that has done its work ends with 0 and stays down.
    may_finish: bool = False
    restarts: int = 0
    finished: bool = False
    _killed: bool = False
    _short_lives: int = 0
    _started: float = 0.0
    _counted: float = 0.0
    _due: float | None = None
    _cpu_before: float = 0.0
    _cpu_now: float = 0.0

    def start(self) -> None:
        """The first start."""
        self._started = time.monotonic()
        self.runnable.start()

    def kill(self) -> None:
        """End it as a crash would. It is started again, and a death that was asked for is no short life."""
        self._killed = True
        psutil.Process(self.runnable.pid).kill()

    def watch(self, say: Callable[[str], None]) -> None:
        """Count what it used; when it has died, say so and start it again after a pause. Raises GaveUpError."""
        if self.finished:
            return
        if self.runnable.running:
            if time.monotonic() - self._counted > COUNT_SECONDS:
                self._counted = time.monotonic()
                self._cpu_now = max(self._cpu_now, cpu_seconds(self.runnable.pid))
            return
        code = getattr(self.runnable, "exit_code", None)
        if self._due is None:
            if self.may_finish and code == 0:
                self.finished = True
                return
            self._plan(code, say)
        elif time.monotonic() >= self._due:
            self._due = None
            self.restarts += 1
            self._cpu_before, self._cpu_now = self.cpu_seconds, 0.0
            self.start()

    @property
    def cpu_seconds(self) -> float:
        """Processor time of all its lives, as last looked at."""
        return self._cpu_before + self._cpu_now

    def _plan(self, code: int | None, say: Callable[[str], None]) -> None:
        lived = time.monotonic() - self._started
        self._short_lives = 0 if lived > HEALTHY_SECONDS or self._killed else self._short_lives + 1
        self._killed = False
        if self._short_lives > SHORT_LIVES:
            raise GaveUpError(f"{self.name} ended {self._short_lives} times in a row{_how(code)}: see {self.log}")
        pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** max(0, self._short_lives - 1))
        self._due = time.monotonic() + pause
        say(f"{self.name} ended{_how(code)} after {lived:.0f} s: starting it again in {pause:g} s")


def _how(code: int | None) -> str:
    if code is None:
        return ""
    return f" by signal {-code}" if code < 0 else f" with {code}"


def cpu_seconds(pid: int) -> float:
    """Processor time of a process, its children, and those of them that have ended; 0 for one that is gone."""
    total = 0.0
    try:
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            try:
                times = one.cpu_times()
            except psutil.Error:
                continue  # a child that ended meanwhile is counted with its parent
            total += times.user + times.system + times.children_user + times.children_system
    except psutil.Error:
        return 0.0
    return total


@dataclass(slots=True)
class Household:
    """All processes of a stack, in the order in which they start; they end in the opposite one."""

    say: Callable[[str], None]
    members: dict[str, Kept] = field(default_factory=dict)

    def add(self, name: str, runnable: Runnable, log: Path, *, may_finish: bool = False) -> Kept:
        """Start a process and keep it alive from now on."""
        kept = Kept(name, runnable, log, may_finish)
        self.members[name] = kept
        kept.start()
        return kept

    def watch(self) -> None:
        """One look at everybody. Raises GaveUpError."""
        for kept in self.members.values():
            kept.watch(self.say)

    def stop(self) -> None:
        """End everybody, the last one first; programs that need time to drain do so side by side."""
        for kept in self.members.values():
            if isinstance(kept.runnable, Program):
                kept.runnable.ask_to_end()
        for kept in reversed(self.members.values()):
            kept.runnable.stop()
