"""Settings from the environment: read once, in main, into one frozen object; wrong ones refuse to start.

A shared setting is called `STRATUM_` and its field's name; a service's own setting is called as its field, so that
`steam_min_books` is read from `STEAM_MIN_BOOKS`. Any setting may be given as the path of a file that holds it, under
its name with `_FILE` behind it. An empty value counts as absent. A variable that begins with one of the class's
prefixes and names no setting is refused: it is a typing error that would otherwise go unnoticed. (In Kubernetes
`enableServiceLinks` must be off, or the cluster adds variables of this kind for a service called like ours.)
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, NoReturn, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from services.shared.keyring import Keyring

PARTITIONS = 16
SHARED_PREFIX = "STRATUM_"
#: Variables of the project that are not settings of a service: where tests find the recorded series, and where the
#: command line keeps what it runs.
NO_SETTINGS = frozenset({"STRATUM_DATA", "STRATUM_HOME"})


_PARTITION_RANGE = re.compile(r"(\d{1,2})(?:-(\d{1,2}))?")


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


#: A list of words, written with commas between them.
CommaSeparated = Annotated[tuple[str, ...], BeforeValidator(_split)]


def _whole_days_go(days: float) -> float:
    if 0 < days < 1:
        raise ValueError("is 0, which keeps for ever, or at least 1: days are dropped whole")
    return days


#: How many days something is kept; 0 for ever.
RetentionDays = Annotated[float, Field(ge=0), AfterValidator(_whole_days_go)]


def _can_be_read(written: SecretStr) -> SecretStr:
    Keyring.parse(written.get_secret_value())
    return written


#: Secrets by version, `2:<hex>,1:<hex>`, as `Keyring.parse` reads them.
Ring = Annotated[SecretStr, AfterValidator(_can_be_read)]


class ConfigurationError(Exception):
    """One or more settings are wrong. The message names each on a line of its own and shows no value."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        count = f"{len(problems)} settings are wrong" if len(problems) > 1 else "a setting is wrong"
        lines = [f"  {name}: {problem}" for name, problem in sorted(problems.items())]
        super().__init__("\n".join([f"cannot start: {count}", *lines]))
        self.problems = dict(problems)


class ServiceConfig(BaseSettings):
    """What every service needs. A service's own class adds fields, each with a default that works on one machine."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
    #: A variable that begins like this and names no setting is refused. A service's class adds its own.
    prefixes: ClassVar[tuple[str, ...]] = (SHARED_PREFIX,)

    database_url: SecretStr = SecretStr("postgresql+psycopg://127.0.0.1:5432/stratum")
    database_pool_size: int = Field(default=5, ge=1, le=100)
    database_statement_timeout_seconds: float = Field(default=30.0, gt=0)
    database_lock_timeout_seconds: float = Field(default=5.0, gt=0)
    nats_url: str = "nats://127.0.0.1:4222"
    nats_monitor_url: str = "http://127.0.0.1:8222"
    nats_timeout_seconds: float = Field(default=5.0, gt=0)
    #: The most that OBSERVATIONS and MARKETS may hold each, where the broker's disk is small; 0: 4 GiB.
    nats_stream_max_bytes: int = Field(default=0, ge=0)
    grpc_host: str = "127.0.0.1"
    grpc_port: int = Field(default=50050, ge=0, le=65535)
    grpc_default_deadline_seconds: float = Field(default=15.0, gt=0)
    #: The secrets under which callers are vouched for, `2:<hex>,1:<hex>`, the newest first; the same for the gateway's
    #: authorisation and every service. Empty: nobody is let in but to public methods.
    principal_keys: Ring = SecretStr("")
    metrics_host: str = "127.0.0.1"
    metrics_port: int = Field(default=9100, ge=0, le=65535)
    log_level: str = "INFO"
    log_format: str = Field(default="json", pattern="^(json|console)$")
    drain_seconds: float = Field(default=10.0, ge=0)
    partitions: tuple[int, ...] = tuple(range(PARTITIONS))
    #: Events whose states a stage keeps in memory, about 60 kB each. With fewer than a board has, and the board coming
    #: in order poll after poll, every state is read back from the database at every poll.
    cached_events: int = Field(default=10_000, ge=0)
    #: Where traces are sent, by OTLP over gRPC, such as http://collector:4317. Empty: OTEL_EXPORTER_OTLP_ENDPOINT.
    trace_endpoint: str = ""
    #: The share of polls, and of calls from outside, that is followed.
    trace_ratio: float = Field(default=0.01, ge=0, le=1)

    @property
    def principal_ring(self) -> Keyring:
        """The secrets under which callers are vouched for."""
        return Keyring.parse(self.principal_keys.get_secret_value())

    @field_validator("log_level", mode="before")
    @classmethod
    def _known_level(cls, value: str) -> str:
        if value.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ValueError("is one of DEBUG, INFO, WARNING, ERROR")
        return value.upper()

    @field_validator("partitions", mode="before")
    @classmethod
    def _share_of_partitions(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        numbers: set[int] = set()
        for part in value.split(","):
            written = _PARTITION_RANGE.fullmatch(part.strip())
            if written is None:
                raise ValueError('is written like "0-7" or "0,3,8-15"')
            first, last = int(written[1]), int(written[2] or written[1])
            numbers.update(range(first, last + 1))
        if not numbers or max(numbers) >= PARTITIONS:
            raise ValueError(f"are numbers from 0 to {PARTITIONS - 1}")
        return tuple(sorted(numbers))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - replaced by our own
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - a service reads no file that nobody named
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - `_FILE` names each file instead
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What a caller passes, then the environment; nothing else."""
        return init_settings, _Environment(settings_cls)


def variable_of(field: str) -> str:
    """The environment variable that sets a field."""
    return (SHARED_PREFIX if field in ServiceConfig.model_fields else "") + field.upper()


class _Environment(PydanticBaseSettingsSource):
    """Reads a class's variables and refuses those that it does not know."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - the base class's
        return self._value(variable_of(field_name)), field_name, False

    def __call__(self) -> dict[str, Any]:
        assert issubclass(self.settings_cls, ServiceConfig)
        variables = {variable_of(field): field for field in self.settings_cls.model_fields}
        known = variables.keys() | {f"{name}_FILE" for name in variables} | NO_SETTINGS
        problems = {
            name: "is no setting of this service"
            for name in os.environ
            if name.startswith(self.settings_cls.prefixes) and name not in known
        }
        values: dict[str, str] = {}
        for name, field in variables.items():
            try:
                value = self._value(name)
            except ValueError as error:
                problems[name] = str(error)
                continue
            if value is not None:
                values[field] = value
        if problems:
            raise ConfigurationError(problems)
        return values

    @staticmethod
    def _value(name: str) -> str | None:
        direct, path = os.environ.get(name), os.environ.get(f"{name}_FILE")
        if direct and path:
            raise ValueError(f"is given twice: here and as {name}_FILE")
        if not path:
            return direct or None
        try:
            return Path(path).read_text().strip() or None
        except OSError as error:
            raise ValueError(f"the file named by {name}_FILE cannot be read: {error.strerror}") from None


Config = TypeVar("Config", bound=ServiceConfig)


def read(config: type[Config]) -> Config:
    """The settings of the environment. Raises ConfigurationError, which names every wrong variable at once."""
    try:
        return config()
    except ValidationError as error:
        problems = {
            variable_of(str(problem["loc"][0])) if problem["loc"] else "settings": problem["msg"]
            for problem in error.errors(include_input=False, include_context=False, include_url=False)
        }
        raise ConfigurationError(problems) from None


def load(config: type[Config]) -> Config:
    """The settings of the environment; with a wrong one, says which on standard error and ends the process with 2."""
    try:
        return read(config)
    except ConfigurationError as error:
        _refuse(str(error))


def _refuse(message: str) -> NoReturn:
    sys.stderr.write(message + "\n")
    raise SystemExit(2)
