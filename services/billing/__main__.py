"""Wiring only: settings, then adapters, then serve."""

from __future__ import annotations

from functools import partial

from stratum.billing.v1 import access_service_pb2, accounts_service_pb2, billing_service_pb2, metering_service_pb2
from stratum.billing.v1.access_service_pb2_grpc import add_AccessServiceServicer_to_server
from stratum.billing.v1.accounts_service_pb2_grpc import add_AccountsServiceServicer_to_server
from stratum.billing.v1.billing_service_pb2_grpc import add_BillingServiceServicer_to_server
from stratum.billing.v1.metering_service_pb2_grpc import add_MeteringServiceServicer_to_server

from services.billing.api import AccessApi, AccountsApi, BillingApi
from services.billing.changes import Changes
from services.billing.config import Config
from services.billing.events import AccountEvents
from services.billing.idempotency import Once
from services.billing.ledger import Ledger
from services.billing.metering import MeteringApi, Sealer, reachable_methods
from services.billing.tables import stage
from services.billing.turnover import tell_turns
from services.billing.usage_api import UsageApi
from services.shared.bus import ACCOUNTS, open_bus
from services.shared.clock import utc_now
from services.shared.database import open_database
from services.shared.logging import logger
from services.shared.outbox import Outbox
from services.shared.server import run, serve

log = logger(__name__)

SERVICES = [
    billing_service_pb2.DESCRIPTOR.services_by_name["BillingService"].full_name,
    accounts_service_pb2.DESCRIPTOR.services_by_name["AccountsService"].full_name,
    access_service_pb2.DESCRIPTOR.services_by_name["AccessService"].full_name,
    metering_service_pb2.DESCRIPTOR.services_by_name["MeteringService"].full_name,
]


async def main(config: Config) -> None:
    """Answers for accounts, keys and the access table, and says on the bus what happens to them, until told to stop."""
    async with open_database(config) as database, open_bus(config) as bus:
        if not config.pepper_ring:
            log.warning("no key can be made or found: API_KEY_PEPPERS is not set")
        events = AccountEvents(Outbox(database, bus, stage, ACCOUNTS))
        once = Once(database, events.committed)
        desk = Changes(events, config.pepper_ring, utc_now)
        ledger = Ledger(database, events, reachable_methods())
        usage = UsageApi(database)
        await serve(
            config,
            [
                partial(add_BillingServiceServicer_to_server, BillingApi(database, once, desk, usage)),
                partial(add_AccountsServiceServicer_to_server, AccountsApi(database, once, desk, usage)),
                partial(add_AccessServiceServicer_to_server, AccessApi(database)),
                partial(add_MeteringServiceServicer_to_server, MeteringApi(ledger)),
            ],
            SERVICES,
            background=[events.run(), Sealer(ledger).run(), tell_turns(database, events, utc_now)],
            ready=[database.check, bus.check_connected, bus.check_syncs_writes],
        )


if __name__ == "__main__":
    run(Config, main)
