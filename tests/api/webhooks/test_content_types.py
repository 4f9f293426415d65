# SPDX-License-Identifier: BSD-2-Clause
"""The content types of carriers' requests: those that a carrier documents are read, others are a clear 400.

The organisation has no accounts, so that nothing stands before the reading. With accounts the signature
decides first (test_status_callbacks.py).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from urllib.parse import urlencode

import aiohttp
import pytest

from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import assert_no_slots_taken
from tests.harness.document_calls import CARRIERS, opening_of_call, token_of
from tests.harness.gateway import Gateway

FORM = "application/x-www-form-urlencoded"
CALL_ID = {"plivo": "CallUUID"}
OVER = {
    "twilio": {"CallStatus": "completed"},
    "telnyx": {"CallStatus": "completed"},
    "plivo": {"CallStatus": "completed"},
    "exotel": {"Status": "completed", "EventType": "terminal"},
}
READ = {
    "twilio": ("form", "form with a charset", "json", "query"),
    "telnyx": ("form", "form with a charset", "json", "call control", "query"),
    "plivo": ("form", "form with a charset", "query"),
    "exotel": ("form", "form with a charset", "multipart", "json", "query"),
}
"""What each carrier sends (docs/reference/carriers.md §2.4, §3.4, §4.4, §5.3, §9.1)."""


@dataclass(frozen=True)
class Sent:
    """How fields are sent: the method, a query, the content type and the body."""

    method: str
    query: str
    content_type: str | None
    body: bytes


def as_sent(how: str, fields: dict[str, str]) -> Sent:
    match how:
        case "form":
            return Sent("POST", "", FORM, urlencode(fields).encode())
        case "form with a charset":
            return Sent(
                "POST",
                "",
                'Application/X-WWW-Form-Urlencoded ; charset="UTF-8"',
                urlencode(fields).encode(),
            )
        case "json":
            return Sent("POST", "", "application/json; charset=utf-8", json.dumps(fields).encode())
        case "multipart":
            parts = "".join(
                f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
                for name, value in fields.items()
            )
            return Sent("POST", "", "multipart/form-data; boundary=b", (parts + "--b--\r\n").encode())
        case "call control":
            payload = {"call_control_id": fields["CallSid"], "hangup_cause": "normal_clearing"}
            event = {"data": {"event_type": "call.hangup", "payload": payload}}
            return Sent("POST", "", "application/json", json.dumps(event).encode())
        case "query":
            return Sent("GET", f"?{urlencode(fields)}", None, b"")
    raise AssertionError(how)


UNREAD = (
    Sent("POST", "", "text/plain", b"CallStatus=completed"),
    Sent("POST", "", "application/xml", b"<CallStatus>completed</CallStatus>"),
    Sent("POST", "", "application/octet-stream", b"CallStatus=completed"),
    Sent("POST", "", None, b"CallStatus=completed"),
    Sent("POST", "", "application/json", b"{"),
    Sent("POST", "", "application/json", b"[]"),
    Sent("POST", "", "application/json", b"null"),
    Sent("POST", "", "multipart/form-data", b"CallStatus=completed"),
    Sent("POST", "", "multipart/form-data; boundary=b", b"--b"),
    Sent("POST", "", f"{FORM}; charset=utf-16", b"CallStatus=completed"),
    Sent("POST", "", FORM, b"CallStatus=%ff"),
    Sent("POST", "", FORM, b"CallStatus=%"),
    Sent("GET", "?CallStatus=%ff", None, b""),
)
"""What no carrier sends, or broken."""


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway], support_port: AgentPort) -> Gateway:
    agent = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    return start_gateway(
        server={"public_url": "https://voice.example.com"},
        agents=[agent | {"sessions_per_instance": 100}],
        numbers=[{"number": "+14155550199", "agent": "support.acme"}],
        limits={"close_timeout": 0.2},
    )


@pytest.fixture(autouse=True)
async def every_caller_leaves(gateway: Gateway) -> AsyncIterator[None]:
    yield
    await gateway.callers_leave()
    await assert_no_slots_taken(gateway)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def answer(http: aiohttp.ClientSession, gateway: Gateway, path: str, sent: Sent) -> tuple[int, str]:
    headers = {} if sent.content_type is None else {"Content-Type": sent.content_type}
    skipped = ["Content-Type"] if sent.content_type is None else []
    async with http.request(
        sent.method,
        f"{gateway.url}{path}{sent.query}",
        data=sent.body or None,
        headers=headers,
        skip_auto_headers=skipped,
    ) as reply:
        return reply.status, await reply.text()


CASES = [(carrier, how) for carrier in CARRIERS for how in READ[carrier]]
DOCUMENT_CASES = [case for case in CASES if case[1] != "call control" and case != ("twilio", "json")]


each_carrier = pytest.mark.parametrize("carrier", CARRIERS)


async def running_call(
    gateway: Gateway, http: aiohttp.ClientSession, support: Agent, carrier: str, call_id: str
) -> str:
    """A call by document; its session."""
    fields = {CALL_ID.get(carrier, "CallSid"): call_id}
    document = f"/xml/{carrier}?agent=support&org=acme"
    status, text = await answer(http, gateway, document, as_sent("form", fields))
    assert status == 200, text
    token = token_of(text.partition("wss://")[2].partition('"')[0].partition("<")[0].replace("&amp;", "&"))
    caller = await gateway.dial(f"/ws/{carrier}/support.acme/{token}")
    assert caller.status == 101, caller.body
    sent = [caller.say(message) for message in opening_of_call(carrier, call_id)]
    taken = await support.call()
    await taken.opening(sent)
    return taken.session


def moved(gateway: Gateway, session: str) -> list[str]:
    return [
        line["status"]
        for line in gateway.log_lines()
        if line["event"] == "call moved" and line["session"] == session
    ]


@pytest.mark.parametrize(("carrier", "how"), CASES)
async def test_a_status_callback_is_read_as_its_carrier_sends_it(
    gateway: Gateway, http: aiohttp.ClientSession, support: Agent, carrier: str, how: str
) -> None:
    call_id = f"call-{carrier}-{how.replace(' ', '-')}"
    session = await running_call(gateway, http, support, carrier, call_id)
    fields = {CALL_ID.get(carrier, "CallSid"): call_id, **OVER[carrier]}
    path = f"/callbacks/{carrier}/{session}/status"
    assert await answer(http, gateway, path, as_sent(how, fields)) == (200, "")
    assert await eventually(lambda: moved(gateway, session), "its status is logged") == ["completed"]
    await eventually(lambda: gateway.sessions(session)[0]["ended_at"], "the place is free")
    assert gateway.sessions(session)[0]["reason"] == "caller_hangup", "though its socket stays open"


@each_carrier
async def test_any_other_content_is_400_and_the_call_goes_on(
    gateway: Gateway, http: aiohttp.ClientSession, support: Agent, carrier: str
) -> None:
    session = await running_call(gateway, http, support, carrier, f"call-{carrier}")
    for what in ("status", "stream", "ring", "hangup", "machine", "answer", "transfer", "transferred"):
        for sent in UNREAD:
            status, text = await answer(http, gateway, f"/callbacks/{carrier}/{session}/{what}", sent)
            assert (status, json.loads(text)["code"]) == (400, "400"), (what, sent)
    assert moved(gateway, session) == []
    assert gateway.sessions(session)[0]["ended_at"] is None
    fields = {CALL_ID.get(carrier, "CallSid"): f"call-{carrier}", **OVER[carrier]}
    path = f"/callbacks/{carrier}/{session}/status"
    assert await answer(http, gateway, path, as_sent("form", fields)) == (200, "")
    await eventually(lambda: gateway.sessions(session)[0]["ended_at"], "the place is free")


@pytest.mark.parametrize(("carrier", "how"), DOCUMENT_CASES)
async def test_a_document_is_fetched_as_its_carrier_asks(
    gateway: Gateway, http: aiohttp.ClientSession, carrier: str, how: str
) -> None:
    fields = {CALL_ID.get(carrier, "CallSid"): "call-1", "To": "+14155550199", "From": "+14155550100"}
    status, text = await answer(http, gateway, f"/xml/{carrier}", as_sent(how, fields))
    assert status == 200, text
    assert "wss://voice.example.com/ws/" in text, "the called number has led to the agent"


@each_carrier
async def test_a_document_for_any_other_content_is_400_and_takes_no_place(
    gateway: Gateway, http: aiohttp.ClientSession, carrier: str
) -> None:
    before = len(gateway.sessions())
    for sent in UNREAD:
        status, text = await answer(http, gateway, f"/xml/{carrier}", sent)
        assert (status, json.loads(text)["code"]) == (400, "400"), sent
    assert len(gateway.sessions()) == before
