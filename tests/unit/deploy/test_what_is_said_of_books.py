"""Decisions about bookmakers as an operator reads them."""

from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.table import Table
from stratum.ingest.v1 import ingest_service_pb2 as pb

from deploy import books

NOON = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)


def at(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def a_decision(revision: int, book: str, before: str, after: str, effective_from: datetime = NOON) -> pb.BookDecision:
    return pb.BookDecision(
        revision=revision,
        book=book,
        before=before,
        after=after,
        effective_from=at(effective_from),
        decided_at=at(NOON),
        actor="ann",
        reason="it is real",
    )


def shown(table: Table) -> str:
    console = Console(width=240)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_a_key_is_in_quarantine_until_it_is_admitted_and_after_it_is_withdrawn() -> None:
    seen = [
        pb.QuarantinedBook(book=key, title=key.title(), quotes=1234, first_seen_at=at(NOON), last_seen_at=at(NOON))
        for key in ("admitted", "withdrawn", "stranger")
    ]
    decisions = [
        a_decision(1, "admitted", "", "admitted"),
        a_decision(2, "withdrawn", "", "fanduel"),
        a_decision(3, "withdrawn", "fanduel", ""),
    ]
    quarantine, admitted = shown(books.quarantine(seen, decisions)), shown(books.admissions(decisions))
    assert "1,234" in quarantine
    assert all(key in quarantine for key in ("withdrawn", "stranger"))
    assert "Admitted" not in quarantine
    assert "admitted" in admitted
    assert "withdrawn" not in admitted
    assert all(word in shown(books.log(decisions)) for word in ("fanduel", "quarantined", "ann", "it is real"))


def test_how_a_key_compares_with_the_others_is_shown_beside_it() -> None:
    comparison = pb.BookComparison(
        spread_points=0.25, h2h_probability=0.0042, closest_book="lowvig", closest_share=0.99
    )
    book = pb.QuarantinedBook(book="stranger", comparison=comparison)
    row = shown(books.quarantine([book, pb.QuarantinedBook(book="silent")], []))
    assert "spreads 0.25 pt, h2h 0.42 pp" in row
    assert "lowvig 99%" in row
    assert "totals" not in row


def test_what_was_decided_is_said_with_its_moment() -> None:
    answer = pb.AdmitBookResponse(
        decision=a_decision(1, "newbook", "", "newbook", NOON + timedelta(milliseconds=1)), newest_observation=at(NOON)
    )
    assert books.sentences(answer) == [
        "Revision 1: newbook is kept as newbook, for observations from 2026-01-15T12:00:00.001Z on."
    ]


def test_a_decision_about_the_past_says_that_nothing_is_read_again() -> None:
    answer = pb.WithdrawBookResponse(
        decision=a_decision(2, "newbook", "newbook", "", NOON - timedelta(hours=1)), newest_observation=at(NOON)
    )
    said = books.sentences(answer)
    assert said[0].startswith("Revision 2: newbook is quarantined")
    assert said[1:] == ["What was observed up to 2026-01-15T12:00:00Z was read without it and stays as it is."]
