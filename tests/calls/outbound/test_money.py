# SPDX-License-Identifier: BSD-2-Clause
"""Transfers and dialled calls share one limit a minute, whatever they go to."""

from __future__ import annotations

from typing import Any

import pytest

from tests.harness.agent import Agent

DESK = "sip:desk@pbx.test"


@pytest.fixture(scope="module")
def tables() -> dict[str, Any]:
    return {"acme": {"dial_per_minute": 2}, "support": {"sessions_per_instance": 8}}


async def test_each_of_several_calls_is_one_of_a_minute_and_none_is_placed_without(outbound: Any) -> None:
    settings = [{"phoneNumber": "+14155550142"}] * 3
    status, answer = await outbound.request_call(to=None, dialout_settings=settings)
    assert (status, answer["code"]) == (429, "429")
    assert "2 calls out within a minute" in answer["error"]
    assert outbound.dial_count() == 0
    assert outbound.gateway.sessions() == []
    assert outbound.stored_keys("dial_ticket") == [], "they are given back"


async def test_a_transfer_to_a_sip_address_is_one_of_the_calls_of_a_minute(
    outbound: Any, support: Agent
) -> None:
    session, phone = await outbound.dial("telnyx")
    caller, opening = await phone.opens(outbound.gateway, await phone.answered())
    agent = await support.call()
    await agent.opening(opening)
    await outbound.wait_for_agent(session, phone)

    path = f"/v1/sessions/{session}/call/transfer"
    status, answer = await outbound.post(path, {"to": "sip:+882123456789@trunk.test"})
    assert (status, answer["error"]["code"]) == (403, "number_refused")
    assert phone.call.commands == []
    status, _ = await outbound.post(path, {"to": DESK})
    assert status == 200
    assert [(action, body["sip_address"]) for action, body in phone.call.commands] == [("refer", DESK)]
    status, answer = await outbound.request_call("telnyx")
    assert (status, answer["code"]) == (429, "429")
    assert "2 calls out within a minute" in answer["error"]
    await phone.over("completed")
    await caller.leave()
    await outbound.ended(session)
