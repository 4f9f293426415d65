# SPDX-License-Identifier: BSD-2-Clause
"""What is refused before any carrier is asked, and the shapes in which a call may be asked for."""

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
        "sip:a@b.test",
        "",
        "+1 415 555 0142",
    ],
)
async def test_what_is_no_number(office: Any, number: str) -> None:
    status, answer = await office.ask(to=number)
    assert (status, answer["code"]) == (400, "400")
    assert number == "" or number not in answer["error"]
    assert office.dials() == 0


async def test_a_number_that_no_prefix_allows(office: Any) -> None:
    status, answer = await office.ask(to="+882123456789")
    assert status == 403
    assert "dial_prefixes" in answer["error"]
    assert office.dials() == 0
    assert "+882123456789" not in [row["to_number"] for row in office.gateway.sessions()]


@pytest.mark.parametrize(
    "wanted",
    [
        {"to": None, "from": None, "to_number": TO, "from_number": FROM},
        {"to": None, "phone_number": TO},
        {"to": None, "from": None, "phone_number": TO},
        {"to": None, "from": None, "dialout_settings": [{"phoneNumber": TO, "callerId": FROM}]},
        {"to": None, "dialout_settings": {"phoneNumber": TO}},
        {"to_number": TO},
        {"name_nobody_knows": 1},
    ],
    ids=str,
)
async def test_the_shapes_of_the_guides(office: Any, wanted: dict[str, Any]) -> None:
    session, phone = await office.dial("telnyx", **wanted)
    assert (phone.call.body["to"], phone.call.body["from"]) == (TO, FROM)
    await phone.over("busy")
    await office.over(session)


@pytest.mark.parametrize(
    "wanted",
    [
        {"to": None},
        {"to_number": "+14155550143"},
        {"to": None, "dialout_settings": [{"phoneNumber": TO}, {"phoneNumber": TO}]},
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
async def test_what_makes_no_sense(office: Any, wanted: dict[str, Any]) -> None:
    status, answer = await office.ask(**{"carrier": "twilio", **wanted})
    assert (status, answer["code"]) == (400, "400"), answer
    assert office.dials() == 0


async def test_what_the_carrier_cannot_do(office: Any) -> None:
    status, answer = await office.ask("exotel", machine_detection="detect")
    assert (status, answer["code"]) == (422, "422")
    assert "machine" in answer["error"]
    status, answer = await office.ask("plivo", machine_detection="wait_for_end")
    assert status == 422


async def test_a_body_that_is_too_large(office: Any) -> None:
    status, _ = await office.ask(body="x" * 5000)
    assert status == 413


async def test_an_agent_that_is_not_there(office: Any) -> None:
    assert (await office.ask(agent="sales"))[0] == 404


async def test_without_a_key(office: Any) -> None:
    status, answer = await office.post("/v1/public/support/dialout", {"to": TO}, key="pk_none")
    assert (status, answer["code"]) == (401, "PCC-1002")


async def test_when_all_places_are_taken_nobody_is_called(office: Any) -> None:
    session, phone = await office.dial()
    status, answer = await office.ask()
    assert status == 429
    assert "PCC-AGENT-AT-CAPACITY" in answer["error"]
    assert office.dials() == 1
    await phone.over("busy")
    await office.over(session)
    session, phone = await office.dial()
    await phone.over("busy")
    await office.over(session)


async def test_the_same_key_calls_once(office: Any) -> None:
    answers = []
    for _ in range(2):
        answers.append(await office.ask(headers={"Idempotency_Key": "once"}))
    assert answers[0] == answers[1]
    assert office.dials() == 1
    status, _ = await office.ask(to="+14155550143", headers={"Idempotency_Key": "once"})
    assert status == 409
    await office.post(f"/v1/sessions/{answers[0][1]['sessionId']}/stop")
    await office.over(answers[0][1]["sessionId"])


async def test_a_request_that_is_given_up_does_not_end_its_call(office: Any) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", office.gateway.port)
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

    phone = await next_callee("twilio", office.servers["twilio"])
    session = office.gateway.sessions()[-1]["id"]
    await phone.over("busy")
    assert (await office.over(session))["reason"] == "busy"
