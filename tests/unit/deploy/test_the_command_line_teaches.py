"""Every command says what it does and shows an example; what is wrong is answered with what to do."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.cli import app

COMMANDS = ("demo", "replay", "up", "down", "status", "logs", "schema", "simulate")


@pytest.fixture
def stratum(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    monkeypatch.setenv("STRATUM_HOME", str(tmp_path / "home"))
    return CliRunner()


def test_without_a_command_it_lists_them(stratum: CliRunner) -> None:
    shown = stratum.invoke(app, []).output

    assert all(command in shown for command in COMMANDS)
    assert "supervise" not in shown


@pytest.mark.parametrize(
    "command", [*COMMANDS, *(f"deadletters {name}" for name in ("list", "show", "replay", "drop"))]
)
def test_the_help_of_a_command_shows_an_example(stratum: CliRunner, command: str) -> None:
    result = stratum.invoke(app, [*command.split(), "--help"])

    assert result.exit_code == 0
    assert f"Example: stratum {command}" in " ".join(result.output.split())


def test_status_of_nothing_says_how_to_start_it_and_ends_with_three(stratum: CliRunner) -> None:
    result = stratum.invoke(app, ["status"])

    assert result.exit_code == 3
    assert "stratum up" in result.output


def test_stopping_nothing_is_no_error(stratum: CliRunner) -> None:
    result = stratum.invoke(app, ["down"])

    assert result.exit_code == 0
    assert "Nothing runs" in result.output


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["replay", "no-such-folder"], "INDEX.tsv"),
        (["replay", ".", "--profile", "hourly"], "sampled-15m"),
        (["replay", ".", "--out", "no-such-folder/signals.jsonl"], "Make it first"),
        (["demo", "--recording", "no-such-folder"], "INDEX.tsv"),
        (["logs", "printer"], "Choose one of"),
        (["logs"], "stratum up"),
        (["deadletters", "list"], "stratum up"),
        (["deadletters", "replay"], "or --all"),
        (["deadletters", "drop", "consensus/1", "--reason", " "], "say why"),
        (["schema"], "--check or --upgrade"),
        (["schema", "--upgrade"], "stratum up"),
    ],
)
def test_what_is_wrong_is_answered_with_what_to_do(stratum: CliRunner, arguments: list[str], hint: str) -> None:
    result = stratum.invoke(app, arguments)

    assert result.exit_code == 1
    assert hint in " ".join(result.output.split())
