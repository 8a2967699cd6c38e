"""Settings: where they come from, and what refuses to start."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field, SecretStr, ValidationError

from services.shared.config import SHARED_PREFIX, CommaSeparated, ConfigurationError, ServiceConfig, load, read


class Config(ServiceConfig):
    prefixes: ClassVar[tuple[str, ...]] = (SHARED_PREFIX, "STEAM_")

    steam_min_books: int = Field(default=4, ge=1)
    steam_books: CommaSeparated = ("betmgm",)
    steam_key: SecretStr | None = None


@pytest.fixture(autouse=True)
def _no_settings_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith(("STRATUM_", "STEAM_")):
            monkeypatch.delenv(name)


def test_every_setting_has_a_default():
    assert read(Config).steam_min_books == 4


def test_a_shared_setting_is_read_under_the_project_prefix(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STRATUM_GRPC_PORT", "50099")
    assert read(Config).grpc_port == 50099


def test_a_setting_of_the_service_is_read_under_its_own_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STEAM_MIN_BOOKS", "6")
    monkeypatch.setenv("STEAM_BOOKS", "draftkings, fanduel")
    assert read(Config).steam_min_books == 6
    assert read(Config).steam_books == ("draftkings", "fanduel")


def test_a_setting_may_be_the_path_of_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "key").write_text("from a file\n")
    monkeypatch.setenv("STEAM_KEY_FILE", str(tmp_path / "key"))
    key = read(Config).steam_key
    assert key is not None
    assert key.get_secret_value() == "from a file"


def test_an_empty_variable_counts_as_absent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STEAM_KEY", "")
    assert read(Config).steam_key is None


def test_a_setting_given_twice_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "key").write_text("from a file")
    monkeypatch.setenv("STEAM_KEY", "direct")
    monkeypatch.setenv("STEAM_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(ConfigurationError, match="STEAM_KEY: is given twice"):
        read(Config)


def test_a_file_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("STEAM_KEY_FILE", str(tmp_path / "absent"))
    with pytest.raises(ConfigurationError, match="STEAM_KEY: the file named by STEAM_KEY_FILE cannot be read"):
        read(Config)


@pytest.mark.parametrize("name", ["STRATUM_GRCP_PORT", "STEAM_MIN_BOKS", "STEAM_MIN_BOKS_FILE"])
def test_an_unknown_variable_with_one_of_our_prefixes_is_refused(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv(name, "5")
    with pytest.raises(ConfigurationError, match=f"{name}: is no setting of this service"):
        read(Config)


def test_variables_of_others_are_none_of_our_business(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NBA_SOMETHING", "5")
    monkeypatch.setenv("STRATUM_DATA", "/recordings")
    assert read(Config).steam_min_books == 4


def test_every_wrong_setting_is_named_and_no_value_shown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STRATUM_GRPC_PORT", "hunter2")
    monkeypatch.setenv("STRATUM_LOG_LEVEL", "hunter2")
    monkeypatch.setenv("STEAM_MIN_BOOKS", "0")
    with pytest.raises(ConfigurationError) as refusal:
        read(Config)
    assert sorted(refusal.value.problems) == ["STEAM_MIN_BOOKS", "STRATUM_GRPC_PORT", "STRATUM_LOG_LEVEL"]
    assert str(refusal.value).count("\n") == 3
    assert "hunter2" not in str(refusal.value)


def test_a_wrong_setting_ends_the_process_with_2_and_says_which(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("STRATUM_GRPC_PORT", "99999")
    with pytest.raises(SystemExit) as end:
        load(Config)
    assert end.value.code == 2
    assert "STRATUM_GRPC_PORT" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("written", "partitions"),
    [("0-3", (0, 1, 2, 3)), ("5", (5,)), ("0,2,14-15", (0, 2, 14, 15)), ("3,1-3", (1, 2, 3))],
)
def test_a_share_of_the_partitions_is_written_as_ranges(
    monkeypatch: pytest.MonkeyPatch, written: str, partitions: tuple[int, ...]
):
    monkeypatch.setenv("STRATUM_PARTITIONS", written)
    assert read(Config).partitions == partitions


@pytest.mark.parametrize("written", ["16", "3-1", "a", "-1", "1-"])
def test_partitions_that_do_not_exist_are_refused(monkeypatch: pytest.MonkeyPatch, written: str):
    monkeypatch.setenv("STRATUM_PARTITIONS", written)
    with pytest.raises(ConfigurationError, match="STRATUM_PARTITIONS"):
        read(Config)


def test_settings_do_not_change_once_read():
    config = read(Config)
    with pytest.raises(ValidationError):
        config.steam_min_books = 5


def test_a_database_address_does_not_show_its_password():
    config = Config(database_url=SecretStr("postgresql+psycopg://signals:hunter2@127.0.0.1/stratum"))
    assert "hunter2" not in repr(config)
