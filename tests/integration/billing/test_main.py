"""The whole service as a process of its own: asked over gRPC, heard on the bus, told to stop, and silent on secrets."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import grpc.aio
from stratum.billing.v1 import access_service_pb2 as access
from stratum.billing.v1 import account_pb2, key_pb2
from stratum.billing.v1 import accounts_service_pb2 as accounts
from stratum.billing.v1 import billing_service_pb2 as billing
from stratum.billing.v1.access_service_pb2_grpc import AccessServiceStub
from stratum.billing.v1.accounts_service_pb2_grpc import AccountsServiceStub
from stratum.billing.v1.billing_service_pb2_grpc import BillingServiceStub

from deploy.local.process import free_port
from services.shared import api_keys
from services.shared.bus import ACCOUNTS, Bus
from services.shared.keyring import generated
from services.shared.testing import PRINCIPAL_KEYS, channel_to, eventually, stored

ROOT = Path(__file__).parents[3]


async def test_it_issues_a_key_ends_it_and_says_so(
    database_for: Any, bus: Bus, nats_server: Any, tmp_path: Path
) -> None:
    database, port, pepper = await database_for("billing"), free_port(), generated()
    (tmp_path / "peppers").write_text(pepper)
    with (tmp_path / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.billing",
            cwd=ROOT,
            stderr=log,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}",
                "STRATUM_DATABASE_URL": database.engine.url.render_as_string(hide_password=False),
                "STRATUM_NATS_URL": nats_server.url,
                "STRATUM_NATS_MONITOR_URL": nats_server.monitor_url,
                "STRATUM_PRINCIPAL_KEYS": PRINCIPAL_KEYS,
                "STRATUM_GRPC_PORT": str(port),
                "STRATUM_METRICS_PORT": str(free_port()),
                "API_KEY_PEPPERS_FILE": str(tmp_path / "peppers"),
            },
        )
    try:
        async with channel_to(port) as channel, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as outside:
            operator, table = AccountsServiceStub(channel), AccessServiceStub(channel)
            wanted = account_pb2.Account(name="Sharp & Sons", email="odds@sharp.example", api_access_enabled=True)
            made = await operator.CreateAccount(
                accounts.CreateAccountRequest(account=wanted), wait_for_ready=True, timeout=60.0
            )
            issued = await operator.IssueKey(
                accounts.IssueKeyRequest(account_id=made.account.id, name="first", mode=key_pb2.ApiKey.Mode.LIVE)
            )
            assert api_keys.is_well_formed(issued.secret)
            told = await BillingServiceStub(outside).ReportLeakedKey(
                billing.ReportLeakedKeyRequest(key=issued.secret), metadata=[("idempotency-key", "1")]
            )
            assert told.revoked
            (held,) = (await table.GetAccessTable(access.GetAccessTableRequest())).keys
            assert held.HasField("revoked_at")

            async def was_said() -> bool:
                return len(await stored(bus, ACCOUNTS)) == 4

            await eventually(was_said)
        process.terminate()
        async with asyncio.timeout(20.0):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    logged = (tmp_path / "log").read_text()
    assert "serving" in logged
    for secret in (issued.secret, pepper.partition(":")[2], PRINCIPAL_KEYS.partition(":")[2]):
        assert secret not in logged
