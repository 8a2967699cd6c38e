"""What an operator is told when billing does not do what he asked."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc.aio
import pytest
from stratum.billing.v1 import accounts_service_pb2 as pb
from stratum.billing.v1.accounts_service_pb2_grpc import AccountsServiceServicer, add_AccountsServiceServicer_to_server
from stratum.common.v1.error_reason_pb2 import ErrorReason

from deploy.accounts import Accounts
from deploy.asking import AskingError
from services.shared.errors import Unavailable
from services.shared.principal import Guard
from services.shared.server import Interceptor
from services.shared.testing import RING


class WithoutPeppers(AccountsServiceServicer):
    """Makes no key."""

    async def IssueKey(self, _request: object, _context: object) -> pb.IssueKeyResponse:  # noqa: N802
        raise Unavailable(ErrorReason.UNAVAILABLE, "no key can be made: API_KEY_PEPPERS is not set")


@pytest.fixture
async def office() -> AsyncIterator[Accounts]:
    server = grpc.aio.server(interceptors=[Interceptor(10.0, Guard(RING))])
    add_AccountsServiceServicer_to_server(WithoutPeppers(), server)  # type: ignore[abstract]  # nothing else is asked
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with Accounts(f"127.0.0.1:{port}", RING) as office:
        yield office
    await server.stop(None)


async def test_what_billing_itself_says_is_told_as_it_says_it(office: Accounts) -> None:
    with pytest.raises(AskingError, match="API_KEY_PEPPERS is not set"):
        await office.issue(pb.IssueKeyRequest(account_id="acct_1"))


async def test_a_billing_that_is_not_there_is_named_with_its_address() -> None:
    async with Accounts("127.0.0.1:1", RING) as office:
        with pytest.raises(AskingError, match=r"does not answer at 127\.0\.0\.1:1\."):
            await office.keys("acct_1")
