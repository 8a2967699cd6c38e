"""PostgreSQL and NATS from their wheels: what they keep, whom they listen to, and that they end with their parent."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from deploy.local.postgres import PostgresServer
from deploy.local.process import ServerFailedError
from services.shared.testing import eventually

PARENT = """
import sys
from pathlib import Path
from deploy.local.nats import NatsServer
from deploy.local.postgres import PostgresServer

folder = Path(sys.argv[1])
with PostgresServer(folder / "postgres", settings={"fsync": "off"}) as postgres, NatsServer(folder / "nats") as nats:
    print(postgres.pid, nats.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for this test's own servers, open to the database's user."""
    with tempfile.TemporaryDirectory(prefix="stratum-tests-") as made:
        os.chmod(made, 0o711)
        yield Path(made)


def connect(server: PostgresServer) -> psycopg.Connection:
    return psycopg.connect(
        host="127.0.0.1",
        port=server.port,
        user="postgres",
        password=server.password,
        dbname="postgres",
        autocommit=True,
    )


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
async def test_servers_end_with_the_process_that_started_them(folder: Path, ending: signal.Signals):
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(folder), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in (await asyncio.wait_for(parent.stdout.readline(), 60.0)).split()]
    assert len(pids) == 2
    assert all(psutil.pid_exists(pid) for pid in pids)
    parent.send_signal(ending)
    await parent.wait()

    async def gone() -> bool:
        return not any(psutil.pid_exists(pid) for pid in pids)

    await eventually(gone, within=30.0)


def test_what_is_committed_outlives_a_stop_and_a_kill(folder: Path):
    server = PostgresServer(folder / "postgres")
    with server:
        with connect(server) as connection:
            connection.execute("CREATE TABLE kept (id int)")
        server.stop()
        assert not server.running
        server.start()
        with connect(server) as connection:
            connection.execute("INSERT INTO kept VALUES (1)")
        server.kill()
        server.start()
        with connect(server) as connection:
            assert connection.execute("SELECT id FROM kept").fetchall() == [(1,)]


def test_the_database_is_careful_with_data_passwords_and_callers(postgres_server: PostgresServer, folder: Path):
    with connect(postgres_server) as connection:
        settings = dict(
            connection.execute(
                "SELECT name, setting FROM pg_settings WHERE name IN "
                "('data_checksums', 'listen_addresses', 'unix_socket_directories', 'password_encryption')"
            ).fetchall()
        )
        trusted = connection.execute("SELECT count(*) FROM pg_hba_file_rules WHERE auth_method <> 'scram-sha-256'")
        assert trusted.fetchone() == (0,)
    assert settings == {
        "data_checksums": "on",
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "password_encryption": "scram-sha-256",
    }
    assert psutil.Process(postgres_server.pid).uids().real != 0
    assert {connection.laddr.ip for connection in psutil.Process(postgres_server.pid).net_connections("inet")} == {
        "127.0.0.1"
    }


def test_a_second_server_on_the_same_data_is_refused(folder: Path):
    with PostgresServer(folder / "postgres", settings={"fsync": "off"}):
        second = PostgresServer(folder / "postgres")
        with pytest.raises(ServerFailedError, match="lock file"):
            second.start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives its servers to another user")
def test_a_folder_that_the_databases_user_cannot_enter_is_named(folder: Path):
    private = folder / "private"
    private.mkdir(mode=0o700)
    with pytest.raises(ServerFailedError, match=r"nobody, who cannot enter .*private"):
        PostgresServer(private / "postgres").start()
