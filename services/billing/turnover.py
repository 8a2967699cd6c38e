"""The turn of periods: an account that nobody calls changes nothing, and yet begins a new period with nothing used."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import NoReturn

from sqlalchemy.exc import SQLAlchemyError

from services.billing import store
from services.billing.entitlements import unused
from services.billing.events import AccountEvents, Clock
from services.billing.model import Account
from services.shared.database import Database
from services.shared.logging import logger

log = logger(__name__)

LOOK_SECONDS = 5.0
#: So far back a process looks at its start. Saying it once more does no harm.
LOOKED_BACK = timedelta(days=1)


async def tell_turns(database: Database, events: AccountEvents, clock: Clock) -> NoReturn:
    """Looks every five seconds, for ever. What a look that failed should have found, the next one finds."""
    looked_until = clock() - LOOKED_BACK
    while True:
        now = clock()
        try:
            await tell_turned(database, events, looked_until, now)
            looked_until = now
        except SQLAlchemyError as error:
            log.warning("could not look for periods that begin", error=type(error).__name__)
        await asyncio.sleep(LOOK_SECONDS)


async def tell_turned(database: Database, events: AccountEvents, since: datetime, now: datetime) -> int:
    """Gives every account whose period began in between a new revision of the access table; how many."""
    async with database.begin() as connection:
        begun = [account.id for account in await store.every_account(connection) if _begins(account, since, now)]
        if not begun:
            return 0
        await store.lock_accounts(connection, begun)
        await events.changed(connection, begun)
    return len(begun)


def _begins(account: Account, since: datetime, now: datetime) -> bool:
    start = unused(account, now).period.start
    # The first period began with the account, or with its plan, which was told.
    return since < start <= now and start != account.period_anchor
