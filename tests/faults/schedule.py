"""Which faults happen, to whom, in which order and how long: drawn from a seed and from nothing else. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

SERVICES = ("ingest", "consensus", "signals")
PROCESSES = (*SERVICES, "nats", "postgres")
#: Every way between two processes: who asks whom.
LINKS = (*(f"{service}-{server}" for service in SERVICES for server in ("nats", "postgres")), "ingest-provider")
#: The streams that a stage reads.
STREAMS = ("OBSERVATIONS", "MARKETS")

KILL = "kill -9"
CUT = "connections cut"
DELAY = "connections delayed"
SLOW = "connections slowed"
STALL = "connections stalled"
COMMIT_FAILED = "commit failed"
COMMIT_UNANSWERED = "commit kept, answer lost"
REPEATED = "messages delivered twice"
DISORDERED = "old messages after newer ones"
GARBAGE = "messages that cannot be read"
SECOND_WORKER = "second worker"
REMADE = "stream made anew"
FULL_STREAM = "stream full"
FULL_DISK = "disk full"
CLOCK = "clock moved"

TARGETS: Mapping[str, Sequence[str]] = {
    KILL: PROCESSES,
    CUT: LINKS,
    DELAY: LINKS,
    SLOW: LINKS,
    STALL: LINKS,
    COMMIT_FAILED: SERVICES,
    COMMIT_UNANSWERED: SERVICES,
    REPEATED: STREAMS,
    DISORDERED: STREAMS,
    GARBAGE: STREAMS,
    SECOND_WORKER: SERVICES,
    REMADE: (*STREAMS, "SIGNALS"),
    FULL_STREAM: STREAMS,
    FULL_DISK: ("nats", "postgres"),
    CLOCK: ("everybody",),
}
#: How often each kind is tried in a long run; each target is taken about as often as the others.
LONG: Mapping[str, int] = {
    KILL: 110,
    CUT: 14,
    DELAY: 7,
    SLOW: 7,
    STALL: 7,
    COMMIT_FAILED: 12,
    COMMIT_UNANSWERED: 9,
    REPEATED: 6,
    DISORDERED: 6,
    GARBAGE: 6,
    SECOND_WORKER: 6,
    REMADE: 9,
    FULL_STREAM: 4,
    FULL_DISK: 4,
    CLOCK: 6,
}
#: A long run in which fewer processes were killed has not been one.
LEAST_KILLS = 100
#: One or two of each.
SHORT: Mapping[str, int] = {**dict.fromkeys(LONG, 1), KILL: 5, REMADE: 2}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault as it was drawn."""

    kind: str
    target: str
    #: Before it, after the one before.
    pause_seconds: float
    #: How long it lasts, where it lasts.
    seconds: float
    #: Whatever else is left to chance in it.
    seed: int


def drawn(seed: int, counts: Mapping[str, int], longest_pause_seconds: float = 1.4) -> list[Fault]:
    """The faults of one run, in their order. The same seed and counts give the same faults."""
    random = Random(seed)
    faults: list[Fault] = []
    for kind, count in counts.items():
        targets = list(TARGETS[kind])
        random.shuffle(targets)
        faults.extend(
            Fault(
                kind,
                targets[number % len(targets)],
                pause_seconds=random.uniform(0.02, longest_pause_seconds),
                seconds=random.uniform(0.3, 2.0),
                seed=random.randrange(2**32),
            )
            for number in range(count)
        )
    random.shuffle(faults)
    return faults
