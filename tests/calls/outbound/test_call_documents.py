# SPDX-License-Identifier: BSD-2-Clause
"""What a carrier is answered that asks where an answered or a transferred call goes."""

from __future__ import annotations

import uuid
from typing import Any

from tests.harness.agent import Agent
from tests.harness.rest_server import read_document


def tags(text: str) -> list[str]:
    return [verb.tag for verb in read_document(text).verbs]


async def test_only_the_carrier_is_told_where_its_call_goes(office: Any) -> None:
    session, phone = await office.dial("plivo")
    plivo, url = phone.server, phone.call.body["answer_url"]
    fields = plivo.fields(phone.call, "StartApp", "in-progress")
    refused = await plivo.post(url, fields, signed=False)
    assert (refused.status, refused.json["code"]) == (403, "403")
    assert "/ws/plivo" not in refused.text
    told = await plivo.post(url, fields)
    assert (told.status, tags(told.text)) == (200, ["Stream", "Hangup"])
    await phone.over("busy")
    await office.over(session)
    late = await plivo.post(url, fields)
    assert (late.status, tags(late.text)) == (200, ["Hangup"])


async def test_a_call_that_nobody_knows(office: Any) -> None:
    session, phone = await office.dial("plivo")
    plivo, url = phone.server, phone.call.body["answer_url"]
    fields = plivo.fields(phone.call, "StartApp", "in-progress")
    await plivo.post(url, fields)
    other = await plivo.post(url, fields | {"CallUUID": str(uuid.uuid4())})
    assert other.status == 404
    unknown = await plivo.post(url.replace(session, str(uuid.uuid4())), fields)
    assert unknown.status == 404
    foreign = await office.servers["twilio"].post(url.replace("/plivo/", "/twilio/"), {"CallSid": "CA1"})
    assert foreign.status in (403, 404)
    assert (await plivo.post(url.replace("/plivo/", "/acme/"), fields)).status == 404
    await phone.over("busy")
    await office.over(session)


async def test_a_call_that_was_not_transferred_goes_nowhere(office: Any, support: Agent) -> None:
    session, phone = await office.dial("plivo")
    caller, said = await phone.opens(office.gateway, await phone.answered())
    agent = await support.call()
    await agent.opening(said)
    await office.streaming(session, phone)
    base = phone.call.body["answer_url"].removesuffix("/answer")
    fields = phone.server.fields(phone.call, "Redirect", "in-progress")
    for what in ("transfer", "transferred"):
        told = await phone.server.post(f"{base}/{what}", fields)
        assert (told.status, tags(told.text)) == (200, ["Hangup"])
    assert office.gateway.sessions(session)[0]["stop_requested_at"] is None
    caller.send(caller.close_frame(1000))
    await agent.closed()
    assert (await office.over(session))["reason"] == "caller_hangup"
