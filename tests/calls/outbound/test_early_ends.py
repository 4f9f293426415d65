# SPDX-License-Identifier: BSD-2-Clause
"""Calls out whose end the carrier reports before anything else, or before their socket is closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from tests.harness.agent import Agent
from tests.harness.call_assertions import assert_no_slots_taken
from tests.harness.callees import Callee
from tests.harness.rest_accounts import SERVERS

CARRIERS = tuple(SERVERS)


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_the_end_comes_before_the_answer_to_the_request_to_dial(outbound: Any, carrier: str) -> None:
    phones: list[Callee] = []

    async def ends_first(server: Any, _: web.Request, act: Callable[[], web.Response]) -> web.Response:
        before = len(server.calls)
        answer = act()
        phones.append(Callee(carrier, server, list(server.calls.values())[before]))
        await phones[0].over("busy")
        return answer

    outbound.servers[carrier].next("dial", ends_first)
    await outbound.request_call(carrier)
    session = outbound.gateway.sessions()[-1]["id"]
    assert (await outbound.ended(session))["reason"] == "busy"
    await phones[0].over("busy")  # repeated
    await phones[0].rings()  # and one that is late
    assert outbound.gateway.sessions(session)[0]["reason"] == "busy"
    await assert_no_slots_taken(outbound.gateway)


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_the_end_is_reported_and_the_socket_stays_open(
    outbound: Any, support: Agent, carrier: str
) -> None:
    session, phone = await outbound.dial(carrier)
    caller, _ = await phone.opens(outbound.gateway, await phone.answered())
    await support.call()
    await outbound.wait_for_agent(session, phone)
    await phone.over()
    assert (await outbound.ended(session))["reason"] == "caller_hangup"
    assert (await caller.closed())[0] == 1000
