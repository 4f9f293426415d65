# SPDX-License-Identifier: BSD-2-Clause
"""The documents that a carrier fetches for an answered or a transferred call."""

from __future__ import annotations

import uuid
from typing import Any

from tests.harness.agent import Agent
from tests.harness.rest_server import read_document


def tags(text: str) -> list[str]:
    return [verb.tag for verb in read_document(text).verbs]


async def test_only_the_carrier_gets_the_document_of_its_call(outbound: Any) -> None:
    session, phone = await outbound.dial("plivo")
    plivo, url = phone.server, phone.call.body["answer_url"]
    fields = plivo.fields(phone.call, "StartApp", "in-progress")
    refused = await plivo.post(url, fields, signed=False)
    assert (refused.status, refused.json["code"]) == (403, "403")
    assert "/ws/plivo" not in refused.text
    answer = await plivo.post(url, fields)
    assert (answer.status, tags(answer.text)) == (200, ["Stream", "Hangup"])
    await phone.over("busy")
    await outbound.ended(session)
    late = await plivo.post(url, fields)
    assert (late.status, tags(late.text)) == (200, ["Hangup"])


async def test_an_unknown_call_gets_no_document(outbound: Any) -> None:
    session, phone = await outbound.dial("plivo")
    plivo, url = phone.server, phone.call.body["answer_url"]
    fields = plivo.fields(phone.call, "StartApp", "in-progress")
    await plivo.post(url, fields)
    other = await plivo.post(url, fields | {"CallUUID": str(uuid.uuid4())})
    assert other.status == 404
    unknown = await plivo.post(url.replace(session, str(uuid.uuid4())), fields)
    assert unknown.status == 404
    foreign = await outbound.servers["twilio"].post(url.replace("/plivo/", "/twilio/"), {"CallSid": "CA1"})
    assert foreign.status in (403, 404)
    assert (await plivo.post(url.replace("/plivo/", "/acme/"), fields)).status == 404
    await phone.over("busy")
    await outbound.ended(session)


async def test_a_call_that_was_not_transferred_goes_nowhere(outbound: Any, support: Agent) -> None:
    session, phone = await outbound.dial("plivo")
    caller, opening = await phone.opens(outbound.gateway, await phone.answered())
    agent = await support.call()
    await agent.opening(opening)
    await outbound.wait_for_agent(session, phone)
    base = phone.call.body["answer_url"].removesuffix("/answer")
    fields = phone.server.fields(phone.call, "Redirect", "in-progress")
    for what in ("transfer", "transferred"):
        answer = await phone.server.post(f"{base}/{what}", fields)
        assert (answer.status, tags(answer.text)) == (200, ["Hangup"])
    assert outbound.gateway.sessions(session)[0]["stop_requested_at"] is None
    caller.send(caller.close_frame(1000))
    await agent.closed()
    assert (await outbound.ended(session))["reason"] == "caller_hangup"
