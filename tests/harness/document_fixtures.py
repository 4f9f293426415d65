# SPDX-License-Identifier: BSD-2-Clause
"""Fixtures for tests in which each carrier fetches a document. A folder's conftest.py imports them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from tests.harness.agent import AgentPort
from tests.harness.call_assertions import assert_no_slots_taken
from tests.harness.document_calls import CARRIERS, DocumentCalls, Server, carrier_running, servers
from tests.harness.gateway import Gateway


@pytest.fixture(scope="module")
def carrier_servers(agent_port: Callable[[], AgentPort]) -> dict[str, Server]:
    """The REST servers of the four carriers, not started."""
    return servers(agent_port)


@pytest.fixture(params=CARRIERS)
def carrier(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def line(
    gateway: Gateway, carrier_servers: dict[str, Server], carrier: str
) -> AsyncIterator[DocumentCalls]:
    """The carrier's calls to the module's gateway; its REST server runs."""
    async with carrier_running(gateway, carrier_servers, carrier) as documented:
        yield documented
    await assert_no_slots_taken(gateway)  # or the next test's agent would be given a call of this one's
