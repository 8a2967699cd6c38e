"""What the contracts say of every method: where it is found over HTTP, who may call it, and what it answers.

Read from the descriptors of the generated stubs, so that the gateway's routes, the authorisation, metering and the
documents cannot disagree: there is no second list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

from google.api.annotations_pb2 import http
from stratum.common.v1.access_pb2 import Access, access, renders

#: Every service's contract, by the modules that were generated from them.
MODULES = (
    "stratum.ingest.v1.ingest_service_pb2",
    "stratum.consensus.v1.consensus_service_pb2",
    "stratum.signals.v1.signals_service_pb2",
    "stratum.billing.v1.billing_service_pb2",
    "stratum.billing.v1.accounts_service_pb2",
    "stratum.billing.v1.access_service_pb2",
    "stratum.billing.v1.metering_service_pb2",
)
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC."""

    #: stratum.signals.v1.SignalsService/ReadSignals
    full_name: str
    #: The service that answers it: signals.
    service: str
    level: Access.Level.Value.ValueType
    #: The scope that a key needs; empty where it needs none.
    scope: str
    #: GET or POST; empty for a method that is not reached over HTTP.
    verb: str
    #: /api/v1/intel/signals/{id}; empty for a method that is not reached over HTTP.
    template: str
    #: Answers go on for as long as the caller wants.
    streaming: bool
    #: Of an HttpBody, the message that it is the JSON of; empty for other answers.
    renders: str
    pattern: re.Pattern[str] = field(compare=False, repr=False)

    @property
    def name(self) -> str:
        """ReadSignals"""
        return self.full_name.rpartition("/")[2]

    @property
    def is_paid(self) -> bool:
        """Whether a served call is counted."""
        return self.level == Access.Level.PAID


@cache
def methods() -> tuple[Method, ...]:
    """Every method of every service, in the order of the contracts."""
    return tuple(_declared())


@cache
def by_full_name() -> dict[str, Method]:
    """Every method by its full name, such as stratum.signals.v1.SignalsService/ReadSignals."""
    return {method.full_name: method for method in methods()}


def found(verb: str, path: str) -> Method | None:
    """The method that is called by this verb at this path (without a query), if there is one."""
    for method in methods():
        if method.template and method.verb == verb and method.pattern.fullmatch(path):
            return method
    return None


def _declared() -> Iterator[Method]:
    for module in MODULES:
        file = import_module(module).DESCRIPTOR
        for service in file.services_by_name.values():
            for method in service.methods:
                options = method.GetOptions()
                said = options.Extensions[access]
                verb, template = _place(options.Extensions[http])
                yield Method(
                    full_name=f"{service.full_name}/{method.name}",
                    service=file.package.split(".")[1],
                    level=said.level or Access.Level.INTERNAL,
                    scope=said.scope,
                    verb=verb,
                    template=template,
                    streaming=method.server_streaming,
                    renders=options.Extensions[renders],
                    pattern=re.compile(pattern_of(template)),
                )


def _place(rule: Any) -> tuple[str, str]:
    verb = rule.WhichOneof("pattern")
    return (verb.upper(), getattr(rule, verb)) if verb else ("", "")


def pattern_of(template: str) -> str:
    """A regular expression (RE2 and Python) for the paths of a template: a placeholder is one segment without `:`."""
    parts = _PLACEHOLDER.split(template)
    return "".join(re.escape(part) if number % 2 == 0 else "[^/:]+" for number, part in enumerate(parts))
