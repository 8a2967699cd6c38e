"""The five tables that every stage keeps in its service's schema."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Identity,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    func,
)


@dataclass(frozen=True, slots=True)
class StageTables:
    """Where a stage stands, what it remembers, what it sends, how far that is published, and what it could not read."""

    position: Table
    event_state: Table
    outbox: Table
    outbox_position: Table
    dead_letter: Table


def stage_tables(metadata: MetaData) -> StageTables:
    """Declares the five tables on a service's metadata, whose schema they get.

    A migration makes them with `services.shared.migrations.tables`.
    """
    return StageTables(
        position=Table(
            "position",
            metadata,
            Column("partition", SmallInteger, primary_key=True, autoincrement=False),
            Column("stream_identity", Text, nullable=False),
            Column("sequence", BigInteger, nullable=False),
        ),
        event_state=Table(
            "event_state",
            metadata,
            Column("event_id", Text, primary_key=True),
            Column("partition", SmallInteger, nullable=False),
            Column("applied_revision", BigInteger, nullable=False),
            Column("awaiting_keyframe", Boolean, nullable=False),
            Column("state", LargeBinary, nullable=False),
        ),
        outbox=Table(
            "outbox",
            metadata,
            Column("id", BigInteger, Identity(always=True), primary_key=True),
            Column("partition", SmallInteger, nullable=False),
            Column("event_id", Text, nullable=False),
            Column("message_id", Text, nullable=False),
            Column("payload", LargeBinary, nullable=False),
            #: Of a message whose trace is followed; between the commit and publishing it has nowhere else to be.
            Column("traceparent", Text),
        ),
        outbox_position=Table(
            "outbox_position",
            metadata,
            Column("partition", SmallInteger, primary_key=True, autoincrement=False),
            #: The stream that has been published to, and where it ended then.
            Column("stream_identity", Text, nullable=False),
            Column("sequence", BigInteger, nullable=False),
            #: Every row of the outbox up to this one is in that stream.
            Column("published_id", BigInteger, nullable=False),
        ),
        dead_letter=Table(
            "dead_letter",
            metadata,
            Column("stream_identity", Text, primary_key=True),
            Column("sequence", BigInteger, primary_key=True, autoincrement=False),
            Column("partition", SmallInteger, nullable=False),
            Column("event_id", Text, nullable=False),
            Column("reason", Text, nullable=False),
            Column("payload", LargeBinary, nullable=False),
            Column("noted_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
            #: When an operator was done with it, and what was done: null while it waits for one.
            Column("settled_at", DateTime(timezone=True)),
            Column("settlement", Text),
        ),
    )
