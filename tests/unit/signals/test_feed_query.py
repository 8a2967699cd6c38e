"""What a caller reads, and our log with him, of a query that is wrong."""

import pytest

from services.shared.errors import InvalidArgument
from services.signals.over_http import asked


@pytest.mark.parametrize("query", ["a" * 15_000 + "=b", "tier=" + "a" * 15_000, "since=" + "a" * 15_000])
def test_little_of_what_is_wrong_is_told_back(query: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        asked(query.encode())
    assert "a" * 50 in error.value.message
    assert len(error.value.message) + sum(map(len, error.value.metadata.values())) < 500
