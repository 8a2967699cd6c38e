"""The OpenAPI 3.1 description of the public surface, made from the protos and the comments in them.

`python -m gateway.openapi --write gateway/openapi.json` makes it, `--check` says whether it is what the protos say.
An RPC without a `google.api.http` annotation is internal and not in it.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import google.api
import grpc_tools
from google.api.annotations_pb2 import http
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

Json = dict[str, Any]

# The services in the order in which a reader meets them.
SERVICES = (
    ".stratum.signals.v1.SignalsService",
    ".stratum.consensus.v1.ConsensusService",
    ".stratum.ingest.v1.IngestService",
)

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
}

STREAM_EXAMPLE = """\
retry: 3000
id: 31d5950d998f3852-62

id: 31d5950d998f3852-63
event: signal
data: {"id":"k5zq3wd6j2v4y7mhn2p6r5s2t3u4x5aa","signal_type":"MOVE","market":"spreads","delta":-1, …}

: hb
"""

ABOUT = """\
Market signals from bookmakers' prices: what moved, how far, how fast, at which books, and who still has the old number.

**Reading.** Every call is a `GET` and answers JSON. A field that is absent is null. Times are RFC 3339 in UTC and are
event times: when the price was seen. A parameter that may be repeated is repeated (`tier=HIGH&tier=MEDIUM`); names of
values are read in any case. An unknown parameter is an error, so a misspelt filter never passes for an empty one.

**Numbers** speak for the canonical side of a market: the home team (`h2h`, `spreads`) or over (`totals`). Scores and
tiers rank activity; they are no probability of winning.

**Pages.** `next_page_token` of one answer is `page_token` of the next call, with the other parameters unchanged; it is
empty on the last page.

**Errors** have four fields, whoever made them: `code`, `message`, `details` and `request_id`. Programs decide by
`details[0].reason`; `request_id` finds the call in our logs. A 503 or 504 may be repeated after a pause.

**Access.** Until callers have keys, the gateway answers on its own machine only (127.0.0.1).
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
    tags: list[Json] = []
    for service_name in SERVICES:
        service = names.services[service_name]
        tag = service.name.removesuffix("Service")
        tags.append(_describe({"name": tag}, names.comments[service_name]))
        for method in service.method:
            if path := method.options.Extensions[http].get:
                said = names.comments[f"{service_name}.{method.name}"]
                paths[path] = {"get": _operation(method, path, tag, said, names, schemas)}
    schemas.components["Error"] = _error(schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Stratum", "version": "v1", "description": ABOUT},
        "servers": [{"url": "/"}],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "headers": {
                "X-Request-Id": {
                    "description": "Ours, one for each call. Say it when you ask us about the call.",
                    "schema": {"type": "string", "format": "uuid"},
                },
                "X-Data-Age": {
                    "description": "Seconds since the newest observation that the answer rests on.",
                    "schema": {"type": "number"},
                },
            },
            "responses": {
                "Error": {
                    "description": "Refused or failed. The status says whose fault it is, `details[0].reason` why.",
                    "headers": {"X-Request-Id": {"$ref": "#/components/headers/X-Request-Id"}},
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
                }
            },
        },
    }


def _operation(method: MethodDescriptorProto, path: str, tag: str, said: str, names: Index, schemas: Schemas) -> Json:
    summary, more = _first_sentence(said)
    request = names.messages[method.input_type]
    parameters = [
        _parameter(field, f"{{{field.name}}}" in path, names.comments[f"{method.input_type}.{field.name}"], schemas)
        for field in request.field
    ]
    if method.output_type == HTTP_BODY:
        parameters.append(
            {
                "name": "Last-Event-ID",
                "in": "header",
                "description": "The last `id:` received: the stream goes on behind it. Browsers send it by themselves.",
                "schema": {"type": "string"},
            }
        )
        content: Json = {"text/event-stream": {"schema": {"type": "string"}, "example": STREAM_EXAMPLE}}
    else:
        content = {"application/json": {"schema": schemas.message(method.output_type)}}
    return {
        "operationId": method.name,
        "tags": [tag],
        "summary": summary,
        **({"description": more} if more else {}),
        "parameters": parameters,
        "responses": {
            "200": {
                "description": "What was asked for.",
                "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-Id", "X-Data-Age")},
                "content": content,
            },
            "default": {"$ref": "#/components/responses/Error"},
        },
    }


def _parameter(field: FieldDescriptorProto, in_path: bool, said: str, schemas: Schemas) -> Json:
    if field.type == FieldDescriptorProto.TYPE_ENUM:
        schema = schemas.enum(field.type_name, with_zero=False)
        if field.label == FieldDescriptorProto.LABEL_REPEATED:
            schema = {"type": "array", "items": schema}
    else:
        schema = schemas.of(field)
    if field.name == "page_size":
        schema |= {"minimum": 1, "maximum": 500, "default": 50}
    required = in_path or said.startswith("Required.")
    parameter: Json = {"name": field.name, "in": "path" if in_path else "query", "required": required, "schema": schema}
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        parameter |= {"style": "form", "explode": True}
    if field.name in EXAMPLES:
        example = EXAMPLES[field.name]
        parameter["example"] = [example] if field.label == FieldDescriptorProto.LABEL_REPEATED else example
    return _describe(parameter, said.removeprefix("Required.").strip())


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
