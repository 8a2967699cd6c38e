"""What is taken is replaced and said; what was asked for by number is refused."""

from dataclasses import astuple, replace

import pytest

from deploy import home
from deploy.home import Ports, PortTakenError, ports_from, without_taken


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The ports of a machine without sockets; 25000 is its next free one."""
    ports: set[int] = set()
    monkeypatch.setattr(home, "is_free", lambda port: port not in ports)
    monkeypatch.setattr(home, "free_port", lambda: 25_000)
    return ports


def test_free_ports_stay(taken: set[int]) -> None:
    assert without_taken(Ports()) == (Ports(), [])


def test_a_taken_port_is_replaced_and_it_is_said(taken: set[int]) -> None:
    taken.add(5432)

    assert without_taken(Ports()) == (
        replace(Ports(), postgres=25_000),
        ["port 5432 (postgres) is taken: using 25000"],
    )


def test_a_base_gives_as_many_ports_in_a_row_as_there_are(taken: set[int]) -> None:
    assert astuple(ports_from(7000)) == tuple(range(7000, 7022))


def test_a_base_with_a_taken_port_is_refused_and_names_it(taken: set[int]) -> None:
    taken.add(7003)

    with pytest.raises(PortTakenError, match="7003"):
        ports_from(7000)
