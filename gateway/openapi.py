"""The OpenAPI 3.1 description of the public surface, made from the protos and the comments in them.

`python -m gateway.openapi --write gateway/openapi.json` makes it, `--check` says whether it is what the protos say.
What is called how, by whom and for how much comes from `services.shared.contracts`, as the gateway's routes do; why a
call may be refused from `gateway.advice`. A method that is not reached over HTTP is not in it.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import google.api
import grpc_tools
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)
from grpc_tools import protoc
from stratum.common.v1.access_pb2 import Access

from gateway import advice
from services.shared import api_keys
from services.shared.contracts import Method, methods

Json = dict[str, Any]

# The services in the order in which a reader meets them, as what they give is called.
SERVICES = {
    ".stratum.signals.v1.SignalsService": "Signals",
    ".stratum.consensus.v1.ConsensusService": "Markets",
    ".stratum.ingest.v1.IngestService": "Health",
    ".stratum.billing.v1.BillingService": "Account",
}

# What a stream of HttpBody is made of, which no option of the contracts says.
EVENT_STREAM, CSV = "text/event-stream", "text/csv"
STREAMED = {"StreamSignals": EVENT_STREAM, "ExportUsageLedger": CSV}

# A stream counts a unit for each started stretch of this length.
STRETCH_SECONDS = 300

PROTOS = Path(__file__).parent.parent / "protos"
ERROR_REASON = ".stratum.common.v1.ErrorReason.Value"
TIMESTAMP = ".google.protobuf.Timestamp"
HTTP_BODY = ".google.api.HttpBody"

# How protobuf's JSON writes each type. 64-bit integers are missing on purpose: they would be strings, so no partner
# message holds one.
SCALARS: dict[int, Json] = {
    FieldDescriptorProto.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptorProto.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptorProto.TYPE_UINT32: {"type": "integer", "format": "int32", "minimum": 0},
    FieldDescriptorProto.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptorProto.TYPE_STRING: {"type": "string"},
}

# A time as it is read: with seconds and with a zone.
_TIME = (
    r"^(19|20)[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
    r"([.][0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)
# One segment of a path: what the gateway's routes match.
_SEGMENT: Json = {"pattern": "^[0-9A-Za-z_-]+$", "maxLength": 128}
# A word to filter by is never empty and holds no NUL, which no name has.
_WORD: Json = {"minLength": 1, "pattern": "^[^\\u0000]+$"}
# An opaque token; empty stands for none.
_TOKEN: Json = {"pattern": "^[0-9A-Za-z_-]*$"}

# What the types do not say of a field that a caller sends, by its name or by its message and name.
LIMITS: Json = {
    "page_size": {"minimum": 0, "maximum": 500, "default": 50},
    "page_token": _TOKEN,
    "min_score": {"minimum": 0, "maximum": 100},
    "min_strength": {"minimum": 0, "maximum": 100},
    "after": {"pattern": "^([0-9a-f]{16}-[0-9]{1,18})?$"},
    "player": {"pattern": "^[^\\u0000]*$"},
    "reason": {
        "enum": ["stale_feed", "sparse_sampling", "too_few_books", "against", "implausible", "cooldown", "cap"],
    },
    "path": {"pattern": "^/", "minLength": 1},
    "overlap": {"enum": ["0s", "1h", "24h", "7d", "30d"]},
    "found_at": {"maxLength": 1000},
    "key": {"minLength": 1, "maxLength": 200},
    "ListConsensusHistoryRequest.event_id": _WORD,
    "GetSignalRequest.id": {"pattern": "^[a-z2-7]{32}$"},
    "ExplainSignalRequest.id": {"pattern": "^[a-z2-7]{32}$"},
}
# Without these a call is refused, though their comments do not begin with "Required."
REQUIRED = {"QuoteUsageRequest.path", "RotateOwnKeyRequest.overlap", "ReportLeakedKeyRequest.key"}

# Values worth showing, by parameter name.
EXAMPLES: Json = {
    "sport_key": "basketball_nba",
    "event_id": "e912304de2b2ce35b473ce2ecd3d1502",
    "market": "spreads",
    "book": "draftkings",
    "player": "Nikola Jokic",
    "signal_type": "MOVE",
    "type": "STEAM",
    "direction": "TOWARD_HOME",
    "tier": "HIGH",
    "time_bucket": "LATE",
    "since": "2026-01-05T18:00:00Z",
    "until": "2026-01-05T21:00:00Z",
    "as_of": "2026-01-05T19:30:00Z",
    "min_score": 60,
    "min_strength": 50,
    "velocity_gt": 0.1,
    "page_size": 50,
    "reason": "cooldown",
    "id": "k5zq3wd6j2v4y7mhn2p6r5s2t3u4x5aa",
    "at": "2026-01-05T19:30:00Z",
    "path": "/api/v1/intel/signals?tier=HIGH",
    "key_id": "key_4f9c2a7be01d3856aa12",
    "overlap": "24h",
    "key": api_keys.made(api_keys.TEST, "0" * api_keys.RANDOM_LENGTH),
    "found_at": "https://github.com/example/app/blob/main/.env",
}

STREAM_EXAMPLE = """\
retry: 3000
id: 31d5950d998f3852-62

id: 31d5950d998f3852-63
event: signal
data: {"id":"k5zq3wd6j2v4y7mhn2p6r5s2t3u4x5aa","signal_type":"MOVE","market":"spreads","delta":-1, …}

: hb
id: 31d5950d998f3852-64
"""

CSV_EXAMPLE = """\
request_id,part,started_at,key_id,method,path,status,units,overage_units,billed_hour,late
b283ee48-7ac2-49a8-a009-8df324556f07,0,2026-01-05T19:30:00.123Z,key_4f9c2a7be01d3856aa12,ReadSignals,/api/v1/intel/signals,200,1,0,2026-01-05T19:00:00.000Z,false
"""

ABOUT = """\
Market signals from bookmakers' prices: what moved, how far, how fast, at which books, and who still has the old
number.

**Access.** Send an API key as `Authorization: Bearer stratum_live_…`; each call names the scope that the key needs. A
test key, `stratum_test_…`, reads a recorded evening at the same paths, uncounted. A key never belongs into an
address.

**Reading.** Answers are JSON. A field that is absent is null. Times are RFC 3339 in UTC and are event times: when the
price was seen. A parameter that may be repeated is repeated (`tier=HIGH&tier=MEDIUM`); names of values are read in
any case. An unknown parameter is an error, so a misspelt filter never passes for an empty one.

**Numbers** speak for the canonical side of a market: the home team (`h2h`, `spreads`) or over (`totals`). Scores and
tiers rank activity; they are no probability of winning.

**Pages.** `next_page_token` of one answer is `page_token` of the next call, with the other parameters unchanged; it
is empty on the last page.

**Changing.** A `POST` carries an `Idempotency-Key` of your choice: the same call with the same key is done
once, however often it is sent.

**Limits and costs.** Each answer to a key says how fast it may go on (`X-RateLimit-…`), each answer that counts what
was counted (`X-Usage-…`). Every call says below what it costs.

**Errors** have four fields, whoever made them: `code`, `message`, `details` and `request_id`. Programs decide by
`details[0].reason`; `request_id` finds the call in our logs. A 429, 503 or 504 may be repeated after a pause.
"""


def contracts() -> FileDescriptorSet:
    """What protoc makes of `protos/`, with the comments. Raises ValueError where they do not compile."""
    google_protos = Path(next(iter(google.api.__path__))).parent.parent
    built_in = Path(grpc_tools.__file__).parent / "_proto"
    with TemporaryDirectory() as folder:
        out = Path(folder) / "contracts.binpb"
        arguments = [
            "protoc",
            f"-I{PROTOS}",
            f"-I{google_protos}",
            f"-I{built_in}",
            "--include_imports",
            "--include_source_info",
        ]
        sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
        if protoc.main([*arguments, f"--descriptor_set_out={out}", *sources]) != 0:
            raise ValueError("the protos do not compile; protoc said why above")
        return FileDescriptorSet.FromString(out.read_bytes())


@dataclass(frozen=True, slots=True)
class Index:
    """Everything the protos declare, by full name with a leading dot, as they refer to one another."""

    messages: dict[str, DescriptorProto]
    enums: dict[str, EnumDescriptorProto]
    services: dict[str, ServiceDescriptorProto]
    comments: dict[str, str]
    """Comments by full name; a field, a value and a method have their parent's name, a dot and their own."""


def index(files: Iterable[FileDescriptorProto]) -> Index:
    """Names and comments of all files."""
    found = Index({}, {}, {}, {})
    for file in files:
        comments = {
            tuple(place.path): _without_lint(place.leading_comments) for place in file.source_code_info.location
        }
        for name, path, declared in _declarations(file):
            found.comments[name] = comments.get(path, "")
            if isinstance(declared, DescriptorProto):
                found.messages[name] = declared
            elif isinstance(declared, EnumDescriptorProto):
                found.enums[name] = declared
            elif isinstance(declared, ServiceDescriptorProto):
                found.services[name] = declared
    return found


def _declarations(file: FileDescriptorProto) -> Iterator[tuple[str, tuple[int, ...], object]]:
    """Each declaration with its full name and its place as descriptor.proto numbers it."""

    def message(
        parent: str, path: tuple[int, ...], declared: DescriptorProto
    ) -> Iterator[tuple[str, tuple[int, ...], object]]:
        name = f"{parent}.{declared.name}"
        yield name, path, declared
        for i, field in enumerate(declared.field):
            yield f"{name}.{field.name}", (*path, DescriptorProto.FIELD_FIELD_NUMBER, i), field
        for i, nested in enumerate(declared.nested_type):
            yield from message(name, (*path, DescriptorProto.NESTED_TYPE_FIELD_NUMBER, i), nested)
        for i, choice in enumerate(declared.enum_type):
            yield from enum(name, (*path, DescriptorProto.ENUM_TYPE_FIELD_NUMBER, i), choice)

    def enum(
        parent: str, path: tuple[int, ...], declared: EnumDescriptorProto
    ) -> Iterator[tuple[str, tuple[int, ...], object]]:
        name = f"{parent}.{declared.name}"
        yield name, path, declared
        for i, value in enumerate(declared.value):
            yield f"{name}.{value.name}", (*path, EnumDescriptorProto.VALUE_FIELD_NUMBER, i), value

    package = f".{file.package}"
    for i, top in enumerate(file.message_type):
        yield from message(package, (FileDescriptorProto.MESSAGE_TYPE_FIELD_NUMBER, i), top)
    for i, choice in enumerate(file.enum_type):
        yield from enum(package, (FileDescriptorProto.ENUM_TYPE_FIELD_NUMBER, i), choice)
    for i, service in enumerate(file.service):
        path = (FileDescriptorProto.SERVICE_FIELD_NUMBER, i)
        yield f"{package}.{service.name}", path, service
        for j, method in enumerate(service.method):
            yield (
                f"{package}.{service.name}.{method.name}",
                (*path, ServiceDescriptorProto.METHOD_FIELD_NUMBER, j),
                method,
            )


def _without_lint(comment: str) -> str:
    lines = [line.removeprefix(" ").rstrip() for line in comment.strip("\n").split("\n")]
    return "\n".join(line for line in lines if not line.startswith("buf:lint:")).strip()


class Schemas:
    """JSON schemas of messages and enums; `components` fills with what was referred to."""

    def __init__(self, names: Index) -> None:
        self.components: Json = {}
        self._names = names

    def of(self, field: FieldDescriptorProto) -> Json:
        """The schema of a field's value; a list or a map where it is one."""
        one = self._single(field)
        if self._is_map(field):
            return {
                "type": "object",
                "additionalProperties": self._single(self._names.messages[field.type_name].field[1]),
            }
        return {"type": "array", "items": one} if field.label == FieldDescriptorProto.LABEL_REPEATED else one

    def message(self, name: str) -> Json:
        """A reference to the schema of a message, which enters the components."""
        short = _short(name)
        if short not in self.components:
            self.components[short] = {}  # before its fields, because a message may hold itself
            message = self._names.messages[name]
            fields = {field.name: self.of(field) for field in message.field}
            for field_name, schema in fields.items():
                _describe(schema, self._names.comments[f"{name}.{field_name}"])
            required = [field.name for field in message.field if not self._may_be_absent(field)]
            self.components[short] = _describe(
                {"type": "object", "properties": fields} | ({"required": required} if required else {}),
                self._names.comments[name],
            )
        return {"$ref": f"#/components/schemas/{short}"}

    def enum(self, name: str, *, with_zero: bool) -> Json:
        """The values by name, each with its comment. Callers never send the zero, which stands for nothing said."""
        values = [value.name for value in self._names.enums[name].value if with_zero or value.number != 0]
        concept = self._names.comments.get(name.removesuffix(".Value"), "")
        told = [
            f"- `{value}`" + (f": {said}" if (said := _on_one_line(self._names.comments[f"{name}.{value}"])) else "")
            for value in values
        ]
        return _describe(
            {"type": "string", "enum": values}, "\n\n".join(part for part in (concept, "\n".join(told)) if part)
        )

    def _single(self, field: FieldDescriptorProto) -> Json:
        if field.type == FieldDescriptorProto.TYPE_ENUM:
            short = _short(field.type_name)
            self.components.setdefault(short, self.enum(field.type_name, with_zero=True))
            return {"$ref": f"#/components/schemas/{short}"}
        if field.type_name == TIMESTAMP:
            return {"type": "string", "format": "date-time"}
        if field.type == FieldDescriptorProto.TYPE_MESSAGE:
            return {} if self._is_map(field) else self.message(field.type_name)
        return dict(SCALARS[field.type])

    def sent(self, message: str, field: FieldDescriptorProto) -> Json:
        """The schema of a field that callers send: an enum without its zero, and limits that types do not say."""
        repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
        if field.type == FieldDescriptorProto.TYPE_ENUM:
            one = self.enum(field.type_name, with_zero=False)
        else:
            one = self._single(field)
            if field.type_name == TIMESTAMP:
                one |= {"pattern": _TIME}
            elif field.type == FieldDescriptorProto.TYPE_STRING and repeated:
                one |= _WORD
            one |= LIMITS.get(f"{_short(message)}.{field.name}") or LIMITS.get(field.name) or {}
        return {"type": "array", "items": one} if repeated else one

    def _is_map(self, field: FieldDescriptorProto) -> bool:
        return field.type_name in self._names.messages and self._names.messages[field.type_name].options.map_entry

    def _may_be_absent(self, field: FieldDescriptorProto) -> bool:
        """Zeros, empty texts and empty lists are written; an unset message or `optional` is absent and means null."""
        single_message = (
            field.type == FieldDescriptorProto.TYPE_MESSAGE and field.label != FieldDescriptorProto.LABEL_REPEATED
        )
        return field.proto3_optional or single_message


def document(files: FileDescriptorSet) -> Json:
    """The whole OpenAPI document."""
    names = index(files.file)
    schemas = Schemas(names)
    paths: Json = {}
    for method in _public():
        operation = _operation(method, names, schemas)
        paths.setdefault(method.template, {})[method.verb.lower()] = operation
    schemas.components["Error"] = _error(schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Stratum", "version": "v1", "description": ABOUT},
        "servers": [{"url": "/"}],
        "tags": [_describe({"name": tag}, names.comments[service]) for service, tag in SERVICES.items()],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "stratum_live_… or stratum_test_…",
                    "description": "An API key. What it may call is decided by its scopes, named at each operation.",
                }
            },
            "schemas": dict(sorted(schemas.components.items())),
            "headers": HEADERS,
            "responses": {
                "Error": {
                    "description": "Refused or failed. The status says whose fault it is, `details[0].reason` why.",
                    "headers": _headers("X-Request-Id"),
                    "content": _json({"$ref": "#/components/schemas/Error"}),
                }
            },
        },
    }


def _public() -> Iterator[Method]:
    """The methods that are reached over HTTP, service by service."""
    for service in SERVICES:
        for method in methods():
            if method.template and method.full_name.startswith(f"{service[1:]}/"):
                if method.level == Access.Level.INTERNAL:
                    raise ValueError(f"{method.full_name} is internal and has a path")
                yield method


# How protobuf's JSON and the gateway write what stands beside an answer.
HEADERS: Json = {
    name: {"description": said, "schema": schema}
    for name, said, schema in (
        (
            "X-Request-Id",
            "Ours, one for each call. Say it when you ask us about the call; the ledger knows the call by it.",
            {"type": "string", "format": "uuid"},
        ),
        (
            "X-Data-Age",
            "Seconds since the newest observation that the answer rests on. Absent before the first one.",
            {"type": "number", "minimum": 0},
        ),
        (
            "ETag",
            "Names what was answered. Sent back as `If-None-Match`, it saves the answer's body while nothing is new.",
            {"type": "string", "pattern": '^W/".+"$'},
        ),
        ("X-RateLimit-Limit", "Calls that the key's bucket holds.", {"type": "integer", "minimum": 1}),
        ("X-RateLimit-Remaining", "Calls that are left in it now.", {"type": "integer", "minimum": 0}),
        ("X-RateLimit-Reset", "Seconds until it is full again.", {"type": "integer", "minimum": 0}),
        ("RateLimit", "The same for programs that read the IETF's form: calls left, seconds.", {"type": "string"}),
        (
            "RateLimit-Policy",
            "The limit in the IETF's form: calls, and the seconds that fill them.",
            {"type": "string"},
        ),
        ("X-Usage-Used", "Units used in the account's present period.", {"type": "integer", "minimum": 0}),
        (
            "X-Usage-Remaining",
            "Included units that are left; 0 above the soft limit.",
            {"type": "integer", "minimum": 0},
        ),
        ("X-Usage-Overage", "Units used above the soft limit.", {"type": "integer", "minimum": 0}),
        ("X-Usage-Period-End", "When the period ends.", {"type": "string", "format": "date-time"}),
        ("Retry-After", "Whole seconds to wait before the next call.", {"type": "integer", "minimum": 0}),
        ("WWW-Authenticate", "How to say who is asking: `Bearer`.", {"type": "string"}),
    )
}
LIMIT_HEADERS = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "RateLimit", "RateLimit-Policy")
USAGE_HEADERS = ("X-Usage-Used", "X-Usage-Remaining", "X-Usage-Overage", "X-Usage-Period-End")


def _operation(method: Method, names: Index, schemas: Schemas) -> Json:
    service = f".{method.full_name.partition('/')[0]}"
    declared = next(one for one in names.services[service].method if one.name == method.name)
    summary, more = _first_sentence(names.comments[f"{service}.{method.name}"])
    body, parameters = _request(method, declared, names, schemas)
    return {
        "operationId": method.name,
        "tags": [SERVICES[service]],
        "summary": summary,
        **({"description": more} if more else {}),
        "security": [{"key": [method.scope]}] if method.level != Access.Level.PUBLIC else [],
        "x-metered": method.is_paid,
        "x-cost": cost(method),
        "parameters": parameters,
        **({"requestBody": body} if body else {}),
        "responses": _responses(
            method,
            _content(method, declared, schemas),
            [field.name for field in names.messages[declared.input_type].field],
        ),
    }


def cost(method: Method) -> str:
    """What a call of the method costs, in words."""
    if not method.is_paid:
        return "Free."
    if method.streaming:
        return f"1 unit for each started {STRETCH_SECONDS // 60} minutes that the stream is open."
    return "1 unit when it is served: with 2xx, or with 304."


def _request(
    method: Method, declared: MethodDescriptorProto, names: Index, schemas: Schemas
) -> tuple[Json | None, list[Json]]:
    """The body, where there is one, and the parameters."""
    request = names.messages[declared.input_type]
    in_path = [field for field in request.field if f"{{{field.name}}}" in method.template]
    others = [field for field in request.field if field not in in_path]
    parameters = [_parameter(field, "path", declared.input_type, names, schemas) for field in in_path]
    if method.verb == "POST":
        parameters.append(IDEMPOTENCY_KEY)
        return _body(declared.input_type, others, names, schemas), parameters
    parameters += [_parameter(field, "query", declared.input_type, names, schemas) for field in others]
    if STREAMED.get(method.name) == EVENT_STREAM:
        parameters.append(LAST_EVENT_ID)
    if not method.streaming:
        parameters.append(IF_NONE_MATCH)
    return None, parameters


IDEMPOTENCY_KEY: Json = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": True,
    "description": "Any text of your own, such as a UUID. Sent again with the same text, the call is not done again.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
    "example": "8d1d3c1e-6f0f-4b52-9d0b-2a4e5f6c7d80",
}
LAST_EVENT_ID: Json = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "description": "The last `id:` received: the stream goes on behind it.",
    "schema": {"type": "string", "pattern": LIMITS["after"]["pattern"]},
}
IF_NONE_MATCH: Json = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "The `ETag` of an answer that you have: 304 without a body while it is still the answer.",
    "schema": {"type": "string"},
    "example": 'W/"9b74c9897bac770f"',
}


def _parameter(field: FieldDescriptorProto, place: str, message: str, names: Index, schemas: Schemas) -> Json:
    said = names.comments[f"{message}.{field.name}"]
    schema = schemas.sent(message, field)
    if place == "path" and "pattern" not in schema:
        schema |= _SEGMENT
    required = place == "path" or _is_required(message, field, said)
    parameter: Json = {"name": field.name, "in": place, "required": required, "schema": schema}
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        parameter |= {"style": "form", "explode": True}
    if field.name in EXAMPLES:
        example = EXAMPLES[field.name]
        parameter["example"] = [example] if field.label == FieldDescriptorProto.LABEL_REPEATED else example
    return _describe(parameter, said.removeprefix("Required.").strip() or PATH_COMMENTS.get(field.name, ""))


# What a field in a path means, where its message has no comment for it.
PATH_COMMENTS = {"key_id": "From the list of keys."}


def _is_required(message: str, field: FieldDescriptorProto, said: str) -> bool:
    return said.startswith("Required.") or f"{_short(message)}.{field.name}" in REQUIRED


def _body(message: str, fields: Iterable[FieldDescriptorProto], names: Index, schemas: Schemas) -> Json:
    """The fields of a request that do not stand in its path, as a JSON body."""
    properties: Json = {}
    required = []
    for field in fields:
        said = names.comments[f"{message}.{field.name}"]
        properties[field.name] = _describe(schemas.sent(message, field), said.removeprefix("Required.").strip())
        if _is_required(message, field, said):
            required.append(field.name)
    schema: Json = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    example = {name: EXAMPLES[name] for name in properties if name in EXAMPLES}
    return {"required": bool(required), "content": {"application/json": {"schema": schema, "example": example}}}


def _content(method: Method, declared: MethodDescriptorProto, schemas: Schemas) -> Json:
    if method.name in STREAMED:
        media = STREAMED[method.name]
        return {
            media: {"schema": {"type": "string"}, "example": {EVENT_STREAM: STREAM_EXAMPLE, CSV: CSV_EXAMPLE}[media]}
        }
    return _json(schemas.message(f".{method.renders}" if declared.output_type == HTTP_BODY else declared.output_type))


def _responses(method: Method, content: Json, fields: list[str]) -> Json:
    beside = ["X-Request-Id"]
    if method.service == "signals":
        beside.append("X-Data-Age")
    if method.verb == "GET" and not method.streaming:
        beside.append("ETag")
    if method.level != Access.Level.PUBLIC:
        beside += LIMIT_HEADERS
    if method.is_paid:
        beside += USAGE_HEADERS
    responses: Json = {"200": {"description": "What was asked for.", "headers": _headers(*beside), "content": content}}
    if "ETag" in beside:
        responses["304"] = {"description": "You have it already.", "headers": _headers(*beside)}
    for status, reasons in advice.by_status(method, fields).items():
        also = {
            401: ["WWW-Authenticate"],
            429: ["Retry-After", *(name for name in LIMIT_HEADERS if name in beside)],
        }.get(status, [])
        responses[str(status)] = {
            "description": f"{', '.join(f'`{reason}`' for reason in reasons)}.",
            "headers": _headers("X-Request-Id", *also),
            "content": _json({"$ref": "#/components/schemas/Error"}),
        }
    return responses | {"default": {"$ref": "#/components/responses/Error"}}


def _headers(*names: str) -> Mapping[str, Json]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _error(schemas: Schemas) -> Json:
    """The four fields of every error, the services' and Envoy's own."""
    info = {
        "type": "object",
        "required": ["@type", "reason", "domain", "metadata"],
        "properties": {
            "@type": {"type": "string", "const": "type.googleapis.com/google.rpc.ErrorInfo"},
            "reason": schemas.enum(ERROR_REASON, with_zero=False),
            "domain": {"type": "string", "const": "stratum"},
            "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    }
    return {
        "type": "object",
        "description": "Every error has these four fields.",
        "required": ["code", "message", "details", "request_id"],
        "properties": {
            "code": {"type": "integer", "description": "The gRPC status code that the HTTP status was made from."},
            "message": {"type": "string", "description": "For a person to read. Programs decide by the reason."},
            "details": {"type": "array", "minItems": 1, "items": info, "description": "The first says why, in a word."},
            "request_id": {
                "type": ["string", "null"],
                "description": "As in the header X-Request-Id; null where a request was refused before it got one.",
            },
        },
        "example": {
            "code": 5,
            "message": "no signal k5zq3wd6j2v4y7mhn2p6r5s2t3u4x5aa",
            "details": [
                {
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": "SIGNAL_NOT_FOUND",
                    "domain": "stratum",
                    "metadata": {"signal_id": "k5zq3wd6j2v4y7mhn2p6r5s2t3u4x5aa"},
                }
            ],
            "request_id": "b283ee48-7ac2-49a8-a009-8df324556f07",
        },
    }


def _short(name: str) -> str:
    """`.stratum.ingest.v1.SportHealth.Status.Value` as SportHealthStatus."""
    return "".join(name.split(".")[4:]).removesuffix("Value")


def _describe(schema: Json, said: str) -> Json:
    if said:
        schema["description"] = said
    return schema


def _first_sentence(said: str) -> tuple[str, str]:
    """The first sentence on one line, and the rest as it was written."""
    first, _, more = re.sub(r"\.\s", ".\0", said, count=1).partition("\0")
    return _on_one_line(first), more.strip()


def _on_one_line(said: str) -> str:
    """A comment as one line, without the example bodies that stand on lines of their own."""
    return re.sub(r"\s+", " ", " ".join(line for line in said.split("\n") if not line.startswith("{"))).strip()


def text(files: FileDescriptorSet) -> str:
    """The document as it is kept in the repository."""
    return json.dumps(document(files), indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    """Write the file, or say whether it is current: 1 when it is not."""
    parser = argparse.ArgumentParser(prog="python -m gateway.openapi", description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", type=Path, metavar="FILE", help="make the file from the protos")
    action.add_argument(
        "--check", type=Path, metavar="FILE", help="end with 1 when the file is not what the protos say"
    )
    asked = parser.parse_args()
    made = text(contracts())
    if asked.write:
        asked.write.write_text(made)
    elif not asked.check.exists() or asked.check.read_text() != made:
        print(f"{asked.check} is not what the protos say: run 'make proto' and commit it", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
