"""A server as our child: started in a folder of its own, stopped cleanly, and never left behind."""

from __future__ import annotations

import os
import pwd
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path

#: Becomes the server: gives up root if told to, asks the kernel to be ended when its parent ends, and executes it.
#: A process of its own does this rather than a `preexec_fn`, which may deadlock once gRPC's threads run in the parent.
#: Giving up root clears the request, so the request comes second; a parent that is gone by then is noticed at once.
_BECOME = """
import ctypes, os, sys
death_signal, user, group, parent = map(int, sys.argv[1:5])
if user >= 0:
    os.setgroups([]); os.setgid(group); os.setuid(user)
if sys.platform == "linux":
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal)
if os.getppid() != parent:
    sys.exit(1)
os.execv(sys.argv[5], sys.argv[5:])
"""
_POLL_SECONDS = 0.02
#: What a server needs of our environment; secrets in it are not for them, and PostgreSQL would obey any PG… in it.
INHERITED = ("PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LD_LIBRARY_PATH")
#: Below those that the kernel gives to outgoing connections, which could take one before its server does.
FREE_PORTS = range(20_000, 32_000)


class ServerFailedError(Exception):
    """The server did not start, or did not answer in time. The message ends with the last lines of its log."""


def is_free(port: int) -> bool:
    """Whether nobody listens on a port of 127.0.0.1."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at this moment, and another one each time."""
    return next(port for port in _candidates if is_free(port))


def refuse_if_taken(*ports: int) -> None:
    """Raises ServerFailedError: somebody else's answer on a server's port would pass for the server's own."""
    for port in ports:
        if not is_free(port):
            raise ServerFailedError(f"port {port} of 127.0.0.1 is taken")


def _from_anywhere(ports: range) -> Iterator[int]:
    """The ports over and over, from a place of this process's own: two processes seldom try the same one."""
    begin = secrets.randbelow(len(ports))
    return cycle([*ports[begin:], *ports[:begin]])


_candidates = _from_anywhere(FREE_PORTS)


def spawn(
    command: Sequence[str],
    log: Path,
    death_signal: signal.Signals,
    user: pwd.struct_passwd | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a server whose output goes to the log. Without an environment it has the few `INHERITED` ones of ours.

    When the thread that calls this ends, however it ends, the kernel sends the server `death_signal` (Linux only):
    call it from the main thread. The server has a session of its own, so that Ctrl-C reaches us and not it.
    """
    identity = (user.pw_uid, user.pw_gid) if user else (-1, -1)
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - our own command
            [
                sys.executable,
                "-ISc",
                _BECOME,
                *(str(number) for number in (int(death_signal), *identity, os.getpid())),
                *command,
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={name: os.environ[name] for name in INHERITED if name in os.environ}
            if environment is None
            else environment,
            start_new_session=True,
        )


def await_ready(
    process: subprocess.Popen[bytes], log: Path, answers: Callable[[], bool], deadline_seconds: float
) -> None:
    """Returns when the server answers. Raises ServerFailedError when it ends or the time is over."""
    deadline = time.monotonic() + deadline_seconds
    while not answers():
        if process.poll() is not None:
            raise ServerFailedError(f"the server ended with {process.returncode}:\n{_tail(log)}")
        if time.monotonic() > deadline:
            raise ServerFailedError(f"the server does not answer after {deadline_seconds:g} s:\n{_tail(log)}")
        time.sleep(_POLL_SECONDS)


def end(process: subprocess.Popen[bytes], polite: signal.Signals, deadline_seconds: float) -> None:
    """Asks the server to end, and kills it when it has not ended in time."""
    if process.poll() is not None:
        return
    process.send_signal(polite)
    try:
        process.wait(deadline_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])
