"""Names that a caller asked with."""

from __future__ import annotations

import pytest
from stratum.common.v1.error_reason_pb2 import ErrorReason

from services.shared import asked
from services.shared.errors import InvalidArgument


def test_names_are_taken_as_they_are_each_once_and_in_order() -> None:
    assert asked.words("market", ["totals", "h2h", "totals"]) == ("h2h", "totals")
    assert asked.word("book", " BetMGM ☂") == " BetMGM ☂"


@pytest.mark.parametrize(("value", "why"), [("", "market is empty"), ("h\0h", "market holds a character")])
def test_what_names_nothing_is_refused_with_its_field(value: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why) as refused:
        asked.words("market", ["h2h", value])
    assert (refused.value.reason, refused.value.metadata) == (ErrorReason.INVALID_ARGUMENT, {"field": "market"})
