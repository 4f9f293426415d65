# SPDX-License-Identifier: BSD-2-Clause
"""A carrier's second socket that comes to another machine than the one that has the call."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent
from tests.harness.document_calls import DocumentCalls, Server, carrier_running
from tests.harness.gateway import Gateway
from tests.nodes.two_nodes import call_at, lines_of

CARRIERS = ("telnyx", "plivo")
"""Those that dial again by themselves."""


@pytest.fixture(params=CARRIERS)
def carrier(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def line(
    nodes: tuple[Gateway, Gateway], carrier_servers: dict[str, Server], carrier: str
) -> AsyncIterator[DocumentCalls]:
    async with carrier_running(nodes[0], carrier_servers, carrier) as documented:
        yield documented
        await nodes[1].callers_leave()


async def test_a_call_goes_on_whichever_machine_its_socket_comes_to(
    nodes: tuple[Gateway, Gateway], line: DocumentCalls, support: Agent
) -> None:
    """The agent has one place, and is never asked again. Each socket takes the place of one that is open."""
    east, west = nodes
    call = await call_at(east, line, support)
    for gateway in (west, east, west, west):
        await call.goes_on_at(gateway)
        await call.both_hear()
    await call.hangs_up()
    assert support.upgrades == 1
    await eventually(lambda: len(lines_of(west, "tunnel ended", call_id=call.placed.call_id)) == 3, "all end")
