"""Calls of every kind that the OpenAPI file allows, and many that it does not, against the whole stack.

`CASES_OF_EACH=200` makes so many of each operation; CI makes a few.
"""

import asyncio
import os

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import load_all_checks
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from deploy.accounts import Partner
from deploy.stack import Stack
from gateway.envoy import OPENAPI
from services.shared import contracts

pytestmark = pytest.mark.asyncio(loop_scope="module")

CASES = int(os.environ.get("CASES_OF_EACH", "8"))
SCHEMA = schemathesis.openapi.from_path(OPENAPI)
OPERATIONS = {found.ok().label: found.ok() for found in SCHEMA.get_all_operations()}
CHECKS = (status_code_conformance, content_type_conformance, response_schema_conformance)


def is_a_stream(label: str) -> bool:
    """Whether the answer goes on for as long as the caller wants."""
    verb, path = label.split()
    method = next(one for one in contracts.methods() if (one.verb, one.template) == (verb, path))
    return method.streaming


@pytest.mark.parametrize("label", OPERATIONS)
async def test_whatever_is_asked_is_answered_as_the_contract_says(stack: Stack, account: Partner, label: str) -> None:
    operation = OPERATIONS[label]
    load_all_checks()
    cases = st.one_of(operation.as_strategy(generation_mode=mode) for mode in GenerationMode)
    headers = {"Authorization": f"Bearer {account.key}"}
    counted: dict[int, int] = {}

    @settings(
        max_examples=CASES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def ask(case: schemathesis.Case) -> None:
        if is_a_stream(label):
            with httpx.Client(base_url=stack.gateway_url, timeout=10.0) as client:
                given_ = case.as_transport_kwargs(base_url=stack.gateway_url, headers=headers)
                with client.stream(
                    given_["method"], given_["url"], params=given_["params"], headers=given_["headers"]
                ) as answer:
                    status = answer.status_code
        else:
            response = case.call(base_url=stack.gateway_url, headers=headers)
            status = response.status_code
            case.validate_response(response, checks=CHECKS)
        counted[status] = counted.get(status, 0) + 1
        assert status < 500, case.as_curl_command()

    await asyncio.to_thread(ask)
    print(f"{label}: {sum(counted.values())} cases, by status {dict(sorted(counted.items()))}")
