# SPDX-License-Identifier: BSD-2-Clause
"""Requests that are refused before any carrier is asked, and the accepted forms of a request."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.harness.callees import next_callee

TO = "+14155550142"
FROM = "+14155550199"


@pytest.mark.parametrize(
    "number",
    [
        "4155550142",
        "+0155550142",
        "+1415",
        "+14155550142x",
        "+1415555014212345678",
        "sip:a@b@c.test",
        "sip:a@b.test<+14155550143",
        "tel:+14155550142",
        "",
        "+1 415 555 0142",
    ],
)
async def test_a_text_that_is_no_number_is_refused(outbound: Any, number: str) -> None:
    status, answer = await outbound.request_call(to=number)
    assert (status, answer["code"]) == (400, "400")
    assert number == "" or number not in answer["error"]
    assert outbound.dial_count() == 0


async def test_a_number_that_no_prefix_allows(outbound: Any) -> None:
    status, answer = await outbound.request_call(to="+882123456789")
    assert status == 403
    assert "dial_prefixes" in answer["error"]
    assert outbound.dial_count() == 0
    assert "+882123456789" not in [row["to_number"] for row in outbound.gateway.sessions()]


@pytest.mark.parametrize(
    "body",
    [
        {"to": None, "from": None, "to_number": TO, "from_number": FROM},
        {"to": None, "phone_number": TO},
        {"to": None, "from": None, "phone_number": TO},
        {"to": None, "from": None, "dialout_settings": [{"phoneNumber": TO, "callerId": FROM}]},
        {"to": None, "dialout_settings": {"phoneNumber": TO}},
        {"to": None, "from": None, "dialout_settings": {"phone_number": TO, "caller_id": FROM}},
        {"dialout_settings": [{"phone_number": TO, "phoneNumber": TO, "displayName": "Support"}]},
        {"dialout_settings": []},
        {"to_number": TO},
        {"name_nobody_knows": 1},
    ],
    ids=str,
)
async def test_the_shapes_of_the_guides(outbound: Any, body: dict[str, Any]) -> None:
    session, phone = await outbound.dial("telnyx", **body)
    assert (phone.call.body["to"], phone.call.body["from"]) == (TO, FROM)
    await phone.over("busy")
    await outbound.ended(session)


@pytest.mark.parametrize(
    "body",
    [
        {"to": None},
        {"to_number": "+14155550143"},
        {"to": None, "dialout_settings": [{"phoneNumber": TO, "phone_number": "+14155550143"}]},
        {"to": None, "dialout_settings": [{"phoneNumber": TO, "sipUri": "sip:desk@pbx.test"}]},
        {"dialout_settings": [{"phoneNumber": TO}, {"phoneNumber": "+14155550143"}]},
        {"to": None, "dialout_settings": [{"phoneNumber": TO}, {"callerId": FROM}]},
        {"to": None, "dialout_settings": [{"phoneNumber": TO}] * 51},
        {"carrier": None},
        {"carrier": "acme"},
        {"timeout_seconds": 4},
        {"timeout_seconds": 601},
        {"timeout_seconds": "60"},
        {"machine_detection": "perhaps"},
        {"to": 14155550142},
        {"from": "bob"},
        {"from": "+1415555019\n9"},
        {"from": "+1415555019٩"},
    ],
    ids=str,
)
async def test_an_invalid_request_is_refused(outbound: Any, body: dict[str, Any]) -> None:
    status, answer = await outbound.request_call(**{"carrier": "twilio", **body})
    assert (status, answer["code"]) == (400, "400"), answer
    assert outbound.dial_count() == 0


async def test_an_unsupported_feature_is_refused(outbound: Any) -> None:
    status, answer = await outbound.request_call("exotel", machine_detection="detect")
    assert (status, answer["code"]) == (422, "422")
    assert "machine" in answer["error"]
    status, answer = await outbound.request_call("plivo", machine_detection="wait_for_end")
    assert status == 422


async def test_a_body_that_is_too_large(outbound: Any) -> None:
    status, _ = await outbound.request_call(body="x" * 5000)
    assert status == 413


async def test_an_agent_that_is_not_there(outbound: Any) -> None:
    assert (await outbound.request_call(agent="sales"))[0] == 404


async def test_without_a_key(outbound: Any) -> None:
    status, answer = await outbound.post("/v1/public/support/dialout", {"to": TO}, key="pk_none")
    assert (status, answer["code"]) == (401, "PCC-1002")


async def test_no_number_is_called_without_a_free_slot(outbound: Any) -> None:
    session, phone = await outbound.dial()
    status, answer = await outbound.request_call()
    assert status == 429
    assert "PCC-AGENT-AT-CAPACITY" in answer["error"]
    assert outbound.dial_count() == 1
    await phone.over("busy")
    await outbound.ended(session)
    session, phone = await outbound.dial()
    await phone.over("busy")
    await outbound.ended(session)


async def test_the_same_key_calls_once(outbound: Any) -> None:
    answers = []
    for _ in range(2):
        answers.append(await outbound.request_call(headers={"Idempotency_Key": "once"}))
    assert answers[0] == answers[1]
    assert outbound.dial_count() == 1
    status, _ = await outbound.request_call(to="+14155550143", headers={"Idempotency_Key": "once"})
    assert status == 409
    await outbound.post(f"/v1/sessions/{answers[0][1]['sessionId']}/stop")
    await outbound.ended(answers[0][1]["sessionId"])


async def test_a_request_that_is_given_up_does_not_end_its_call(outbound: Any) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", outbound.gateway.port)
    body = b'{"carrier": "twilio", "to": "+14155550142", "from": "+14155550199"}'
    head = (
        "POST /v1/public/support/dialout HTTP/1.1\r\nHost: voice.test\r\nAuthorization: Bearer pk_acme\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    del reader

    phone = await next_callee("twilio", outbound.servers["twilio"])
    session = outbound.gateway.sessions()[-1]["id"]
    await phone.over("busy")
    assert (await outbound.ended(session))["reason"] == "busy"
