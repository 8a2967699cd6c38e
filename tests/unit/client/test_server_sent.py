"""Events come out of the bytes whole, however they were cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stratum_client import UnreadableAnswerError
from stratum_client import server_sent as parsing
from stratum_client.server_sent import Block, Parser

from services.signals.api import server_sent
from services.signals.cursor import Cursor
from services.signals.feed import Beat, Ended, Opened, Truncated

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1, max_size=12)
IDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), min_size=1, max_size=12)
BLOCKS = st.builds(
    Block,
    event=TEXTS,
    data=st.lists(TEXTS, min_size=1, max_size=3).map("\n".join),
    id=st.none() | IDS,
    retry_milliseconds=st.none() | st.integers(0, 10**9 - 1),
)


def written(block: Block, end: str) -> str:
    lines = [f"event: {block.event}", *(f"data: {line}" for line in (block.data or "").split("\n"))]
    lines += [f"id: {block.id}"] if block.id is not None else []
    lines += [f"retry: {block.retry_milliseconds}"] if block.retry_milliseconds is not None else []
    return end.join([": a comment", *lines, "", ""])


def blocks_of(*pieces: bytes) -> list[Block]:
    parser = Parser()
    return [block for piece in pieces for block in parser.feed(piece)]


@given(st.lists(BLOCKS, max_size=5), st.sampled_from(["\n", "\r", "\r\n"]), st.data())
def test_events_are_the_same_however_the_bytes_are_cut(blocks: list[Block], end: str, data: st.DataObject) -> None:
    stream = "".join(written(block, end) for block in blocks).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    pieces = [stream[begin:until] for begin, until in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert blocks_of(*pieces) == blocks


def test_a_byte_at_a_time_is_enough() -> None:
    stream = '\ufeffid: 7\r\nevent: signal\r\ndata: {"team": "Nuggets –"}\r\n\r\n: hb\r\nid: 8\r\n\r\n'.encode()
    assert blocks_of(*(bytes([byte]) for byte in stream)) == [
        Block("signal", '{"team": "Nuggets –"}', "7", None),
        Block("message", None, "8", None),
    ]


def test_what_our_own_service_writes_is_understood() -> None:
    cursor = Cursor("31d5950d998f3852", 62)
    stream = b"".join(
        map(server_sent, (Opened(cursor), Truncated("retention", cursor), Beat(cursor), Ended("draining")))
    )
    assert blocks_of(stream) == [
        Block("message", None, str(cursor), 3000),
        Block("truncated", f'{{"reason":"retention","cursor":"{cursor}"}}', str(cursor), 3000),
        Block("message", None, str(cursor), None),
        Block("end", '{"reason":"draining"}', None, None),
    ]


def test_an_event_that_is_cut_off_is_none_and_does_not_move_the_place() -> None:
    assert blocks_of(b"id: 1\ndata: a\n\nid: 2\ndata: b\n") == [Block("message", "a", "1", None)]


def test_comments_and_unknown_fields_are_no_events() -> None:
    assert blocks_of(b": hb\n\nfuture: 1\n\nevent: x\n\nretry: soon\n\nid: a\0b\n\ndata\n\n") == []


@pytest.mark.parametrize("stream", [b"data: " + b"a" * 2000, b"data: aaaaaaa\n" * 200])
def test_an_event_without_end_is_refused(monkeypatch: pytest.MonkeyPatch, stream: bytes) -> None:
    monkeypatch.setattr(parsing, "MOST_CHARACTERS", 1000)
    with pytest.raises(UnreadableAnswerError):
        blocks_of(stream)
