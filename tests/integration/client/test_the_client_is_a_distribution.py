"""The client's wheel, alone in an environment: what it needs comes with it, and its types are seen."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.client.small_api import KEY, SmallApi, says
from tests.integration.environments import ROOT, python_with

CLIENT = ROOT / "clients" / "python"
EXAMPLE = CLIENT / "examples" / "follow.py"
#: What `pip install stratum-client` brings along.
CLIENT_NEEDS = ("anyio", "certifi", "h11", "httpcore", "httpx", "idna", "msgspec", "typing-extensions")

MISTAKEN = """
from datetime import datetime

from stratum_client import AsyncClient, Client


def strengths(client: Client) -> list[int]:
    signals = client.signals(tier=["HIGH"], order_by="TIME", sport_key="basketball_nba")
    wrong_word = client.signals(tier="ENORMOUS")  # wrong: no such tier
    wrong_type = client.signals(min_score="much")  # wrong: a number is wanted
    wrong_name = client.signals(teir="HIGH")  # wrong: no such parameter
    wrong_field = [signal.strenght for signal in signals]  # wrong: no such field
    at: datetime = next(iter(signals)).published_at  # wrong: it may be absent
    return [signal.strength for signal in signals.all(limit=5)]


async def units(client: AsyncClient) -> int:
    forgotten = client.usage().used_units  # wrong: not awaited
    async for signal in client.signals(tier=["HIGH"]):
        print(signal.observed_at.isoformat())
    return (await client.usage()).used_units
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter of an environment with nothing in it but the wheel and what it depends on."""
    python = python_with(CLIENT, CLIENT_NEEDS, tmp_path_factory.mktemp("client"))
    subprocess.run([python, "-m", "pip", "check"], check=True)
    return python


async def test_the_example_reads_the_feed_and_follows_the_stream(python: Path, api: SmallApi, tmp_path: Path) -> None:
    api.behaves("/api/v1/intel/signals", says(x_usage_used="17", x_usage_remaining="9983"))
    new = b'id: f-2\nevent: signal\ndata: {"id":"s2","signal_type":"STEAM","observed_at":"2026-11-26T12:00:01Z"}\n\n'
    api.behaves("/api/v1/intel/signals:watch", api.stream(b"id: f-1\n\n", new, then="quiet"))
    environment = {"STRATUM_API_KEY": KEY, "STRATUM_URL": api.url, "FOLLOW": "1", "PATH": os.environ["PATH"]}
    running = await asyncio.create_subprocess_exec(
        python, EXAMPLE, cwd=tmp_path, env=environment, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(running.communicate(), 30)
    lines = out.decode().splitlines()
    assert (running.returncode, len(lines)) == (0, 3)
    assert lines[1] == "-- 17 units used, 9983 left"
    assert lines[2].startswith("12:00:01 STEAM")


def answer_of(python: Path, program: str) -> str:
    """What a program prints that sees nothing but the environment."""
    return subprocess.run([python, "-I", "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def test_nothing_of_ours_comes_along(python: Path) -> None:
    finding = "from importlib.util import find_spec; print([name for name in {} if find_spec(name)])"
    ours = ("stratum", "services", "gateway", "grpc", "google")
    assert answer_of(python, finding.format((*ours, "stratum_client"))) == "['stratum_client']"


def test_the_wheel_says_which_version_it_is(python: Path) -> None:
    asking = "import importlib.metadata as m, stratum_client as s; print(m.version('stratum-client') == s.__version__)"
    assert answer_of(python, asking) == "True"


def checked(python: Path, folder: Path, file: Path) -> str:
    """What mypy says, strictly, of a program that installed the wheel."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--python-executable", python, file]
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "MYPYPATH"}}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False).stdout


def test_mypy_finds_exactly_the_wrong_lines_of_a_program(python: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(MISTAKEN)
    said = checked(python, tmp_path, program)
    wrong = [number for number, line in enumerate(MISTAKEN.splitlines(), 1) if "# wrong" in line]
    assert [int(number) for number in re.findall(r"program\.py:(\d+): error", said)] == wrong, said


def test_the_example_is_typed(python: Path, tmp_path: Path) -> None:
    assert "Success" in checked(python, tmp_path, EXAMPLE)


def test_what_the_readme_shows_is_typed(python: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (CLIENT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) > 5
    for number, block in enumerate(blocks):
        program = tmp_path / f"block_{number}.py"
        program.write_text(block)
        assert "Success" in (said := checked(python, tmp_path, program)), f"{said}{block}"
