"""What a client is given, what it shows of itself, and what it refuses to be asked."""

from datetime import UTC, datetime, timedelta, timezone

import httpx
import pytest
from stratum_client import Client, UnreadableAnswerError, UsageSeen
from stratum_client.calls import Call, segment
from stratum_client.remembered import Remembered
from stratum_client.seen import Limits, limits_of, usage_of

KEY = "stratum_live_4fKq9Zr1TtWm2Xc7Yb3Nd8Ps5Vg6Lh"


def test_a_client_shows_no_key() -> None:
    with Client(KEY) as client:
        assert repr(client) == "<Client http://127.0.0.1:8080, live key>"
        assert KEY[13:] not in f"{client!r} {client.signals()!r} {client.watch()!r} {client._http.headers!r}"


def test_key_and_address_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRATUM_API_KEY", "stratum_test_x")
    monkeypatch.setenv("STRATUM_URL", "https://stratum.example/")
    with Client() as client:
        assert repr(client) == "<Client https://stratum.example, test key>"


def test_no_key_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STRATUM_API_KEY", raising=False)
    with pytest.raises(ValueError, match="STRATUM_API_KEY"):
        Client()


@pytest.mark.parametrize("key", [f"{KEY}\n", f" {KEY}", f"Bearer {KEY}", f"{KEY}é"])
def test_a_key_with_something_pasted_along_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(ValueError, match="characters") as error:
        Client(key)
    assert KEY not in str(error.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://localhost", "http://[::1]:8080", "https://a.example/b/"])
def test_a_key_is_sent_to_this_machine_and_over_https(url: str) -> None:
    Client(KEY, url).close()


@pytest.mark.parametrize(
    "url",
    ["http://a.example", "http://10.0.0.1", "ftp://a.example", "a.example", "https://me:pw@a.example", "https://"],
)
def test_a_key_is_not_sent_where_it_could_be_read(url: str) -> None:
    with pytest.raises(ValueError, match=r"http|address"):
        Client(KEY, url)


def test_whoever_wants_http_to_another_machine_says_so() -> None:
    Client(KEY, "http://gateway:8080", insecure=True).close()


def test_one_value_or_several_and_moments_in_any_zone() -> None:
    local = datetime(2026, 11, 26, 13, 30, tzinfo=timezone(timedelta(hours=1)))
    query = {"tier": "HIGH", "book": ["a b", "c&d"], "since": local, "min_score": 60.5, "absent": None, "none": ()}
    assert Call("GET", "/p", bytes, query=query).request().target == (
        "/p?tier=HIGH&book=a%20b&book=c%26d&since=2026-11-26T12%3A30%3A00Z&min_score=60.5"
    )


def test_a_time_without_a_zone_is_refused_where_it_is_written() -> None:
    with Client(KEY) as client, pytest.raises(ValueError, match="zone"):
        client.signals(since=datetime(2026, 11, 26))  # noqa: DTZ001 - what is refused


@pytest.mark.parametrize("text", ["", ".", "..", "a/b"])
def test_an_id_cannot_make_another_path(text: str) -> None:
    with pytest.raises(ValueError, match="not an id"):
        segment(text)


def test_an_id_is_one_segment_whatever_it_holds() -> None:
    assert segment("a b?c#d:e%") == "a%20b%3Fc%23d%3Ae%25"


def pages_of(count: int) -> tuple[httpx.MockTransport, list[httpx.QueryParams]]:
    """A feed of so many signals, in pages; and what was asked of it."""
    asked: list[httpx.QueryParams] = []

    def answering(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.params)
        size = int(request.url.params.get("page_size", 50))
        begin = int(request.url.params.get("page_token", 0))
        signals = [
            {"id": str(number), "observed_at": "2026-11-26T12:00:00Z"}
            for number in range(begin, min(count, begin + size))
        ]
        more = begin + size < count
        return httpx.Response(200, json={"signals": signals, "next_page_token": str(begin + size) if more else ""})

    return httpx.MockTransport(answering), asked


def test_a_page_is_one_call() -> None:
    transport, asked = pages_of(120)
    with Client(KEY, transport=transport) as client:
        page = client.signals(tier="HIGH").page()
        assert (len(page), page.next_page_token, [signal.id for signal in page][:2]) == (50, "50", ["0", "1"])
        assert len(client.signals(tier="HIGH").page(page.next_page_token)) == 50
    assert [str(query) for query in asked] == ["tier=HIGH", "tier=HIGH&page_token=50"]


def test_nothing_is_asked_before_it_is_read() -> None:
    transport, asked = pages_of(1)
    with Client(KEY, transport=transport) as client:
        client.signals().all()
    assert asked == []


def test_a_walk_asks_for_the_largest_pages_and_goes_through_all() -> None:
    transport, asked = pages_of(1200)
    with Client(KEY, transport=transport) as client:
        assert [signal.id for signal in client.signals()] == [str(number) for number in range(1200)]
    assert [query["page_size"] for query in asked] == ["500", "500", "500"]


@pytest.mark.parametrize(("limit", "calls"), [(0, 0), (1, 1), (20, 1), (500, 1), (501, 2), (5000, 3)])
def test_a_walk_with_a_limit_asks_for_no_more_than_it_needs(limit: int, calls: int) -> None:
    transport, asked = pages_of(1200)
    with Client(KEY, transport=transport) as client:
        assert len(list(client.signals().all(limit=limit))) == min(limit, 1200)
    assert len(asked) == calls
    assert all(int(query["page_size"]) <= max(limit, 1) for query in asked)


def test_a_walk_keeps_to_the_size_that_was_asked_for() -> None:
    transport, asked = pages_of(25)
    with Client(KEY, transport=transport) as client:
        assert [len(page) for page in client.signals(page_size=10).pages()] == [10, 10, 5]
    assert {query["page_size"] for query in asked} == {"10"}


def test_a_walk_that_would_not_end_is_ended() -> None:
    def same_again(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"signals": [], "next_page_token": "again"})

    with Client(KEY, transport=httpx.MockTransport(same_again)) as client, pytest.raises(UnreadableAnswerError):
        list(client.signals())


def test_the_headers_are_read_as_numbers_and_moments() -> None:
    headers = httpx.Headers(
        {
            "X-RateLimit-Limit": "300",
            "X-RateLimit-Remaining": "12",
            "X-RateLimit-Reset": "58",
            "RateLimit-Policy": '"default";q=300;w=60',
            "X-Usage-Used": "10120",
            "X-Usage-Remaining": "0",
            "X-Usage-Overage": "120",
            "X-Usage-Period-End": "2026-12-01T00:00:00Z",
        }
    )
    assert limits_of(headers) == Limits(limit=300, remaining=12, reset_seconds=58, per_seconds=60)
    assert usage_of(headers) == UsageSeen(10120, 0, 120, datetime(2026, 12, 1, tzinfo=UTC))


@pytest.mark.parametrize("text", ["", "many", "-1", "3, 3;w=60", "1e9", "٣", "9" * 400])
def test_headers_that_cannot_be_read_are_as_if_they_were_not_there(text: str) -> None:
    headers = {"x-ratelimit-limit": text, "x-ratelimit-remaining": text, "x-usage-used": text}
    assert (limits_of(headers), usage_of(headers)) == (None, None)
    policy = {"x-ratelimit-limit": "5", "x-ratelimit-remaining": "1", "ratelimit-policy": text}
    assert limits_of(policy) == Limits(5, 1, 0, None)


def test_the_answers_used_last_are_kept() -> None:
    kept = Remembered(2)
    for name in "abc":
        kept.put(name, f'W/"{name}"', name, 1)
        kept.get("a")
    assert [name for name in "abc" if kept.get(name)] == ["a", "c"]


def test_no_more_bytes_are_kept_than_there_is_room_for() -> None:
    kept = Remembered(100, most_bytes=10)
    for name, size in (("a", 6), ("a", 4), ("b", 6), ("c", 1), ("d", 11)):
        kept.put(name, "tag", name, size)
    assert [name for name in "abcd" if kept.get(name)] == ["b", "c"]


def test_nothing_is_kept_without_a_tag_or_without_being_asked_to() -> None:
    kept = Remembered(1)
    kept.put("a", None, "a", 1)
    nothing = Remembered(0)
    nothing.put("a", "tag", "a", 1)
    assert kept.get("a") is nothing.get("a") is None
