"""Who counts as a bookmaker: the provider's keys that are admitted, and what they used to be called. Pure.

This table decides, with what operators have decided since (`Decision`). A key that neither admits is quarantined: its
quotes are counted under its name, and no rule sees them.

A decision holds from a moment of event time on, and decisions take effect in the order in which they were made. So the
books of an observation follow from its time and the log alone: `books_at` gives them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType


def _keys(text: str) -> tuple[str, ...]:
    return tuple(text.split())


#: The regions the provider sells, each with its books. A book may sit in several; it is one book by its key.
BOOKS_BY_REGION = MappingProxyType(
    {
        "us": _keys(
            "betmgm betonlineag betrivers betus bovada draftkings fanatics fanduel lowvig mybookieag williamhill_us"
        ),
        "us2": _keys(
            "ballybet betanysports betparx espnbet fliff hardrockbet hardrockbet_az hardrockbet_fl hardrockbet_oh rebet"
        ),
        "us_dfs": _keys("betr_us_dfs pick6 prizepicks underdog"),
        "us_ex": _keys("betopenly kalshi novig polymarket prophetx"),
        "uk": _keys(
            "betfair_ex_uk betfair_sb_uk betfred_uk betvictor betway boylesports casumo coral grosvenor ladbrokes_uk "
            "leovegas livescorebet matchbook paddypower skybet smarkets sport888 unibet_uk virginbet williamhill"
        ),
        "eu": _keys(
            "betanysports betclic_fr betfair_ex_eu betonlineag betsson betvictor codere_it coolbet everygame gtbets "
            "leovegas_se marathonbet matchbook mybookieag nordicbet onexbet parionssport_fr pinnacle pmu_fr sport888 "
            "suprabets tipico_de unibet_fr unibet_it unibet_nl unibet_se williamhill winamax_de winamax_fr"
        ),
        "fr": _keys("betclic_fr netbet_fr parionssport_fr pmu_fr unibet_fr winamax_fr"),
        "se": _keys(
            "atg_se betinia_se betmgm_se betsson campobet_se expekt_se hajper_se leovegas_se mrgreen_se nordicbet "
            "sport888_se svenskaspel_se unibet_se"
        ),
        "au": _keys(
            "bet365_au betfair_ex_au betr_au betright dabble_au ladbrokes_au neds playup pointsbetau sportsbet tab "
            "tabtouch unibet"
        ),
    }
)

#: Books that closed or left the provider. Recorded seasons quote them, and they were real markets then.
RETIRED = frozenset(
    _keys("betfair circasports foxbet pointsbetus sisportsbook sugarhouse superbook twinspires unibet_us wynnbet")
)

#: A book that goes on under another key keeps one history: old key to present key.
RENAMED = MappingProxyType({"barstool": "espnbet", "betclic": "betclic_fr", "intertops": "everygame"})

CANONICAL = RETIRED.union(*BOOKS_BY_REGION.values())


def canonical_book(key: str) -> str | None:
    """The one key of a book, or None for a book that this table does not know."""
    present = RENAMED.get(key, key)
    return present if present in CANONICAL else None


@dataclass(frozen=True, slots=True)
class Books:
    """Who counts as a bookmaker at one moment: the table above, and what operators admitted to it."""

    #: The newest decision that is in force; 0 where the table stands alone.
    revision: int = 0
    #: Key to the key under which its quotes are kept: itself, or the book that it is another name of.
    admitted: Mapping[str, str] = field(default_factory=dict)

    def canonical(self, key: str) -> str | None:
        """The one key of a book, or None for a book that nobody has admitted."""
        return self.admitted.get(key) or canonical_book(key)


_TICK = timedelta(milliseconds=1)
#: The table alone, without anybody's decisions.
KNOWN = Books()


@dataclass(frozen=True, slots=True)
class Decision:
    """An operator's word on a key, from a moment on. `before` and `after` are canonical keys; empty is quarantined."""

    #: 1, 2, 3, … in the order in which they were made.
    revision: int
    book: str
    before: str
    after: str
    #: Observations at this time and later are read by it. Never earlier than that of the decision before.
    effective_from: datetime
    actor: str
    reason: str
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class AskedDecision:
    """What an operator asks to be decided about a key. Without a time it takes effect behind what was observed."""

    book: str
    actor: str
    reason: str
    effective_from: datetime | None = None


class DecisionRefused(ValueError):  # noqa: N818 - a turn of events, not a mistake of ours
    """The decision cannot be taken. The message says why, and what can be done."""


def books_at(decisions: Iterable[Decision], moment: datetime | None = None) -> Books:
    """The books by which an observation of that time is read; without one, those after every decision.

    `decisions` come in the order of their revisions.
    """
    revision, admitted = 0, dict[str, str]()
    for decision in decisions:
        if moment is not None and decision.effective_from > moment:
            break
        revision = decision.revision
        if decision.after:
            admitted[decision.book] = decision.after
        else:
            admitted.pop(decision.book, None)
    return Books(revision, admitted)


def decide_admission(decisions: Sequence[Decision], book: str, known_as: str) -> tuple[str, str]:
    """What admitting a key changes, as (before, after). `known_as` is the book it is a name of; empty: it is its own.

    Raises DecisionRefused.
    """
    books = books_at(decisions)
    if canonical_book(book) is not None:
        raise DecisionRefused(f"{book} is in the table of known books already: nothing has to be admitted")
    after = known_as or book
    if after != book and books.canonical(after) != after:
        present = books.canonical(after)
        hint = f"its present key is {present}" if present else "admit that one first, or choose a book that is known"
        raise DecisionRefused(f"{book} cannot be another name of {after}: {hint}")
    before = books.admitted.get(book, "")
    if before == after:
        raise DecisionRefused(f"{book} is admitted already, as {after}")
    if after != book:
        _refuse_where_named(books, book, "cannot become another name")
    return before, after


def decide_withdrawal(decisions: Sequence[Decision], book: str) -> tuple[str, str]:
    """What withdrawing a key changes, as (before, after): it is quarantined again. Raises DecisionRefused."""
    books = books_at(decisions)
    before = books.admitted.get(book)
    if before is None:
        where = "it is in the code's own table" if canonical_book(book) else "nobody has admitted it"
        raise DecisionRefused(f"{book} cannot be withdrawn: {where}")
    _refuse_where_named(books, book, "cannot be withdrawn")
    return before, ""


def effective_from(
    decisions: Sequence[Decision], asked: datetime | None, newest_observation: datetime | None, now: datetime
) -> datetime:
    """From when on the next decision holds: as asked, else behind whatever was observed, and never before the last one.

    Raises DecisionRefused.
    """
    last = decisions[-1].effective_from if decisions else None
    if asked is None:
        behind = now if newest_observation is None else newest_observation + _TICK
        return behind if last is None else max(behind, last)
    if last is not None and asked < last:
        raise DecisionRefused(
            f"decisions take effect in the order in which they are made, and the last one does from "
            f"{last.isoformat(timespec='milliseconds')} on: choose that time or a later one"
        )
    return asked


def _refuse_where_named(books: Books, book: str, what: str) -> None:
    names = sorted(name for name, after in books.admitted.items() if after == book and name != book)
    if names:
        raise DecisionRefused(f"{book} {what} while {', '.join(names)} is kept under it: withdraw that first")
