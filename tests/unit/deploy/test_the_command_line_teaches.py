"""Every command says what it does and shows an example; what is wrong is answered with what to do."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.cli import app

COMMANDS = (
    *("demo", "replay", "up", "down", "status", "logs", "schema", "retention", "simulate"),
    *("books", "budget", "kpis", "doctor", "record", "trace"),
)


@pytest.fixture
def stratum(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    monkeypatch.setenv("STRATUM_HOME", str(tmp_path / "home"))
    return CliRunner()


def test_without_a_command_it_lists_them(stratum: CliRunner) -> None:
    shown = stratum.invoke(app, []).output

    assert all(command in shown for command in COMMANDS)
    assert "supervise" not in shown


@pytest.mark.parametrize(
    "command",
    [
        *COMMANDS,
        *(f"deadletters {name}" for name in ("list", "show", "replay", "drop")),
        *(f"accounts {name}" for name in ("create", "list", "show", "usage", "set")),
        *(f"keys {name}" for name in ("issue", "list", "rotate", "revoke")),
    ],
)
def test_the_help_of_a_command_shows_an_example(stratum: CliRunner, command: str) -> None:
    result = stratum.invoke(app, [*command.split(), "--help"])

    assert result.exit_code == 0
    assert f"Example: stratum {command}" in " ".join(result.output.split())


@pytest.mark.parametrize("command", ["admit", "withdraw", "log"])
def test_the_help_of_what_can_be_done_with_books_shows_an_example(stratum: CliRunner, command: str) -> None:
    result = stratum.invoke(app, ["books", command, "--help"])

    assert result.exit_code == 0
    assert f"Example: stratum books {command}" in " ".join(result.output.split())


def test_a_budget_shows_what_a_schedule_costs_and_what_would_make_it_cheaper(
    stratum: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ODDS_API_REGIONS", "us,eu")
    (tmp_path / "tonight").write_text("2026-12-02T00:00:00Z\n2026-12-02T02:30:00Z\n")

    shown = stratum.invoke(app, ["budget", "--starts", str(tmp_path / "tonight"), "--credits", "20000"]).output

    assert "missed tip-offs" in shown
    assert "largest gap before a tip" in shown
    assert "a call costs 3 instead of 6" in " ".join(shown.split())


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
        (["budget", "--month", "December"], "write it as 2026-12"),
        (["budget", "--starts", "no-such-file"], "cannot be read"),
        (["budget", "--live"], "ODDS_API_KEY"),
        (["simulate", "--fail", "sometimes"], "Choose one of"),
        (["schema", "--upgrade"], "stratum up"),
        (["retention"], "stratum up"),
        (["books"], "--ingest"),
        (["books", "--home", "elsewhere", "log"], "give --home behind log"),
        (["books", "log", "--ingest", "127.0.0.1:1"], "STRATUM_PRINCIPAL_KEYS"),
        (["accounts", "list"], "--billing"),
        (["keys", "list", "acct_1", "--billing", "127.0.0.1:1"], "STRATUM_PRINCIPAL_KEYS"),
        (["accounts", "set", "acct_1"], "--standing"),
        (["accounts", "set", "acct_1", "--standing", "bad"], "good, grace or suspended"),
        (
            [
                "books",
                "withdraw",
                "newbook",
                "--reason",
                "it left",
                "--by",
                "ann",
                "--from",
                "today",
                "--ingest",
                "127.0.0.1:1",
            ],
            "with a zone",
        ),
        (["kpis"], "stratum up"),
        (["record", "new"], "ODDS_API_KEY"),
        (["record", "new", "--base-url", "https://odds-api.com"], "api.the-odds-api.com"),
    ],
)
def test_what_is_wrong_is_answered_with_what_to_do(stratum: CliRunner, arguments: list[str], hint: str) -> None:
    result = stratum.invoke(app, arguments)

    assert result.exit_code == 1
    assert hint in " ".join(result.output.split())
