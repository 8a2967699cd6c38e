"""What consensus answers: translate, ask the store, translate back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from stratum.common.v1.error_reason_pb2 import ErrorReason
from stratum.consensus.v1 import consensus_service_pb2 as pb
from stratum.consensus.v1.consensus_service_pb2_grpc import ConsensusServiceServicer
from stratum.consensus.v1.market_pb2 import MarketView

from services.consensus import wire
from services.consensus.board import BoardRules, priced
from services.consensus.events import load_state
from services.consensus.model import ConsensusRow, GameRow, MarketKey, QuotePoint
from services.consensus.store import ConsensusStore, CurrentMarket, GamePosition, HistoryPosition, MarketPosition
from services.shared import paging
from services.shared.asked import word, words, wrong
from services.shared.errors import NotFound

Position = TypeVar("Position")


class ConsensusApi(ConsensusServiceServicer):
    """The newest consensus, its history, games, and one game whole."""

    def __init__(self, store: ConsensusStore, rules: BoardRules) -> None:
        """`rules` are those by which the stage prices: what is stored is what prices are made of."""
        self._store = store
        self._rules = rules

    async def ListConsensus(self, request: pb.ListConsensusRequest, _context: object) -> pb.ListConsensusResponse:
        """The newest consensus of each market that somebody quotes, by event, market and player."""
        size, after = paging.page_size(request.page_size), _position(request, MarketPosition)
        found = await self._store.current_markets(
            words("sport_key", request.sport_key),
            words("event_id", request.event_id),
            words("market", request.market),
            after,
            limit=size + 1,
        )
        page = found[:size]
        last = page[-1] if len(found) > size else None
        return pb.ListConsensusResponse(
            consensus=[view.consensus for view in await self._views(page)],
            next_page_token=_token(request, last and MarketPosition(last.event_id, *last.key)),
        )

    async def ListConsensusHistory(
        self, request: pb.ListConsensusHistoryRequest, _context: object
    ) -> pb.ListConsensusHistoryResponse:
        """The consensus of an event as it was published, oldest first; nothing observed after `as_of`."""
        size, after = paging.page_size(request.page_size), _position(request, HistoryPosition)
        event_id, markets = word("event_id", request.event_id), words("market", request.market)
        player = word("player", request.player) if request.player else ""
        since, until, as_of = _moment(request, "since"), _moment(request, "until"), _moment(request, "as_of")
        await self._game(event_id)
        found = await self._store.history(
            event_id,
            markets,
            player,
            since,
            min((end for end in (until, as_of) if end is not None), default=None),
            after,
            limit=size + 1,
        )
        page = found[:size]
        last = page[-1] if len(found) > size else None
        return pb.ListConsensusHistoryResponse(
            consensus=[wire.consensus_of_row(row) for row in page],
            next_page_token=_token(request, last and HistoryPosition(last.observed_at, *last.key)),
        )

    async def ListGames(self, request: pb.ListGamesRequest, _context: object) -> pb.ListGamesResponse:
        """Games, soonest first; those without a readable start at the end."""
        size, after = paging.page_size(request.page_size), _position(request, GamePosition)
        found = await self._store.games(
            words("sport_key", request.sport_key),
            _moment(request, "since"),
            _moment(request, "until"),
            after,
            limit=size + 1,
        )
        page = found[:size]
        last = page[-1] if len(found) > size else None
        return pb.ListGamesResponse(
            games=[wire.game(row) for row in page],
            next_page_token=_token(request, last and GamePosition(last.commence_time, last.event_id)),
        )

    async def GetGame(self, request: pb.GetGameRequest, _context: object) -> pb.GetGameResponse:
        """One game: every market it has or had, each book's present quote, and how both came about."""
        event_id, markets = word("event_id", request.event_id), words("market", request.market)
        since = _moment(request, "since")
        game = await self._game(event_id)
        quoted = await self._store.current_markets((), [event_id], markets)
        views = {MarketKey(view.key.market, view.key.player): view for view in await self._views(quoted)}
        newest = {row.key: row for row in await self._store.newest(event_id, markets)}
        history: dict[MarketKey, list[ConsensusRow]] = defaultdict(list)
        for row in await self._store.history(event_id, markets, since=since):
            history[row.key].append(row)
        quotes: dict[MarketKey, dict[str, list[QuotePoint]]] = defaultdict(lambda: defaultdict(list))
        for point in await self._store.quotes(event_id, markets, since):
            quotes[point.key][point.book].append(point)
        return pb.GetGameResponse(
            game=wire.game(game),
            markets=[
                wire.game_market(key, views.get(key), newest[key], history[key], quotes[key], game.observed_at)
                for key in sorted(newest)
            ],
        )

    async def _views(self, quoted: Sequence[CurrentMarket]) -> list[MarketView]:
        """These markets whole, in their order; one that was left in the meantime is not among them."""
        sports = {market.event_id: market.sport_key for market in quoted}
        events = {
            event_id: priced(load_state(stored), sports[event_id], self._rules)
            for event_id, stored in (await self._store.states(sports)).items()
        }
        return [
            wire.market_view(market.event_id, market.sport_key, market.key, held)
            for market in quoted
            if market.event_id in events
            and (held := events[market.event_id].markets.get(market.key)) is not None
            and held.quotes
        ]

    async def _game(self, event_id: str) -> GameRow:
        game = await self._store.game(event_id)
        if game is None:
            raise NotFound(ErrorReason.EVENT_NOT_FOUND, f"no event {event_id}", event_id=event_id)
        return game


def _filters(request: Message) -> bytes:
    """Everything that was asked but the page."""
    asked = type(request)()
    asked.CopyFrom(request)
    for field in ("page_size", "page_token"):
        asked.ClearField(field)
    return asked.SerializeToString(deterministic=True)


def _position(request: Any, kind: type[Position]) -> Position | None:
    return paging.decode(request.page_token, _filters(request), kind) if request.page_token else None


def _token(request: Message, position: object | None) -> str:
    return "" if position is None else paging.encode(position, _filters(request))


def _moment(request: Any, field: str) -> datetime | None:
    if not request.HasField(field):
        return None
    stamp: Timestamp = getattr(request, field)
    try:
        return wire.moment(stamp)
    except OverflowError as error:
        raise wrong(field, "is no time of this era") from error
