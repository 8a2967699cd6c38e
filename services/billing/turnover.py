"""The turn of periods: an account that nobody calls changes nothing, and yet begins a new period with nothing used."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import NoReturn

from sqlalchemy.exc import SQLAlchemyError

from services.billing import store
from services.billing.changes import Clock
from services.billing.entitlements import unused
from services.billing.events import AccountEvents, access_changed
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
        accounts = await store.every_account(connection)
        begun = [
            account
            for account in accounts
            # The first period began with the account, which was told.
            if account.period_anchor != (start := unused(account, now).period.start) and since < start <= now
        ]
        if not begun:
            return 0
        revision = await store.next_revision(connection)
        await store.touch_accounts(connection, [account.id for account in begun], revision)
        await events.add(connection, [access_changed(account.id, revision, now) for account in begun])
    events.committed()
    return len(begun)
