"""Structured logs on standard error, one object a line, with the request's id in each, and never a secret."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import structlog

from services.shared import tracing

MASK = "***"
_SECRET_NAME = re.compile(r"password|passwd|secret|token|api_?key|authorization|pepper|credential", re.IGNORECASE)
#: `name=value`, `name: value` and `'name': 'value'`, as they turn up in addresses, headers and others' messages.
_SECRET_PAIR = re.compile(
    r"""(?i)((?:api_?key|password|token|secret|authorization)["']?\s*[=:]\s*["']?(?:bearer\s+)?)[^\s&"',;)}]+"""
)
_PASSWORD_IN_URL = re.compile(r"(?<=://)([^/\s:@]*):([^/\s@]+)@")

Processor = Callable[[Any, str, MutableMapping[str, Any]], MutableMapping[str, Any]]


def masked(text: str) -> str:
    """The text without the passwords of addresses and the values of keys, tokens and passwords."""
    return _SECRET_PAIR.sub(rf"\g<1>{MASK}", _PASSWORD_IN_URL.sub(rf"\g<1>:{MASK}@", text))


def _without_secrets(value: Any, name: str = "") -> Any:
    if name and _SECRET_NAME.search(name) and isinstance(value, str | bytes):
        return MASK
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, Mapping):
        return {key: _without_secrets(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_without_secrets(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return masked(str(value))


def mask_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The last step but the rendering: tracebacks are text by now, so they are covered as well."""
    return {name: _without_secrets(value, name) for name, value in event.items()}


def _add_trace(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """By what a line's trace is found, where it is being followed."""
    trace_id = tracing.trace_id()
    if trace_id is not None:
        event["trace_id"] = trace_id
    return event


def configure_logging(service: str, level: str = "INFO", form: str = "json") -> None:
    """Sends our logs and those of every library through one pipeline. `form` is json or console."""
    shared: Sequence[Any] = (
        structlog.contextvars.merge_contextvars,
        _add_trace,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        lambda _logger, _method, event: {"service": service, **event},
    )
    renderer = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                mask_secrets,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger: `log.info("what happened", with_its=facts)`."""
    bound: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return bound
