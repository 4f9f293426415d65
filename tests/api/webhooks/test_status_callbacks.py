# SPDX-License-Identifier: BSD-2-Clause
"""Carriers' status callbacks: authenticated, answered and logged once, harmless when late or repeated."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest

from gateway.model.session_ids import ulid_of
from gateway.simulator.waiting import eventually
from tests.harness import rest_twilio
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import assert_no_slots_taken
from tests.harness.document_calls import PUBLIC, STREAM_HOST, DocumentCalls, Server, accounts
from tests.harness.gateway import Gateway
from tests.harness.rest_server import Answered

OVER = {
    "twilio": {"CallStatus": "completed", "SequenceNumber": "3"},
    "telnyx": {"CallStatus": "completed"},
    "plivo": {"CallStatus": "completed", "Event": "Hangup", "HangupCauseName": "Normal Hangup"},
    "exotel": {"Status": "completed", "EventType": "terminal"},
}
CALL_IDS = {"plivo": "CallUUID"}


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., Gateway], support_port: AgentPort, carrier_servers: dict[str, Server]
) -> Gateway:
    globex = [{"carrier": "twilio", "auth_tokens": ["globex-secret"]}]
    agent = {"instances": [support_port.url], "sessions_per_instance": 20}
    return start_gateway(
        server={"public_url": "https://voice.example.com"},
        organizations=[
            {"name": "acme", "carriers": accounts(carrier_servers)},
            {"name": "globex", "carriers": globex},
        ],
        agents=[{"name": "support", "organization": name, **agent} for name in ("acme", "globex")],
    )


@pytest.fixture(scope="module")
def open_gateway(start_gateway: Callable[..., Gateway], support_port: AgentPort) -> Gateway:
    """One whose organisation has no accounts."""
    agent = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    return start_gateway(
        server={"public_url": "https://voice.example.com"},
        agents=[agent | {"sessions_per_instance": 20}],
        limits={"close_timeout": 0.2},  # its agents never answer a close
    )


async def running(line: DocumentCalls, support: Agent) -> tuple[str, str]:
    """A call that runs: its session and its call id."""
    placed = await line.place()
    _, call = await line.stream(placed, support)
    return call.session, placed.call_id


async def tell(
    line: DocumentCalls,
    session: str,
    what: str,
    fields: dict[str, str],
    query: str = "",
    *,
    signed: bool = True,
) -> Answered:
    url = f"{PUBLIC}/callbacks/{line.carrier}/{session}/{what}{query}"
    if line.carrier == "exotel":
        base = line.url(f"/callbacks/exotel/{session}/{what}{query}", proven=signed)
        answered: Answered = await line.server.post(base, fields)
    else:
        answered = await line.server.post(url, fields, signed=signed)
    return answered


def naming(line: DocumentCalls, call_id: str) -> dict[str, str]:
    return {CALL_IDS.get(line.carrier, "CallSid"): call_id}


async def logged(line: DocumentCalls, event: str, session: str, count: int = 1) -> list[dict[str, Any]]:
    def lines() -> list[dict[str, Any]]:
        found = line.gateway.log_lines()
        mine = [one for one in found if (one["event"], one.get("session")) == (event, session)]
        return mine if len(mine) >= count else []

    found: list[dict[str, Any]] = await eventually(lines, f"{event} is logged")
    assert len(found) == count
    return found


async def test_a_repeated_callback_changes_the_status_once(line: DocumentCalls, support: Agent) -> None:
    session, call_id = await running(line, support)
    for _ in range(3):
        answered = await tell(line, session, "status", naming(line, call_id) | OVER[line.carrier])
        assert answered.status == 200, answered
    (moved,) = await logged(line, "call moved", session)
    assert moved["status"] == "completed"
    await logged(line, "callback is late", session, 2)


async def test_a_callback_may_name_the_session_in_its_other_spelling(
    line: DocumentCalls, support: Agent
) -> None:
    session, call_id = await running(line, support)
    fields = naming(line, call_id) | OVER[line.carrier]
    assert (await tell(line, ulid_of(session) or "", "status", fields)).status == 200
    await logged(line, "call moved", session)


async def test_callbacks_arrive_out_of_order(line: DocumentCalls, support: Agent) -> None:
    session, call_id = await running(line, support)
    ringing = {"exotel": {"EventType": "ringing", "Status": "ringing"}}.get(
        line.carrier, {"CallStatus": "ringing"}
    )
    await tell(line, session, "status", naming(line, call_id) | OVER[line.carrier])
    answered = await tell(line, session, "status", naming(line, call_id) | ringing)
    assert answered.status == 200
    (late,) = await logged(line, "callback is late", session)
    assert late["status"] == "ringing"


async def test_an_unsigned_callback_is_403(line: DocumentCalls, support: Agent) -> None:
    session, call_id = await running(line, support)
    fields = naming(line, call_id) | OVER[line.carrier]
    assert (await tell(line, session, "status", fields, signed=False)).status == 403
    assert not [
        one for one in line.gateway.log_lines() if one["event"] == "call moved" and one["session"] == session
    ]


async def test_a_callback_of_another_call_is_404(line: DocumentCalls, support: Agent) -> None:
    session, _ = await running(line, support)
    answered = await tell(line, session, "status", naming(line, "another") | OVER[line.carrier])
    assert answered.status == 404
    await logged(line, "callback for another call", session)


async def test_a_callback_after_the_session(line: DocumentCalls, support: Agent) -> None:
    session, call_id = await running(line, support)
    await line.gateway.callers_leave()
    await eventually(lambda: line.gateway.sessions(session)[0]["ended_at"], "it ends")
    answered = await tell(line, session, "status", naming(line, call_id) | OVER[line.carrier])
    assert answered.status == 200
    (moved,) = await logged(line, "call moved", session)
    assert moved["over"] is True


async def test_a_callback_without_a_session_is_404(line: DocumentCalls) -> None:
    session = str(uuid.uuid4())
    answered = await tell(line, session, "status", OVER[line.carrier], "?org=acme")
    assert answered.status == 404
    await logged(line, "callback for no call", session)
    assert (await tell(line, session, "status", OVER[line.carrier], "?org=acme", signed=False)).status == 403
    assert (await tell(line, "no-uuid", "status", OVER[line.carrier])).status in (403, 404)


async def test_another_organisations_callback_is_404(
    gateway: Gateway, line: DocumentCalls, support: Agent
) -> None:
    session, call_id = await running(line, support)
    fields = naming(line, call_id) | OVER[line.carrier]
    answered = await tell(line, session, "status", fields, "?org=globex")
    assert answered.status == 404, "it is acme's, and the URL says otherwise"
    if line.carrier == "twilio":
        body = urlencode(fields).encode()
        url = f"{PUBLIC}/callbacks/twilio/{session}/status"
        stranger = rest_twilio.RequestValidator("globex-secret").compute_signature(url, fields)
        headers = {"Content-Type": "application/x-www-form-urlencoded", "X-Twilio-Signature": stranger}
        assert (await line.server.send("POST", url, headers, body)).status == 403


async def test_a_callback_of_another_carrier_is_404(
    gateway: Gateway, line: DocumentCalls, carrier_servers: dict[str, Server], support: Agent
) -> None:
    session, call_id = await running(line, support)
    other = "plivo" if line.carrier != "plivo" else "telnyx"
    server = carrier_servers[other]
    server.via = line.server.via
    await server.start()
    try:
        answered = await tell(DocumentCalls(gateway, server, other), session, "status", {"CallSid": call_id})
    finally:
        await server.stop()
    assert answered.status == 404


async def test_an_unknown_kind_of_callback_is_404(line: DocumentCalls) -> None:
    assert (await tell(line, str(uuid.uuid4()), "anything", {})).status == 404


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo"], indirect=True)
async def test_the_document_requests_callbacks_of_its_stream(line: DocumentCalls, support: Agent) -> None:
    placed = await line.place()
    assert placed.document is not None
    attribute = "statusCallbackUrl" if line.carrier == "plivo" else "statusCallback"
    url = placed.document.stream[attribute]
    assert url.startswith(f"https://{STREAM_HOST}/callbacks/{line.carrier}/")
    session = url.split("/")[5]
    event = {"plivo": {"Event": "failed", "StatusReason": "no route"}}.get(
        line.carrier, {"StreamEvent": "stream-error", "StreamError": "31920"}
    )
    answered = await line.server.post(url, naming(line, placed.call_id) | event)
    assert answered.status == 404, "its handshake failed, so it never became a session"
    (failed,) = await logged(line, "stream failed", session)
    assert failed["words"] in ("no route", "31920")
    caller, call = await line.stream(placed, support)
    assert call.session == session, "the callbacks are the session's"
    started = {"plivo": {"Event": "StartStream"}}.get(line.carrier, {"StreamEvent": "stream-started"})
    assert (await line.server.post(url, naming(line, placed.call_id) | started)).status == 200
    await logged(line, "stream", session)
    await caller.hang_up()


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"CallStatus=completed&CallStatus=busy", "application/x-www-form-urlencoded", 400),
        (b"CallStatus=%ff", "application/x-www-form-urlencoded", 400),
        (b"CallStatus=completed", "multipart/form-data; boundary=b", 400),
        (
            201 * b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n' + b"--b--\r\n",
            "multipart/form-data; boundary=b",
            400,
        ),
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'{"data":{"event_type":7,"payload":{}}}', "application/json", 400),
        (b"x" * 33_000, "application/x-www-form-urlencoded", 413),
        (
            b"CallStatus=dancing&Timestamp=yesterday&SequenceNumber=9999999999999999999",
            "application/x-www-form-urlencoded",
            200,
        ),
    ],
)
async def test_a_malformed_callback_is_400(
    open_gateway: Gateway,
    carrier_servers: dict[str, Server],
    support: Agent,
    body: bytes,
    kind: str,
    status: int,
) -> None:
    """Of an organisation without accounts, so that nothing stands before the reading."""
    gateway = open_gateway
    server = carrier_servers["twilio"]
    server.via = f"http://127.0.0.1:{gateway.port}"
    await server.start()
    try:
        line = DocumentCalls(gateway, server, "twilio")
        session, _ = await running(line, support)
        url = f"{PUBLIC}/callbacks/twilio/{session}/status"
        answered = await server.send("POST", url, {"Content-Type": kind}, body)
        assert answered.status == status, answered
    finally:
        await gateway.callers_leave()
        await server.stop()
        await assert_no_slots_taken(gateway)


def multipart(fields: dict[str, str]) -> tuple[str, bytes]:
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    return "multipart/form-data; boundary=b", ("".join(parts) + "--b--\r\n").encode()


def json_text(fields: dict[str, str]) -> tuple[str, bytes]:
    legs = [{"OnCallDuration": 41, "Status": "failed"}]
    return "application/json", json.dumps(
        {**fields, "ConversationDuration": 41, "RecordingUrl": None, "Legs": legs}
    ).encode()


@pytest.mark.parametrize("carrier", ["exotel"], indirect=True)
@pytest.mark.parametrize("write", [multipart, json_text])
async def test_exotels_callback_is_read_as_multipart_form_and_as_json(
    line: DocumentCalls, support: Agent, write: Callable[[dict[str, str]], tuple[str, bytes]]
) -> None:
    session, call_id = await running(line, support)
    kind, body = write(naming(line, call_id) | OVER["exotel"])
    headers = {"Content-Type": kind}
    url = f"{PUBLIC}/callbacks/exotel/{session}/status"
    assert (await line.server.send("POST", url, headers, body)).status == 403
    headers |= line.server.upgrade_headers(line.url())
    answered = await line.server.send("POST", url, headers, body)
    assert answered.status == 200, answered
    (moved,) = await logged(line, "call moved", session)
    assert moved["status"] == "completed"


@pytest.mark.parametrize("carrier", ["twilio", "plivo"], indirect=True)
@pytest.mark.parametrize("write", [multipart, json_text])
async def test_a_signature_over_fields_covers_no_other_body(
    line: DocumentCalls, support: Agent, write: Callable[[dict[str, str]], tuple[str, bytes]]
) -> None:
    session, call_id = await running(line, support)
    kind, body = write(naming(line, call_id) | OVER[line.carrier])
    url = f"{PUBLIC}/callbacks/{line.carrier}/{session}/status"
    headers = line.server.upgrade_headers(url)  # a genuine signature of the same URL without a body
    answered = await line.server.send("POST", url, {**headers, "Content-Type": kind}, body)
    assert answered.status == 403, answered


@pytest.mark.parametrize("carrier", ["telnyx"], indirect=True)
@pytest.mark.parametrize(
    ("event", "payload", "status"),
    [
        ("call.answered", {}, "answered"),
        ("call.machine.detection.ended", {"result": "machine"}, "machine"),
        ("call.hangup", {"hangup_cause": "user_busy"}, "busy"),
        ("call.hangup", {"hangup_cause": "timeout"}, "no_answer"),
        ("call.hangup", {"hangup_cause": "unallocated_number"}, "failed"),
    ],
)
async def test_telnyx_sends_json(
    line: DocumentCalls, support: Agent, event: str, payload: dict[str, Any], status: str
) -> None:
    session, call_id = await running(line, support)
    said = {"data": {"event_type": event, "id": "1", "payload": {"call_control_id": call_id, **payload}}}
    url = f"{PUBLIC}/callbacks/telnyx/{session}/status"
    assert (await line.server.post_json(url, said, signed=False)).status == 403
    assert (await line.server.post_json(url, said)).status == 200
    (moved,) = await logged(line, "call moved", session)
    assert moved["status"] == status
    assert json.dumps(moved)
