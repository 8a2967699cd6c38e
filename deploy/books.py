"""What an operator sees of bookmakers' keys, and decides about them: asked of ingest, which keeps the log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp
from rich.table import Table
from stratum.ingest.v1 import ingest_service_pb2 as pb
from stratum.ingest.v1.ingest_service_pb2_grpc import IngestServiceStub

from deploy.asking import asked, shown, stamp
from services.shared import client
from services.shared.keyring import Keyring


async def listed(address: str, ring: Keyring) -> tuple[list[pb.QuarantinedBook], list[pb.BookDecision]]:
    """The keys in quarantine, and every decision, oldest first. Raises AskingError."""
    async with client.channel(address, "cli", ring) as channel:
        ingest = IngestServiceStub(channel)
        quarantined = await asked(ingest.ListQuarantinedBooks, pb.ListQuarantinedBooksRequest(), "ingest", address)
        decisions = await asked(ingest.ListBookDecisions, pb.ListBookDecisionsRequest(), "ingest", address)
    return list(quarantined.books), list(decisions.decisions)


async def admitted(
    address: str, ring: Keyring, book: str, known_as: str, reason: str, actor: str, effective_from: datetime | None
) -> pb.AdmitBookResponse:
    """The decision that admits a key. Raises AskingError."""
    request = pb.AdmitBookRequest(
        book=book, reason=reason, actor=actor, canonical_book=known_as, effective_from=_from(effective_from)
    )
    async with client.channel(address, "cli", ring) as channel:
        answer: pb.AdmitBookResponse = await asked(IngestServiceStub(channel).AdmitBook, request, "ingest", address)
    return answer


async def withdrawn(
    address: str, ring: Keyring, book: str, reason: str, actor: str, effective_from: datetime | None
) -> pb.WithdrawBookResponse:
    """The decision that puts a key back into quarantine. Raises AskingError."""
    request = pb.WithdrawBookRequest(book=book, reason=reason, actor=actor, effective_from=_from(effective_from))
    async with client.channel(address, "cli", ring) as channel:
        answer: pb.WithdrawBookResponse = await asked(
            IngestServiceStub(channel).WithdrawBook, request, "ingest", address
        )
    return answer


def quarantine(books: Iterable[pb.QuarantinedBook], decisions: Iterable[pb.BookDecision]) -> Table:
    """The keys that nobody has admitted, the busiest first."""
    kept = in_force(decisions)
    table = Table(title="in quarantine: counted, and used for nothing", title_justify="left")
    told = ("key", "title", "quotes", "first seen", "last seen", "sports", "markets", "from the others", "repeats")
    for heading in told:
        table.add_column(heading, justify="right" if heading == "quotes" else "left")
    for book in sorted(books, key=lambda one: (-one.quotes, one.book)):
        if book.book not in kept:
            first, last = shown(book.first_seen_at), shown(book.last_seen_at)
            names = (", ".join(book.sports), ", ".join(book.markets))
            compared = (_distance(book.comparison), _closest(book.comparison))
            table.add_row(book.book, book.title, f"{book.quotes:,}", first, last, *names, *compared)
    return table


def admissions(decisions: Iterable[pb.BookDecision]) -> Table:
    """The keys that were admitted and not withdrawn."""
    table = Table(title="admitted, beside the table of the code", title_justify="left")
    for heading in ("key", "kept as", "from", "by", "reason"):
        table.add_column(heading)
    for book, decision in sorted(in_force(decisions).items()):
        table.add_row(book, decision.after, shown(decision.effective_from), decision.actor, decision.reason)
    return table


def log(decisions: Iterable[pb.BookDecision]) -> Table:
    """Every decision, oldest first."""
    table = Table(title="decisions about books", title_justify="left")
    for heading in ("revision", "key", "before", "after", "from", "decided", "by", "reason"):
        table.add_column(heading, justify="right" if heading == "revision" else "left")
    for one in decisions:
        before, after = (word or "quarantined" for word in (one.before, one.after))
        moments = (shown(one.effective_from), shown(one.decided_at))
        table.add_row(str(one.revision), one.book, before, after, *moments, one.actor, one.reason)
    return table


def in_force(decisions: Iterable[pb.BookDecision]) -> Mapping[str, pb.BookDecision]:
    """Of each admitted key the decision that holds, or will from its time on."""
    newest = {decision.book: decision for decision in decisions}
    return {book: decision for book, decision in newest.items() if decision.after}


def sentences(answer: pb.AdmitBookResponse | pb.WithdrawBookResponse) -> list[str]:
    """What was decided, in words."""
    decision = answer.decision
    after = f"is kept as {decision.after}" if decision.after else "is quarantined"
    said = [
        f"Revision {decision.revision}: {decision.book} {after}, for observations from "
        f"{shown(decision.effective_from, 'milliseconds')} on."
    ]
    effective, newest = (stamp.ToNanoseconds() for stamp in (decision.effective_from, answer.newest_observation))
    if answer.HasField("newest_observation") and effective <= newest:
        said.append(
            f"What was observed up to {shown(answer.newest_observation)} was read without it and stays as it is."
        )
    return said


def _distance(comparison: pb.BookComparison) -> str:
    """How far its prices stand from the middle of the others, market by market."""
    parts = []
    if comparison.HasField("spread_points"):
        parts.append(f"spreads {comparison.spread_points:.3g} pt")
    if comparison.HasField("total_points"):
        parts.append(f"totals {comparison.total_points:.3g} pt")
    if comparison.HasField("h2h_probability"):
        parts.append(f"h2h {100.0 * comparison.h2h_probability:.2g} pp")
    return ", ".join(parts)


def _closest(comparison: pb.BookComparison) -> str:
    """The book that says the same most often."""
    if not comparison.HasField("closest_book"):
        return ""
    return f"{comparison.closest_book} {comparison.closest_share:.0%}"


def _from(moment: datetime | None) -> Timestamp | None:
    return None if moment is None else stamp(moment)
