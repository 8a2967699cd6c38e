"""The folder in which a stack lives: its data, logs and secrets, and the lock that lets only one live there."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import psutil

from deploy import schema
from deploy.local.postgres import can_be_entered
from deploy.local.process import free_port, is_free
from services.shared import keyring

#: The files that hold the two rings: of those who vouch for callers, and of those who hash API keys.
PRINCIPAL_KEYS, KEY_PEPPERS = "principal-keys", "api-key-peppers"


class OccupiedError(Exception):
    """Another stack lives in this folder. The message says which."""


class PortTakenError(Exception):
    """A port that was asked for by number is not free."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where everything listens, all on 127.0.0.1."""

    gateway: int = 8080
    gateway_admin: int = 9901
    authz: int = 50061
    standby: int = 50062
    postgres: int = 5432
    nats: int = 4222
    nats_monitor: int = 8222
    provider: int = 8090
    ingest: int = 50051
    consensus: int = 50052
    signals: int = 50053
    billing: int = 50054
    sandbox: int = 50055
    #: Where signals gives the gateway the feed's pages by plain HTTP.
    feed: int = 50056
    ingest_metrics: int = 9101
    consensus_metrics: int = 9102
    signals_metrics: int = 9103
    billing_metrics: int = 9104
    authz_metrics: int = 9105
    standby_metrics: int = 9106
    usage_metrics: int = 9107
    sandbox_metrics: int = 9108


def without_taken(ports: Ports) -> tuple[Ports, list[str]]:
    """The same ports, with free ones in place of those that are taken; and a sentence for each of these."""
    chosen: dict[str, int] = {}
    said = []
    for name, port in asdict(ports).items():
        chosen[name] = port if is_free(port) else free_port()
        if chosen[name] != port:
            said.append(f"port {port} ({name.replace('_', ' ')}) is taken: using {chosen[name]}")
    return Ports(**chosen), said


def ports_from(base: int) -> Ports:
    """As many ports in a row as there are. Raises PortTakenError."""
    ports = Ports(*range(base, base + len(fields(Ports))))
    taken = [str(port) for port in asdict(ports).values() if not is_free(port)]
    if taken:
        raise PortTakenError(f"taken on this machine: {', '.join(taken)}. Choose another --port-base.")
    return ports


def free_ports() -> Ports:
    """Ports that nobody uses at this moment."""
    return Ports(*(free_port() for _ in fields(Ports)))


@dataclass(frozen=True, slots=True)
class Living:
    """Who lives in a home, as written there by whoever does."""

    pid: int
    #: The process's own start, by which a reused number is told from the process that was meant.
    started_at: float
    ports: Ports
    market: str
    ready: bool
    processes: Mapping[str, int]

    @property
    def process(self) -> psutil.Process | None:
        """The process, if it is still the one that wrote this."""
        try:
            process = psutil.Process(self.pid)
            return process if abs(process.create_time() - self.started_at) < 1.0 else None
        except psutil.NoSuchProcess:
            return None


@dataclass(frozen=True, slots=True)
class Home:
    """The folder and what is where in it."""

    folder: Path

    @property
    def logs(self) -> Path:
        """One file a process."""
        return self.folder / "logs"

    @property
    def secrets(self) -> Path:
        """What only we may read."""
        return self.folder / "secrets"

    @property
    def state(self) -> Path:
        """Who lives here now."""
        return self.folder / "stack.json"

    def make(self) -> None:
        """The folders, with the secrets closed to others. Repeating it changes nothing."""
        for folder in (self.folder, self.logs, self.secrets):
            folder.mkdir(parents=True, exist_ok=True)
        self.secrets.chmod(stat.S_IRWXU)

    def database_folder(self) -> Path:
        """Where PostgreSQL keeps its data: here, or in the machine's temporary folder when here is closed to it."""
        here = self.folder / "postgres"
        if can_be_entered(here):
            return here
        name = hashlib.sha256(str(self.folder.absolute()).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"stratum-{os.getuid()}-{name}"

    def passwords(self) -> dict[str, str]:
        """The database logins' passwords, made when first asked for."""
        kept = self.secrets / "passwords.json"
        known: dict[str, str] = json.loads(kept.read_text()) if kept.exists() else {}
        # A home that is older than one of the logins gets a password for it now.
        passwords = {**schema.generated_passwords(), **known}
        if passwords.keys() != known.keys():
            self.keep_secret(kept.name, json.dumps(passwords))
        return passwords

    def ring(self, name: str) -> str:
        """A ring of secrets, as `Keyring.parse` reads it, made when first asked for."""
        kept = self.secrets / name
        if not kept.exists():
            self.keep_secret(name, keyring.generated())
        return kept.read_text()

    def principal_ring(self) -> keyring.Keyring:
        """The secrets under which callers are vouched for here."""
        return keyring.Keyring.parse(self.ring(PRINCIPAL_KEYS))

    def keep_secret(self, name: str, text: str) -> Path:
        """Write a secret into a file of its own, readable by us alone."""
        path = self.secrets / name
        path.touch(mode=0o600)
        path.write_text(text)
        return path

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """Holds the home while the block runs. Raises OccupiedError when somebody else does.

        The kernel gives the lock back when its holder ends, however it ends, so that no stale one has to be judged.
        """
        self.make()
        with (self.folder / "lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                living = self.living()
                by = f" by process {living.pid}" if living else ""
                raise OccupiedError(f"{self.folder} is in use{by}") from None
            try:
                yield
            finally:
                self.state.unlink(missing_ok=True)

    def tell(self, living: Living) -> None:
        """Write who lives here, whole or not at all."""
        part = self.state.with_suffix(".part")
        part.write_text(json.dumps(asdict(living), indent=2))
        part.replace(self.state)

    def living(self) -> Living | None:
        """Who lives here; None when nobody does, whatever an old file says."""
        try:
            told = json.loads(self.state.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        living = Living(**{**told, "ports": Ports(**told["ports"])})
        return living if living.process else None
