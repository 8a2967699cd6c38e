"""Makes the client's models and methods from the protos: names, types and comments are the contracts'.

`python clients/python/generate.py --write` makes them, `--check` says whether they are what the protos say. A method
that gets a path has to be named in `METHODS` below, so none can be forgotten.
"""

from __future__ import annotations

import argparse
import keyword
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from google.api.annotations_pb2 import http
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, MethodDescriptorProto
from stratum.common.v1.access_pb2 import renders

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # run by its path, this file finds its neighbours and not the repository

from gateway.openapi import ERROR_REASON, HTTP_BODY, TIMESTAMP, Index, contracts, index  # noqa: E402 - its folder has to be on the path first

PACKAGE = Path(__file__).parent / "src" / "stratum_client"

#: What the client calls each RPC.
METHODS = {
    "ReadSignals": "signals",
    "GetSignal": "signal",
    "ExplainSignal": "explain",
    "StreamSignals": "watch",
    "ListSuppressions": "suppressions",
    "ListConsensus": "consensus",
    "ListConsensusHistory": "consensus_history",
    "ListGames": "games",
    "GetGame": "game",
    "GetFeedHealth": "health",
    "GetUsage": "usage",
    "ListUsageLedger": "ledger",
    "ExportUsageLedger": "ledger_export",
    "QuoteUsage": "quote",
    "GetPlan": "plan",
    "ListOwnKeys": "keys",
    "RotateOwnKey": "rotate_key",
    "RevokeOwnKey": "revoke_key",
    "ReportLeakedKey": "report_leaked_key",
}
#: Fields that no call makes sense without, beside those in the path and those that say "Required.".
REQUIRED = {"QuoteUsage.path", "RotateOwnKey.overlap", "ReportLeakedKey.key"}
#: A second name of another parameter, and what the listings and the stream do by themselves.
LEFT_OUT = {"type", "page_token"}
#: What a stream tells beside signals.
STREAMED = (".stratum.signals.v1.Heartbeat", ".stratum.signals.v1.Truncated")

#: Where it is said what those mean.
WATCHED = ".stratum.signals.v1.WatchSignalsResponse"

SCALARS = {
    FieldDescriptorProto.TYPE_DOUBLE: ("float", "0.0"),
    FieldDescriptorProto.TYPE_INT32: ("int", "0"),
    FieldDescriptorProto.TYPE_UINT32: ("int", "0"),
    FieldDescriptorProto.TYPE_BOOL: ("bool", "False"),
    FieldDescriptorProto.TYPE_STRING: ("str", '""'),
}
HEADER = '''"""{about}

Made by clients/python/generate.py from the contracts. Not to be edited.
"""

from __future__ import annotations

'''
WIDTH = 104


@dataclass(frozen=True, slots=True)
class Rpc:
    """A method with a path."""

    service: str
    declared: MethodDescriptorProto
    verb: str
    path: str

    @property
    def name(self) -> str:
        """What the client calls it. Raises ValueError for one that nobody has named."""
        if self.declared.name not in METHODS:
            raise ValueError(f"{self.declared.name} has a path and no name in METHODS")
        return METHODS[self.declared.name]

    @property
    def answer(self) -> str:
        """The message that the answer is the JSON of; empty where it is bytes."""
        rendered = self.declared.options.Extensions[renders]
        if rendered:
            return f".{rendered}"
        return "" if self.declared.output_type == HTTP_BODY else self.declared.output_type


def rpcs(names: Index) -> list[Rpc]:
    """All methods with a path, in the order of `METHODS`."""
    found = []
    for service_name, service in names.services.items():
        for declared in service.method:
            rule = declared.options.Extensions[http]
            verb = rule.WhichOneof("pattern")
            if verb:
                found.append(Rpc(service_name, declared, verb.upper(), getattr(rule, verb)))
    order = list(METHODS.values())
    return sorted(found, key=lambda rpc: order.index(rpc.name))


def short(name: str) -> str:
    """`.stratum.ingest.v1.SportHealth.Status.Value` as SportHealthStatus."""
    return "".join(name.split(".")[4:]).removesuffix("Value")


def is_repeated(field: FieldDescriptorProto) -> bool:
    """Whether the field is a list (or a map)."""
    return field.label == FieldDescriptorProto.LABEL_REPEATED


class Models:
    """The source of `models.py` and of `reasons.py`."""

    def __init__(self, names: Index) -> None:
        self._names = names
        self._enums: dict[str, str] = {}
        self._messages: dict[str, str] = {}
        self._asked: set[str] = set()

    def message(self, name: str) -> None:
        """Adds a message behind those that it is made of."""
        if name in self._messages:
            return
        declared = self._names.messages[name]
        lines = []
        for field in declared.field:
            kind, default = self._field(field)
            if keyword.iskeyword(field.name):
                raise ValueError(f"{name}.{field.name} is a word of Python's")
            lines.append(f"    {field.name}: {kind}{default}")
            lines.append(_text(self._names.comments[f"{name}.{field.name}"], 4))
        base = "SecretMessage" if any(field.name == "secret" for field in declared.field) else "Message"
        about = _text(self._names.comments[name] or self._about(name), 4)
        self._messages[name] = "\n".join(
            [f"class {short(name)}({base}, frozen=True, kw_only=True):", about, "", *filter(None, lines)]
        )

    def enum(self, name: str, *, asked: bool = False) -> None:
        """Adds the values of an enum; `asked`, where callers name them too."""
        self._enums.setdefault(name, _enum(name, self._names))
        if asked:
            self._asked.add(name)

    def source(self) -> str:
        """models.py."""
        kinds = [*self._enums, *self._messages]
        if len({short(name) for name in kinds}) != len(kinds):
            raise ValueError("two messages have the same short name")
        parts = [self._enums[name] + (_like(name, self._names) if name in self._asked else "") for name in self._enums]
        text = "\n\n\n".join([*parts, *self._messages.values()])
        return (
            HEADER.format(about="What the API answers, as types: the messages and words of the contracts.")
            + "from typing import Literal, TypeAlias\n\nimport msgspec\n\n"
            + "from stratum_client.words import Message, Moment, SecretMessage, Word\n\n"
            + text
            + "\n"
        )

    def _about(self, name: str) -> str:
        """What is said elsewhere of a message that says nothing of itself; empty where nothing is."""
        if name in STREAMED:
            return self._names.comments[f"{WATCHED}.{short(name).lower()}"]
        rpc = short(name).removesuffix("Response")
        rpc = "ReadSignals" if rpc == "ListSignals" else rpc  # the same page, rendered
        return f"What `{METHODS[rpc]}` is answered." if rpc in METHODS else ""

    def _field(self, field: FieldDescriptorProto) -> tuple[str, str]:
        kind, default = self._single(field)
        inner = self._names.messages.get(field.type_name)
        if inner is not None and inner.options.map_entry:
            value, _ = self._single(inner.field[1])
            return f"dict[str, {value}]", " = msgspec.field(default_factory=dict)"
        if is_repeated(field):
            return f"tuple[{kind}, ...]", " = ()"
        if field.proto3_optional:
            return f"{kind} | None", " = None"
        return kind, f" = {default}" if default else ""

    def _single(self, field: FieldDescriptorProto) -> tuple[str, str]:
        if field.type == FieldDescriptorProto.TYPE_ENUM:
            self.enum(field.type_name)
            return short(field.type_name), f"{short(field.type_name)}.UNSPECIFIED"
        if field.type_name == TIMESTAMP:
            return "Moment", ""
        if field.type == FieldDescriptorProto.TYPE_MESSAGE:
            if not self._names.messages[field.type_name].options.map_entry:
                self.message(field.type_name)
            return short(field.type_name), ""
        return SCALARS[field.type]


def _enum(name: str, names: Index) -> str:
    concept = names.comments.get(name.removesuffix(".Value"), "") or names.comments.get(name, "")
    head = [f"class {short(name)}(Word):", _text(concept or f"{short(name)}: an open list of words.", 4), ""]
    lines = []
    for value in names.enums[name].value:
        lines.append(f'    {value.name} = "{value.name}"')
        lines.append(_text(names.comments[f"{name}.{value.name}"], 4))
    return "\n".join([*head, *filter(None, lines)])


def _like(name: str, names: Index) -> str:
    values = ", ".join(f'"{value.name}"' for value in names.enums[name].value if value.number != 0)
    kind = short(name)
    return f"\n\n\n#: A {kind}, or its text.\n{kind}Like: TypeAlias = {kind} | Literal[{values}]"


class Methods:
    """The source of `operations.py`: every method twice, for a client that waits and for one that is awaited."""

    def __init__(self, names: Index, models: Models) -> None:
        self._names = names
        self._models = models

    def source(self, found: list[Rpc]) -> str:
        """operations.py."""
        waiting = "\n\n".join(self._method(rpc, awaited=False) for rpc in found)
        awaited = "\n\n".join(self._method(rpc, awaited=True) for rpc in found)
        return (
            HEADER.format(about="Every operation of the API as a method.")
            + "from collections.abc import AsyncIterator, Iterator\nfrom datetime import datetime\n\n"
            + "from stratum_client import models\n"
            + "from stratum_client.asking import Asking, AsyncAsking\n"
            + "from stratum_client.calls import Call, OneOrMany, segment\n"
            + "from stratum_client.errors import given\n"
            + "from stratum_client.paging import AsyncListing, Listing\n"
            + "from stratum_client.streams import AsyncSignalStream, SignalStream\n\n\n"
            + f'class Operations(Asking):\n    """What a client can ask, and waits for."""\n\n{waiting}\n\n\n'
            + f'class AsyncOperations(AsyncAsking):\n    """What a client can ask, to be awaited."""\n\n{awaited}\n'
        )

    def _method(self, rpc: Rpc, *, awaited: bool) -> str:
        kind, result, coroutine = self._result(rpc, awaited=awaited)
        positional, named = self._parameters(rpc)
        if rpc.verb == "POST":
            named.append(("idempotency_key", "str | None", "None", IDEMPOTENCY))
        if kind == "watch":
            named.append(("heartbeats", "bool", "False", HEARTBEATS))
        signature = ", ".join(
            [
                "self",
                *(f"{name}: {kind}" for name, kind, _, _ in positional),
                *(["*"] if named else []),
                *(f"{name}: {kind} = {default}" for name, kind, default, _ in named),
            ]
        )
        said = self._names.comments[f"{rpc.service}.{rpc.declared.name}"]
        told = [(name, words) for name, _, _, words in [*positional, *named] if words]
        definition = "async def" if coroutine else "def"
        return "\n".join(
            [
                f"    {definition} {rpc.name}({signature}) -> {result}:",
                _documented(ABOUT.get(rpc.name, _in_our_words(said)), told),
                *self._body(rpc, kind, awaited=awaited),
            ]
        )

    def _result(self, rpc: Rpc, *, awaited: bool) -> tuple[str, str, bool]:
        """How it is answered, the type of that, and whether it is a coroutine."""
        if not rpc.answer:
            if rpc.name == "watch":
                return "watch", "AsyncSignalStream" if awaited else "SignalStream", False
            return "bytes", "AsyncIterator[bytes]" if awaited else "Iterator[bytes]", False
        fields = list(self._names.messages[rpc.answer].field)
        if _is_list(fields):
            item = short(fields[0].type_name)
            return "list", f"{'Async' if awaited else ''}Listing[models.{item}]", False
        if len(fields) == 1:
            return "unwrapped", self._unwrapped(fields[0]), awaited
        return "whole", f"models.{short(rpc.answer)}", awaited

    @staticmethod
    def _unwrapped(field: FieldDescriptorProto) -> str:
        kind = f"models.{short(field.type_name)}" if field.type_name else SCALARS[field.type][0]
        return f"tuple[{kind}, ...]" if is_repeated(field) else kind

    def _parameters(self, rpc: Rpc) -> tuple[list[Parameter], list[Parameter]]:
        positional, named = [], []
        for field in self._names.messages[rpc.declared.input_type].field:
            if field.name in LEFT_OUT:
                continue
            said = self._names.comments[f"{rpc.declared.input_type}.{field.name}"]
            kind, default = self._argument(field)
            if self._is_required(rpc, field, said):
                told = said.removeprefix("Required.").strip()
                positional.append((field.name, kind.removesuffix(" | None"), "", told))
            else:
                concept = self._names.comments.get(field.type_name.removesuffix(".Value"), "")
                named.append((field.name, kind, default, SAID.get(field.name, said or concept)))
        return positional, named

    @staticmethod
    def _is_required(rpc: Rpc, field: FieldDescriptorProto, said: str) -> bool:
        named = f"{rpc.declared.name}.{field.name}" in REQUIRED
        return named or f"{{{field.name}}}" in rpc.path or said.startswith("Required.")

    def _argument(self, field: FieldDescriptorProto) -> tuple[str, str]:
        if field.type == FieldDescriptorProto.TYPE_ENUM:
            self._models.enum(field.type_name, asked=True)
            kind = f"models.{short(field.type_name)}Like"
        elif field.type_name == TIMESTAMP:
            kind = "datetime"
        else:
            kind = SCALARS[field.type][0]
        return (f"OneOrMany[{kind}]", "()") if is_repeated(field) else (f"{kind} | None", "None")

    def _body(self, rpc: Rpc, kind: str, *, awaited: bool) -> Iterator[str]:
        place = re.sub(r"\{(\w+)\}", r"{segment(\1)}", rpc.path)
        path = f'f"{place}"' if place != rpc.path else f'"{place}"'
        sent = [
            field.name
            for field in self._names.messages[rpc.declared.input_type].field
            if field.name not in LEFT_OUT and f"{{{field.name}}}" not in rpc.path
        ]
        named = "{" + ", ".join(f'"{name}": {name}' for name in sent) + "}"
        answer = f"models.{short(rpc.answer)}" if rpc.answer else "bytes"
        arguments = [f'"{rpc.verb}"', path, answer]
        if rpc.verb == "POST":
            arguments += [f"body={named}", "idempotency_key=idempotency_key"]
        elif sent:
            arguments.append(f"query={named}")
        call = f"Call({', '.join(arguments)})"
        asked = f"{'await ' if awaited else ''}self._ask({call})"
        fields = list(self._names.messages[rpc.answer].field) if rpc.answer else []
        match kind:
            case "watch":
                yield f"        return self._watch({call}, heartbeats=heartbeats)"
            case "bytes":
                yield f"        return self._read({call})"
            case "list":
                yield f"        return self._list({call}, lambda answer: answer.{fields[0].name})"
            case "unwrapped":
                yield f"        return ({asked}).{fields[0].name}"
            case _:
                secret = any(field.name == "secret" for field in fields)
                yield f"        return {f'given({asked})' if secret else asked}"


Parameter = tuple[str, str, str, str]

IDEMPOTENCY = "The same for every repetition of this call; the client makes one of its own when it is not given."
HEARTBEATS = "Hand over `Heartbeat` and `Ended` too, not only `Signal` and `Truncated`."
#: Where the contract speaks of HTTP, the client speaks of itself.
ABOUT = {
    "watch": "The signals as they come. Opened again by itself wherever it breaks off; `SignalStream` says how.",
    "ledger_export": "The ledger as one CSV file, oldest first, a piece at a time; an error where it breaks off.",
}
SAID = {
    "after": "Go on behind this cursor: a signal's, or the stream's. From now on when not given.",
    "page_size": "At most 500; 50 when not given, and 500 for a walk through all pages.",
}


def _is_list(fields: list[FieldDescriptorProto]) -> bool:
    return [is_repeated(field) for field in fields] == [True, False] and fields[1].name == "next_page_token"


def _in_our_words(said: str) -> str:
    """What the contract says of its methods, with the client's names for them."""
    return re.sub(r"`(\w+)`", lambda name: f"`{METHODS.get(name[1], name[1])}`", said)


def _wrapped(said: str, indent: int) -> str:
    """Paragraphs as they are, their lines as long as the file's may be."""
    pad = " " * indent
    paragraphs = [
        textwrap.fill(" ".join(paragraph.split()), WIDTH, initial_indent=pad, subsequent_indent=pad)
        for paragraph in said.split("\n\n")
    ]
    return "\n\n".join(paragraphs).strip()


def _text(said: str, indent: int) -> str:
    """A docstring, or the text behind a field; empty where nothing is said."""
    if not said:
        return ""
    if "\\" in said or '"""' in said:
        raise ValueError(f"cannot stand in a docstring: {said}")
    wrapped = _wrapped(said, indent)
    end = '"""' if "\n" not in wrapped and not wrapped.endswith('"') else "\n" + " " * indent + '"""'
    return f'{" " * indent}"""{wrapped}{end}'


def _documented(said: str, parameters: list[tuple[str, str]]) -> str:
    about = _wrapped(said, 8)
    if not parameters:
        return f'        """{about}"""'
    told = "\n".join(
        textwrap.fill(f"{name}: {' '.join(words.split())}", WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 12)
        for name, words in parameters
    )
    return f'        """{about}\n\n{told}\n        """'


def sources() -> dict[str, str]:
    """The generated files by name, formatted."""
    names = index(contracts().file)
    found = rpcs(names)
    models = Models(names)
    methods = Methods(names, models).source(found)
    for rpc in found:
        if rpc.answer:
            models.message(rpc.answer)
    for name in STREAMED:
        models.message(name)
    reasons = (
        HEADER.format(about="Why a call was refused, in one word.").replace(
            "from __future__",
            "# ruff: noqa: S105 - no passwords: what a call lacked, or had too much of\nfrom __future__",
        )
        + "from stratum_client.words import Word\n\n\n"
        + _enum(ERROR_REASON, names)
        + "\n"
    )
    made = {"models.py": models.source(), "operations.py": methods, "reasons.py": reasons}
    return {name: _formatted(text) for name, text in made.items()}


def _formatted(source: str) -> str:
    ruff = [sys.executable, "-m", "ruff", "format", "--config", str(ROOT / "pyproject.toml"), "-"]
    return subprocess.run(ruff, input=source, capture_output=True, text=True, check=True).stdout  # noqa: S603 - our own


def main() -> int:
    """Writes the files, or says whether they are current."""
    parser = argparse.ArgumentParser(description=__doc__)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--write", action="store_true", help="make the files")
    mode.add_argument("--check", action="store_true", help="say whether they are what the protos say")
    write = parser.parse_args().write
    stale = [name for name, text in sources().items() if not _is(PACKAGE / name, text)]
    if write:
        for name, text in sources().items():
            (PACKAGE / name).write_text(text)
    elif stale:
        print(f"{', '.join(stale)}: not what the protos say; run {sys.argv[0]} --write", file=sys.stderr)
    return 0 if write else len(stale)


def _is(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(main())
