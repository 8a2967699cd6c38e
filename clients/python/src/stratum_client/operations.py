"""Every operation of the API as a method.

Made by clients/python/generate.py from the contracts. Not to be edited.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import datetime

from stratum_client import models
from stratum_client.asking import Asking, AsyncAsking
from stratum_client.calls import Call, OneOrMany, segment
from stratum_client.errors import given
from stratum_client.paging import AsyncListing, Listing
from stratum_client.streams import AsyncSignalStream, SignalStream


class Operations(Asking):
    """What a client can ask, and waits for."""

    def signals(
        self,
        *,
        sport_key: OneOrMany[str] = (),
        event_id: OneOrMany[str] = (),
        market: OneOrMany[str] = (),
        signal_type: OneOrMany[models.SignalTypeLike] = (),
        direction: OneOrMany[models.DirectionLike] = (),
        tier: OneOrMany[models.TierLike] = (),
        time_bucket: OneOrMany[models.TimeBucketLike] = (),
        book: OneOrMany[str] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        min_score: float | None = None,
        min_strength: int | None = None,
        velocity_gt: float | None = None,
        collapse: models.CollapseLike | None = None,
        order_by: models.OrderByLike | None = None,
        view: models.ViewLike | None = None,
        page_size: int | None = None,
    ) -> Listing[models.Signal]:
        """The feed. By score unless told otherwise; pages stay stable while new signals arrive.

        sport_key: The provider's key of a sport: basketball_nba, basketball_wnba, … Every list filter
            may be repeated; a signal passes when it matches one of them.
        event_id: The provider's id of a game.
        market: The provider's key of a market: h2h, spreads, totals, player_points, …
        signal_type: What kind of thing happened.
        direction: Toward which side the market moved; for a dislocation, the side that the book offers
            better than the others.
        tier: How much activity, by the composite score. Tiers rank activity, not value.
        time_bucket: How far away the start was when the signal completed. Never re-bucketed.
        book: Signals in which one of these books moved, or stands apart.
        since: Observed at or after.
        until: Observed before.
        min_score: Composite score at least this: 0..100.
        min_strength: Strength at least this: 0..100.
        velocity_gt: Velocity above this, per minute.
        collapse: What to fold together.
        order_by: How to order the feed.
        view: How much of each signal to give.
        page_size: At most 500; 50 when not given, and 500 for a walk through all pages.
        """
        return self._list(
            Call(
                "GET",
                "/api/v1/intel/signals",
                models.ListSignalsResponse,
                query={
                    "sport_key": sport_key,
                    "event_id": event_id,
                    "market": market,
                    "signal_type": signal_type,
                    "direction": direction,
                    "tier": tier,
                    "time_bucket": time_bucket,
                    "book": book,
                    "since": since,
                    "until": until,
                    "min_score": min_score,
                    "min_strength": min_strength,
                    "velocity_gt": velocity_gt,
                    "collapse": collapse,
                    "order_by": order_by,
                    "view": view,
                    "page_size": page_size,
                },
            ),
            lambda answer: answer.signals,
        )

    def signal(self, id: str) -> models.GetSignalResponse:
        """One signal in full, and who holds the old number now.

        id: From the feed.
        """
        return self._ask(Call("GET", f"/api/v1/intel/signals/{segment(id)}", models.GetSignalResponse))

    def explain(self, id: str) -> models.ExplainSignalResponse:
        """Why a signal was said: parts, inputs, rule and configuration.

        id: From the feed.
        """
        return self._ask(Call("GET", f"/api/v1/intel/signals/{segment(id)}/explain", models.ExplainSignalResponse))

    def watch(
        self,
        *,
        after: str | None = None,
        sport_key: OneOrMany[str] = (),
        event_id: OneOrMany[str] = (),
        market: OneOrMany[str] = (),
        signal_type: OneOrMany[models.SignalTypeLike] = (),
        tier: OneOrMany[models.TierLike] = (),
        min_score: float | None = None,
        view: models.ViewLike | None = None,
        direction: OneOrMany[models.DirectionLike] = (),
        book: OneOrMany[str] = (),
        heartbeats: bool = False,
    ) -> SignalStream:
        """The signals as they come. Opened again by itself wherever it breaks off; `SignalStream` says
        how.

        after: Go on behind this cursor: a signal's, or the stream's. From now on when not given.
        sport_key: The provider's key of a sport: basketball_nba, basketball_wnba, …
        event_id: The provider's id of a game.
        market: The provider's key of a market: h2h, spreads, totals, player_points, …
        signal_type: What kind of thing happened.
        tier: How much activity, by the composite score. Tiers rank activity, not value.
        min_score: Composite score at least this: 0..100.
        view: How much of each signal to give.
        direction: Toward which side the market moved; for a dislocation, the side that the book offers
            better than the others.
        book: Signals in which one of these books moved, or stands apart.
        heartbeats: Hand over `Heartbeat` and `Ended` too, not only `Signal` and `Truncated`.
        """
        return self._watch(
            Call(
                "GET",
                "/api/v1/intel/signals:watch",
                bytes,
                query={
                    "after": after,
                    "sport_key": sport_key,
                    "event_id": event_id,
                    "market": market,
                    "signal_type": signal_type,
                    "tier": tier,
                    "min_score": min_score,
                    "view": view,
                    "direction": direction,
                    "book": book,
                },
            ),
            heartbeats=heartbeats,
        )

    def suppressions(
        self,
        *,
        sport_key: OneOrMany[str] = (),
        event_id: OneOrMany[str] = (),
        market: OneOrMany[str] = (),
        signal_type: OneOrMany[models.SignalTypeLike] = (),
        reason: OneOrMany[str] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        page_size: int | None = None,
    ) -> Listing[models.Suppression]:
        """What met a trigger and was held back, newest first.

        sport_key: The provider's key of a sport: basketball_nba, basketball_wnba, …
        event_id: The provider's id of a game.
        market: The provider's key of a market: h2h, spreads, totals, player_points, …
        signal_type: What kind of thing happened.
        reason: Why it was held back: stale_feed, sparse_sampling, too_few_books, against, implausible,
            cooldown, cap.
        since: Last seen at or after.
        until: Last seen before.
        page_size: At most 500; 50 when not given, and 500 for a walk through all pages.
        """
        return self._list(
            Call(
                "GET",
                "/api/v1/intel/suppressions",
                models.ListSuppressionsResponse,
                query={
                    "sport_key": sport_key,
                    "event_id": event_id,
                    "market": market,
                    "signal_type": signal_type,
                    "reason": reason,
                    "since": since,
                    "until": until,
                    "page_size": page_size,
                },
            ),
            lambda answer: answer.suppressions,
        )

    def consensus(
        self,
        *,
        sport_key: OneOrMany[str] = (),
        event_id: OneOrMany[str] = (),
        market: OneOrMany[str] = (),
        page_size: int | None = None,
    ) -> Listing[models.Consensus]:
        """The newest consensus of each market.

        sport_key: The provider's key of a sport: basketball_nba, basketball_wnba, …
        event_id: The provider's id of a game.
        market: The provider's key of a market: h2h, spreads, totals, player_points, …
        page_size: At most 500; 50 when not given, and 500 for a walk through all pages.
        """
        return self._list(
            Call(
                "GET",
                "/api/v1/intel/consensus",
                models.ListConsensusResponse,
                query={"sport_key": sport_key, "event_id": event_id, "market": market, "page_size": page_size},
            ),
            lambda answer: answer.consensus,
        )

    def consensus_history(
        self,
        event_id: str,
        *,
        market: OneOrMany[str] = (),
        player: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        as_of: datetime | None = None,
        page_size: int | None = None,
    ) -> Listing[models.Consensus]:
        """How the consensus of an event came to be, oldest first; with `as_of`, only what was known then.

        event_id: The provider's id of a game.
        market: The provider's key of a market: h2h, spreads, totals, player_points, …
        player: The player, where the market is a prop.
        since: From this observation on.
        until: Up to and with this observation.
        as_of: Only what was known at this time: nothing observed later.
        page_size: At most 500; 50 when not given, and 500 for a walk through all pages.
        """
        return self._list(
            Call(
                "GET",
                "/api/v1/intel/consensus/history",
                models.ListConsensusHistoryResponse,
                query={
                    "event_id": event_id,
                    "market": market,
                    "player": player,
                    "since": since,
                    "until": until,
                    "as_of": as_of,
                    "page_size": page_size,
                },
            ),
            lambda answer: answer.consensus,
        )

    def games(
        self,
        *,
        sport_key: OneOrMany[str] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        page_size: int | None = None,
    ) -> Listing[models.Game]:
        """Games, soonest first.

        sport_key: The provider's key of a sport: basketball_nba, basketball_wnba, …
        since: Starts at or after. Without `since` and `until`: games that somebody quotes now or that
            have yet to begin.
        until: Starts before.
        page_size: At most 500; 50 when not given, and 500 for a walk through all pages.
        """
        return self._list(
            Call(
                "GET",
                "/api/v1/intel/games",
                models.ListGamesResponse,
                query={"sport_key": sport_key, "since": since, "until": until, "page_size": page_size},
            ),
            lambda answer: answer.games,
        )

    def game(
        self, event_id: str, *, market: OneOrMany[str] = (), since: datetime | None = None
    ) -> models.GetGameResponse:
        """One game: each book's current quotes with their ages, the consensus, and a series to draw.

        event_id: The provider's id of a game.
        market: Only these markets; all when empty.
        since: From this observation on; the whole history when not given.
        """
        return self._ask(
            Call(
                "GET",
                f"/api/v1/intel/games/{segment(event_id)}",
                models.GetGameResponse,
                query={"market": market, "since": since},
            )
        )

    def health(self, *, sport_key: OneOrMany[str] = ()) -> tuple[models.SportHealth, ...]:
        """How fresh the feed is, per sport and per book, and what to make of it: check it before trusting
        silence.

        sport_key: Only these sports; all when empty.
        """
        return (
            self._ask(Call("GET", "/api/v1/intel/health", models.GetFeedHealthResponse, query={"sport_key": sport_key}))
        ).sports

    def usage(self, *, at: datetime | None = None) -> models.UsageSummary:
        """What the account has used in a period, by key and day, and where that leads to by the period's
        end.

        at: The period that holds this moment; the present one when not given.
        """
        return (self._ask(Call("GET", "/api/v1/usage", models.GetUsageResponse, query={"at": at}))).usage

    def ledger(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        key_id: OneOrMany[str] = (),
        page_size: int | None = None,
    ) -> Listing[models.LedgerEntry]:
        """Every counted call, newest first: what the sums of `usage` are made of.

        since: Started at or after.
        until: Started before.
        key_id: Of one of these keys.
        page_size: At most 500; 50 when not given, and 500 for a walk through all pages.
        """
        return self._list(
            Call(
                "GET",
                "/api/v1/usage/ledger",
                models.ListUsageLedgerResponse,
                query={"since": since, "until": until, "key_id": key_id, "page_size": page_size},
            ),
            lambda answer: answer.entries,
        )

    def ledger_export(self, *, since: datetime | None = None, until: datetime | None = None) -> Iterator[bytes]:
        """The ledger as one CSV file, oldest first, a piece at a time; an error where it breaks off.

        since: Started at or after; the beginning of the present period when not given.
        until: Started before.
        """
        return self._read(Call("GET", "/api/v1/usage/ledger:export", bytes, query={"since": since, "until": until}))

    def quote(self, path: str) -> models.QuoteUsageResponse:
        """What a call would cost, without making it. Free.

        path: The path of a call, with or without its query: /api/v1/intel/signals?tier=HIGH.
        """
        return self._ask(Call("GET", "/api/v1/usage:quote", models.QuoteUsageResponse, query={"path": path}))

    def plan(self) -> models.PlanStatus:
        """The plan, its limits, and whether the account is in good standing."""
        return (self._ask(Call("GET", "/api/v1/plan", models.GetPlanResponse))).plan

    def keys(self) -> tuple[models.ApiKey, ...]:
        """The account's keys, newest first, without their secrets."""
        return (self._ask(Call("GET", "/api/v1/keys", models.ListOwnKeysResponse))).keys

    def rotate_key(
        self, key_id: str, overlap: str, *, idempotency_key: str | None = None
    ) -> models.RotateOwnKeyResponse:
        """Makes the successor of one of the account's keys, with the same rights, and lets the old one go
        on for a while.

        overlap: How long the old key goes on: 0s, 1h, 24h, 7d or 30d. Never beyond its own expiry.
        idempotency_key: The same for every repetition of this call; the client makes one of its own
            when it is not given.
        """
        return given(
            self._ask(
                Call(
                    "POST",
                    f"/api/v1/keys/{segment(key_id)}:rotate",
                    models.RotateOwnKeyResponse,
                    body={"overlap": overlap},
                    idempotency_key=idempotency_key,
                )
            )
        )

    def revoke_key(self, key_id: str, *, idempotency_key: str | None = None) -> models.ApiKey:
        """Ends one of the account's keys now.

        idempotency_key: The same for every repetition of this call; the client makes one of its own
            when it is not given.
        """
        return (
            self._ask(
                Call(
                    "POST",
                    f"/api/v1/keys/{segment(key_id)}:revoke",
                    models.RevokeOwnKeyResponse,
                    body={},
                    idempotency_key=idempotency_key,
                )
            )
        ).key

    def report_leaked_key(self, key: str, *, found_at: str | None = None, idempotency_key: str | None = None) -> bool:
        """Whoever finds a key where it should not be reports it here. It is revoked at once.

        key: The key as it was found.
        found_at: Where it was found.
        idempotency_key: The same for every repetition of this call; the client makes one of its own
            when it is not given.
        """
        return (
            self._ask(
                Call(
                    "POST",
                    "/api/v1/keys:reportLeak",
                    models.ReportLeakedKeyResponse,
                    body={"key": key, "found_at": found_at},
                    idempotency_key=idempotency_key,
                )
            )
        ).revoked


class AsyncOperations(AsyncAsking):
    """What a client can ask, to be awaited."""

    def signals(
        self,
        *,
        sport_key: OneOrMany[str] = (),
        event_id: OneOrMany[str] = (),
        market: OneOrMany[str] = (),
        signal_type: OneOrMany[models.SignalTypeLike] = (),
        direction: OneOrMany[models.DirectionLike] = (),
        tier: OneOrMany[models.TierLike] = (),
        time_bucket: OneOrMany[models.TimeBucketLike] = (),
        book: OneOrMany[str] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        min_score: float | None = None,
        min_strength: int | None = None,
        velocity_gt: float | None = None,
        collapse: models.CollapseLike | None = None,
        order_by: models.OrderByLike | None = None,
        view: models.ViewLike | None = None,
        page_size: int | None = None,
    ) -> AsyncListing[models.Signal]:
        """The feed. By score unless told otherwise; pages stay stable while new signals arrive.

        sport_key: The provider's key of a sport: basketball_nba, basketball_wnba, … Every list filter
            may be repeated; a signal passes when it matches one of them.
        event_id: The provider's id of a game.
        market: The provider's key of a market: h2h, spreads, totals, player_points, …
        signal_type: What kind of thing happened.
        direction: Toward which side the market moved; for a dislocation, the side that the book offers
            better than the others.
        tier: How much activity, by the composite score. Tiers rank activity, not value.
        time_bucket: How far away the start was when the signal completed. Never re-bucketed.
        book: Signals in which one of these books moved, or stands apart.
        since: Observed at or after.
        until: Observed before.
        min_score: Composite score at least this: 0..100.
        min_strength: Strength at least this: 0..100.
        velocity_gt: Velocity above this, per minute.
        collapse: What to fold together.
        order_by: How to order the feed.
        view: How much of each signal to give.
        page_size: At most 500; 50 when not given, and 500 for a walk through all pages.
        """
        return self._list(
            Call(
                "GET",
                "/api/v1/intel/signals",
                models.ListSignalsResponse,
                query={
                    "sport_key": sport_key,
                    "event_id": event_id,
                    "market": market,
                    "signal_type": signal_type,
                    "direction": direction,
                    "tier": tier,
                    "time_bucket": time_bucket,
                    "book": book,
                    "since": since,
                    "until": until,
                    "min_score": min_score,
                    "min_strength": min_strength,
                    "velocity_gt": velocity_gt,
                    "collapse": collapse,
                    "order_by": order_by,
                    "view": view,
                    "page_size": page_size,
                },
            ),
            lambda answer: answer.signals,
        )

    async def signal(self, id: str) -> models.GetSignalResponse:
        """One signal in full, and who holds the old number now.

        id: From the feed.
        """
        return await self._ask(Call("GET", f"/api/v1/intel/signals/{segment(id)}", models.GetSignalResponse))

    async def explain(self, id: str) -> models.ExplainSignalResponse:
        """Why a signal was said: parts, inputs, rule and configuration.

        id: From the feed.
        """
        return await self._ask(
            Call("GET", f"/api/v1/intel/signals/{segment(id)}/explain", models.ExplainSignalResponse)
        )

    def watch(
        self,
        *,
        after: str | None = None,
        sport_key: OneOrMany[str] = (),
        event_id: OneOrMany[str] = (),
        market: OneOrMany[str] = (),
        signal_type: OneOrMany[models.SignalTypeLike] = (),
        tier: OneOrMany[models.TierLike] = (),
        min_score: float | None = None,
        view: models.ViewLike | None = None,
        direction: OneOrMany[models.DirectionLike] = (),
        book: OneOrMany[str] = (),
        heartbeats: bool = False,
    ) -> AsyncSignalStream:
        """The signals as they come. Opened again by itself wherever it breaks off; `SignalStream` says
        how.

        after: Go on behind this cursor: a signal's, or the stream's. From now on when not given.
        sport_key: The provider's key of a sport: basketball_nba, basketball_wnba, …
        event_id: The provider's id of a game.
        market: The provider's key of a market: h2h, spreads, totals, player_points, …
        signal_type: What kind of thing happened.
        tier: How much activity, by the composite score. Tiers rank activity, not value.
        min_score: Composite score at least this: 0..100.
        view: How much of each signal to give.
        direction: Toward which side the market moved; for a dislocation, the side that the book offers
            better than the others.
        book: Signals in which one of these books moved, or stands apart.
        heartbeats: Hand over `Heartbeat` and `Ended` too, not only `Signal` and `Truncated`.
        """
        return self._watch(
            Call(
                "GET",
                "/api/v1/intel/signals:watch",
                bytes,
                query={
                    "after": after,
                    "sport_key": sport_key,
                    "event_id": event_id,
                    "market": market,
                    "signal_type": signal_type,
                    "tier": tier,
                    "min_score": min_score,
                    "view": view,
                    "direction": direction,
                    "book": book,
                },
            ),
            heartbeats=heartbeats,
        )

    def suppressions(
        self,
        *,
        sport_key: OneOrMany[str] = (),
        event_id: OneOrMany[str] = (),
        market: OneOrMany[str] = (),
        signal_type: OneOrMany[models.SignalTypeLike] = (),
        reason: OneOrMany[str] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        page_size: int | None = None,
    ) -> AsyncListing[models.Suppression]:
        """What met a trigger and was held back, newest first.

        sport_key: The provider's key of a sport: basketball_nba, basketball_wnba, …
        event_id: The provider's id of a game.
        market: The provider's key of a market: h2h, spreads, totals, player_points, …
        signal_type: What kind of thing happened.
        reason: Why it was held back: stale_feed, sparse_sampling, too_few_books, against, implausible,
            cooldown, cap.
        since: Last seen at or after.
        until: Last seen before.
        page_size: At most 500; 50 when not given, and 500 for a walk through all pages.
        """
        return self._list(
            Call(
                "GET",
                "/api/v1/intel/suppressions",
                models.ListSuppressionsResponse,
                query={
                    "sport_key": sport_key,
                    "event_id": event_id,
                    "market": market,
                    "signal_type": signal_type,
                    "reason": reason,
                    "since": since,
                    "until": until,
                    "page_size": page_size,
                },
            ),
            lambda answer: answer.suppressions,
        )

    def consensus(
        self,
        *,
        sport_key: OneOrMany[str] = (),
        event_id: OneOrMany[str] = (),
        market: OneOrMany[str] = (),
        page_size: int | None = None,
    ) -> AsyncListing[models.Consensus]:
        """The newest consensus of each market.

        sport_key: The provider's key of a sport: basketball_nba, basketball_wnba, …
        event_id: The provider's id of a game.
        market: The provider's key of a market: h2h, spreads, totals, player_points, …
        page_size: At most 500; 50 when not given, and 500 for a walk through all pages.
        """
        return self._list(
            Call(
                "GET",
                "/api/v1/intel/consensus",
                models.ListConsensusResponse,
                query={"sport_key": sport_key, "event_id": event_id, "market": market, "page_size": page_size},
            ),
            lambda answer: answer.consensus,
        )

    def consensus_history(
        self,
        event_id: str,
        *,
        market: OneOrMany[str] = (),
        player: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        as_of: datetime | None = None,
        page_size: int | None = None,
    ) -> AsyncListing[models.Consensus]:
        """How the consensus of an event came to be, oldest first; with `as_of`, only what was known then.

        event_id: The provider's id of a game.
        market: The provider's key of a market: h2h, spreads, totals, player_points, …
        player: The player, where the market is a prop.
        since: From this observation on.
        until: Up to and with this observation.
        as_of: Only what was known at this time: nothing observed later.
        page_size: At most 500; 50 when not given, and 500 for a walk through all pages.
        """
        return self._list(
            Call(
                "GET",
                "/api/v1/intel/consensus/history",
                models.ListConsensusHistoryResponse,
                query={
                    "event_id": event_id,
                    "market": market,
                    "player": player,
                    "since": since,
                    "until": until,
                    "as_of": as_of,
                    "page_size": page_size,
                },
            ),
            lambda answer: answer.consensus,
        )

    def games(
        self,
        *,
        sport_key: OneOrMany[str] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        page_size: int | None = None,
    ) -> AsyncListing[models.Game]:
        """Games, soonest first.

        sport_key: The provider's key of a sport: basketball_nba, basketball_wnba, …
        since: Starts at or after. Without `since` and `until`: games that somebody quotes now or that
            have yet to begin.
        until: Starts before.
        page_size: At most 500; 50 when not given, and 500 for a walk through all pages.
        """
        return self._list(
            Call(
                "GET",
                "/api/v1/intel/games",
                models.ListGamesResponse,
                query={"sport_key": sport_key, "since": since, "until": until, "page_size": page_size},
            ),
            lambda answer: answer.games,
        )

    async def game(
        self, event_id: str, *, market: OneOrMany[str] = (), since: datetime | None = None
    ) -> models.GetGameResponse:
        """One game: each book's current quotes with their ages, the consensus, and a series to draw.

        event_id: The provider's id of a game.
        market: Only these markets; all when empty.
        since: From this observation on; the whole history when not given.
        """
        return await self._ask(
            Call(
                "GET",
                f"/api/v1/intel/games/{segment(event_id)}",
                models.GetGameResponse,
                query={"market": market, "since": since},
            )
        )

    async def health(self, *, sport_key: OneOrMany[str] = ()) -> tuple[models.SportHealth, ...]:
        """How fresh the feed is, per sport and per book, and what to make of it: check it before trusting
        silence.

        sport_key: Only these sports; all when empty.
        """
        return (
            await self._ask(
                Call("GET", "/api/v1/intel/health", models.GetFeedHealthResponse, query={"sport_key": sport_key})
            )
        ).sports

    async def usage(self, *, at: datetime | None = None) -> models.UsageSummary:
        """What the account has used in a period, by key and day, and where that leads to by the period's
        end.

        at: The period that holds this moment; the present one when not given.
        """
        return (await self._ask(Call("GET", "/api/v1/usage", models.GetUsageResponse, query={"at": at}))).usage

    def ledger(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        key_id: OneOrMany[str] = (),
        page_size: int | None = None,
    ) -> AsyncListing[models.LedgerEntry]:
        """Every counted call, newest first: what the sums of `usage` are made of.

        since: Started at or after.
        until: Started before.
        key_id: Of one of these keys.
        page_size: At most 500; 50 when not given, and 500 for a walk through all pages.
        """
        return self._list(
            Call(
                "GET",
                "/api/v1/usage/ledger",
                models.ListUsageLedgerResponse,
                query={"since": since, "until": until, "key_id": key_id, "page_size": page_size},
            ),
            lambda answer: answer.entries,
        )

    def ledger_export(self, *, since: datetime | None = None, until: datetime | None = None) -> AsyncIterator[bytes]:
        """The ledger as one CSV file, oldest first, a piece at a time; an error where it breaks off.

        since: Started at or after; the beginning of the present period when not given.
        until: Started before.
        """
        return self._read(Call("GET", "/api/v1/usage/ledger:export", bytes, query={"since": since, "until": until}))

    async def quote(self, path: str) -> models.QuoteUsageResponse:
        """What a call would cost, without making it. Free.

        path: The path of a call, with or without its query: /api/v1/intel/signals?tier=HIGH.
        """
        return await self._ask(Call("GET", "/api/v1/usage:quote", models.QuoteUsageResponse, query={"path": path}))

    async def plan(self) -> models.PlanStatus:
        """The plan, its limits, and whether the account is in good standing."""
        return (await self._ask(Call("GET", "/api/v1/plan", models.GetPlanResponse))).plan

    async def keys(self) -> tuple[models.ApiKey, ...]:
        """The account's keys, newest first, without their secrets."""
        return (await self._ask(Call("GET", "/api/v1/keys", models.ListOwnKeysResponse))).keys

    async def rotate_key(
        self, key_id: str, overlap: str, *, idempotency_key: str | None = None
    ) -> models.RotateOwnKeyResponse:
        """Makes the successor of one of the account's keys, with the same rights, and lets the old one go
        on for a while.

        overlap: How long the old key goes on: 0s, 1h, 24h, 7d or 30d. Never beyond its own expiry.
        idempotency_key: The same for every repetition of this call; the client makes one of its own
            when it is not given.
        """
        return given(
            await self._ask(
                Call(
                    "POST",
                    f"/api/v1/keys/{segment(key_id)}:rotate",
                    models.RotateOwnKeyResponse,
                    body={"overlap": overlap},
                    idempotency_key=idempotency_key,
                )
            )
        )

    async def revoke_key(self, key_id: str, *, idempotency_key: str | None = None) -> models.ApiKey:
        """Ends one of the account's keys now.

        idempotency_key: The same for every repetition of this call; the client makes one of its own
            when it is not given.
        """
        return (
            await self._ask(
                Call(
                    "POST",
                    f"/api/v1/keys/{segment(key_id)}:revoke",
                    models.RevokeOwnKeyResponse,
                    body={},
                    idempotency_key=idempotency_key,
                )
            )
        ).key

    async def report_leaked_key(
        self, key: str, *, found_at: str | None = None, idempotency_key: str | None = None
    ) -> bool:
        """Whoever finds a key where it should not be reports it here. It is revoked at once.

        key: The key as it was found.
        found_at: Where it was found.
        idempotency_key: The same for every repetition of this call; the client makes one of its own
            when it is not given.
        """
        return (
            await self._ask(
                Call(
                    "POST",
                    "/api/v1/keys:reportLeak",
                    models.ReportLeakedKeyResponse,
                    body={"key": key, "found_at": found_at},
                    idempotency_key=idempotency_key,
                )
            )
        ).revoked
