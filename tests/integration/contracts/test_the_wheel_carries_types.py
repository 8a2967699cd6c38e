"""A client that installs the wheel sees its own mistakes before it runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.environments import ROOT, python_with

#: What `stratum[typing]` brings a client.
CLIENT_NEEDS = ("grpcio", "protobuf", "googleapis-common-protos", "typing-extensions", "types-grpcio", "types-protobuf")

CLIENT = """
import grpc
from stratum.signals.v1.signal_pb2 import Tier
from stratum.signals.v1.signals_service_pb2 import ListSignalsRequest
from stratum.signals.v1.signals_service_pb2_grpc import SignalsServiceStub


async def strengths(channel: grpc.aio.Channel) -> list[int]:
    feed = SignalsServiceStub(channel)
    request = ListSignalsRequest(tier=[Tier.HIGH], page_size=50)
    response = await feed.ListSignals(request)
    wrong_argument = ListSignalsRequest(page_size="fifty")  # wrong: a number is wanted
    wrong_field = [signal.strenght for signal in response.signals]  # wrong: no such field
    return [signal.strength for signal in response.signals]
"""


@pytest.fixture(scope="module")
def client_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with nothing in it but the wheel and what a client of the stubs needs."""
    return python_with(ROOT, CLIENT_NEEDS, tmp_path_factory.mktemp("client"))


def test_a_client_of_the_wheel_imports_the_stubs_and_nothing_else_of_ours(
    client_environment: Path, tmp_path: Path
) -> None:
    imports = "from stratum.signals.v1 import signals_service_pb2_grpc as feed; print(feed.SignalsServiceStub.__name__)"
    answer = subprocess.run(
        [client_environment, "-c", imports], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "SignalsServiceStub"


def test_mypy_finds_exactly_the_two_wrong_lines_of_a_client(client_environment: Path, tmp_path: Path) -> None:
    client = tmp_path / "client.py"
    client.write_text(CLIENT)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--python-executable", client_environment, client],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    wrong = [number for number, line in enumerate(CLIENT.splitlines(), 1) if "# wrong" in line]
    found = [int(number) for number in re.findall(r"client\.py:(\d+): error", checked.stdout)]
    assert found == wrong, checked.stdout
