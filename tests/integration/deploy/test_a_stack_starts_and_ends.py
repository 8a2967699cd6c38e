"""`up`, `status`, `down` and `demo`: a second start harms nothing, nor does a taken port; nothing is left running."""

import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from deploy import figures
from deploy.home import Home, Living, free_ports
from deploy.local.process import free_port
from deploy.schema import SERVICES
from deploy.simulator.calibration import BOOKS, CHANGES, OVERROUND
from deploy.simulator.market import MARKETS
from deploy.stack import EDGE, Simulated, Stack, StackSettings
from services.shared.testing import eventually

STRATUM = [sys.executable, "-m", "deploy.cli"]
#: A slow machine that does other things as well.
DEADLINE_SECONDS = 180.0


@pytest.fixture
def home() -> Iterator[Home]:
    """A folder that the database's user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="stratum-test-"))
    folder.chmod(0o711)
    home = Home(folder)
    yield home
    if home.living() is not None:
        stratum("down", "--home", str(folder))
    shutil.rmtree(folder)


def stratum(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*STRATUM, *arguments], check=False, capture_output=True, text=True, timeout=DEADLINE_SECONDS)


def read(living: Living, key: str) -> int:
    """The status of the feed's answer to a key, which is known to the gateway within a second."""
    url = f"http://127.0.0.1:{living.ports.gateway}/api/v1/intel/signals"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.status


def everybody(living: Living) -> list[psutil.Process]:
    process = psutil.Process(living.pid)
    return [process, *process.children(recursive=True)]


def test_a_stack_comes_up_once_is_looked_at_and_goes_down_whole(home: Home) -> None:
    folder = str(home.folder)

    started = stratum("up", "--home", folder)
    living = home.living()

    assert started.returncode == 0, started.stdout + started.stderr
    assert living is not None
    processes = everybody(living)
    assert set(living.processes) == {"postgres", "nats", *SERVICES, "gateway", *EDGE}
    assert not [secret for secret in home.secrets.iterdir() if secret.stat().st_mode & 0o077]

    made = stratum("accounts", "create", "Acme", "--email", "dev@acme.example", "--home", folder)
    account = re.search(r"acct_\w+", made.stdout)
    assert account is not None, made.stdout + made.stderr
    issued = stratum("keys", "issue", account[0], "--home", folder)
    key = re.search(r"^stratum_live_\w+$", issued.stdout, re.MULTILINE)
    assert key is not None, issued.stdout + issued.stderr
    opened = read(living, key[0])
    assert opened == 200

    again = stratum("up", "--home", folder)
    assert again.returncode == 0
    assert "nothing was changed" in again.stdout
    assert home.living() == living

    looked = stratum("status", "--home", folder)
    assert looked.returncode == 0
    assert "ready" in looked.stdout

    logged = stratum("logs", "ingest", "--home", folder)
    assert "serving" in logged.stdout

    migrated = stratum("schema", "--upgrade", "--home", folder)
    assert migrated.returncode == 0, migrated.stdout + migrated.stderr

    stopped = stratum("down", "--home", folder)
    assert stopped.returncode == 0
    assert not [process for process in processes if process.is_running() and process.status() != "zombie"]
    assert stratum("status", "--home", folder).returncode == 3


def test_when_the_supervisor_is_killed_its_children_end_too(home: Home) -> None:
    assert stratum("up", "--home", str(home.folder)).returncode == 0
    living = home.living()
    assert living is not None
    processes = everybody(living)

    processes[0].kill()

    _, alive = psutil.wait_procs(processes[1:], timeout=60)
    assert alive == []
    assert home.living() is None


def test_ctrl_c_ends_the_demo_with_a_sentence_and_everything_with_it() -> None:
    demo = subprocess.Popen([*STRATUM, "demo"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert demo.stdout is not None
    with demo.stdout as output:
        begun = next((line for line in output if "Signals, as the market" in line), None)
        assert begun is not None, "the demo ended before it showed anything"
        processes = psutil.Process(demo.pid).children(recursive=True)

        demo.send_signal(signal.SIGINT)

        assert "nothing is left running" in output.read()
    assert demo.wait(DEADLINE_SECONDS) == 130
    assert len(processes) >= 6
    assert not [process for process in processes if process.is_running()]


async def test_a_port_that_was_taken_meanwhile_is_replaced_and_the_run_tells_its_own_figures(home: Home) -> None:
    said: list[str] = []
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", free_port()))
        somebody.listen()
        taken = somebody.getsockname()[1]
        settings = StackSettings(home, replace(free_ports(), postgres=taken), Simulated(speed=120.0), gateway=False)

        async with Stack(settings, said.append) as stack:
            assert stack.settings.ports.postgres != taken

            async def told() -> dict[str, float] | None:
                run = await figures.of_run(stack)
                return run if CHANGES in run else None

            measured = await eventually(told, within=60.0)

    assert [sentence for sentence in said if "taken" in sentence] == [
        f"port {taken} (postgres) is taken: using {stack.settings.ports.postgres}"
    ]
    for market in MARKETS:
        assert 0.02 < measured[f"{OVERROUND} {market}"] < 0.09
    assert 5 < measured[BOOKS] <= 10
