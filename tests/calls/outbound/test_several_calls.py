# SPDX-License-Identifier: BSD-2-Clause
"""Several calls in one request, each a session of its own, and calls to SIP addresses."""

from __future__ import annotations

from typing import Any

import pytest

from tests.harness.agent import Agent
from tests.harness.callees import Callee
from tests.harness.failing_server import fails

TO, OTHER, FORBIDDEN = "+14155550142", "+14155550143", "+882123456789"
DESK = "sip:desk@pbx.test"
PLACES = 4


@pytest.fixture(scope="module")
def tables() -> dict[str, Any]:
    return {"support": {"sessions_per_instance": PLACES + 1, "reserve_inbound": 1}}


async def request(outbound: Any, *settings: dict[str, Any], carrier: str = "twilio") -> tuple[int, Any]:
    status, answer = await outbound.request_call(
        carrier, **{"to": None, "from": None}, body={"campaign": "spring"}, dialout_settings=list(settings)
    )
    return status, answer


def phones(outbound: Any, before: int = 0) -> list[Callee]:
    server = outbound.servers["twilio"]
    return [Callee("twilio", server, call) for call in list(server.calls.values())[before:]]


async def all_over(outbound: Any) -> None:
    for phone in phones(outbound):
        await phone.over("busy")
    await outbound.all_slots_free()


async def test_each_call_is_a_session_of_its_own(outbound: Any, support: Agent) -> None:
    status, answer = await request(
        outbound, {"phoneNumber": TO}, {"phone_number": OTHER, "caller_id": "+14155550198"}, {"sipUri": DESK}
    )
    assert status == 200
    assert [call["status"] for call in answer["calls"]] == ["queued"] * 3
    assert {name: answer[name] for name in ("sessionId", "callId", "status")} == answer["calls"][0]
    called = {phone.call_id: phone for phone in phones(outbound)}
    assert [
        (called[call["callId"]].call.resource["to"], called[call["callId"]].call.resource["from"])
        for call in answer["calls"]
    ] == [(TO, "+14155550199"), (OTHER, "+14155550198"), (DESK, "+14155550199")]
    records = [outbound.gateway.sessions(call["sessionId"])[0] for call in answer["calls"]]
    assert [record["to_number"] for record in records] == [TO, OTHER, DESK]

    second = answer["calls"][1]
    phone = called[second["callId"]]
    caller, opening = await phone.opens(outbound.gateway, await phone.answered())
    call = await support.call()
    await call.opening(opening)
    assert call.session == second["sessionId"]
    caller.send(caller.close_frame(1000))
    await call.closed()
    await phone.over("completed")
    await all_over(outbound)


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ([{"phoneNumber": TO}, {"phoneNumber": FORBIDDEN}], 403),
        ([{"phoneNumber": TO}, {"sip_uri": f"sip:{FORBIDDEN}@trunk.test"}], 403),
        ([{"phoneNumber": TO}, {"phoneNumber": "4155550142"}], 400),
        ([{"phoneNumber": TO}, {}], 400),
        ([{"phoneNumber": TO}, {"phoneNumber": OTHER, "callerId": "bob"}], 400),
        ([{"phoneNumber": TO}] * (PLACES + 2), 429),
    ],
    ids=str,
)
async def test_nobody_is_called_if_one_may_not_be(
    outbound: Any, settings: list[dict[str, Any]], status: int
) -> None:
    before = len(outbound.gateway.sessions())
    assert (await request(outbound, *settings))[0] == status
    assert outbound.dial_count() == 0
    assert len(outbound.gateway.sessions()) == before, "nothing is left of it"


async def test_sessions_that_were_admitted_end_if_the_last_one_is_not(outbound: Any) -> None:
    """The last slot is reserved for inbound calls, which shows only when it is asked for."""
    before = {record["id"] for record in outbound.gateway.sessions()}
    status, _ = await request(outbound, *[{"phoneNumber": TO}] * (PLACES + 1))
    assert status == 429
    assert outbound.dial_count() == 0
    left = [record for record in outbound.gateway.sessions() if record["id"] not in before]
    assert [record["reason"] for record in left] == ["at_capacity"] * PLACES
    assert all(record["ended_at"] is not None for record in left)
    status, answer = await request(outbound, *[{"phoneNumber": TO}] * PLACES)
    assert (status, len(answer["calls"])) == (200, PLACES)
    await all_over(outbound)


async def test_one_of_several_that_the_carrier_refuses(outbound: Any) -> None:
    outbound.servers["twilio"].next("dial", fails(401))
    status, answer = await request(outbound, {"phoneNumber": TO}, {"phoneNumber": OTHER})
    assert status == 200
    assert sorted(call["status"] for call in answer["calls"]) == ["failed", "queued"]
    (failed,) = [call for call in answer["calls"] if call["status"] == "failed"]
    assert failed["error"]
    assert "+1415" not in failed["error"]
    assert (await outbound.ended(failed["sessionId"]))["reason"] == "carrier_refused"
    await all_over(outbound)


async def test_several_that_the_carrier_refuses_are_refused(outbound: Any) -> None:
    outbound.servers["twilio"].next("dial", fails(401), fails(401))
    status, answer = await request(outbound, {"phoneNumber": TO}, {"phoneNumber": OTHER})
    assert (status, answer["code"]) == (502, "carrier_refused")


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo"])
@pytest.mark.parametrize("name", ["sipUri", "sip_uri", "to"])
async def test_a_sip_address_is_called(outbound: Any, carrier: str, name: str) -> None:
    given = {"to": DESK} if name == "to" else {"to": None, "dialout_settings": {name: DESK}}
    session, phone = await outbound.dial(carrier, **given)
    dialled = phone.call.resource["to"] if carrier == "twilio" else phone.call.body["to"]
    assert dialled == DESK
    assert outbound.gateway.sessions(session)[0]["to_number"] == DESK
    await phone.over("busy")
    await outbound.ended(session)


async def test_exotel_calls_no_sip_address(outbound: Any) -> None:
    status, answer = await outbound.request_call("exotel", to=DESK)
    assert (status, answer["code"]) == (422, "422")
    assert "numbers alone" in answer["error"]


async def test_several_calls_are_placed_once_for_a_key(outbound: Any) -> None:
    body = {"carrier": "twilio", "dialout_settings": [{"phoneNumber": TO}, {"phoneNumber": OTHER}]}
    answers = [
        await outbound.post("/v1/public/support/dialout", body, "pk_acme", Idempotency_Key="several")
        for _ in range(2)
    ]
    assert answers[0] == answers[1]
    assert outbound.dial_count() == 2
    await all_over(outbound)
