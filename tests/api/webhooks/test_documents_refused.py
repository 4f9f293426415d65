# SPDX-License-Identifier: BSD-2-Clause
"""Requests for documents that fail: an HTTP error for bad input, a refusing document for the caller."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import assert_ended
from tests.harness.document_calls import PUBLIC, STREAM_HOST, DocumentCalls, Server, opening_of_call
from tests.harness.gateway import Gateway
from tests.harness.rest_server import Answered, Placed

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
SUPPORT = "agent=support&org=acme"


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway], support_port: AgentPort) -> Gateway:
    agent = {"organization": "acme", "instances": [support_port.url], "max_agents": 1}
    return start_gateway(
        server={"public_url": "https://voice.example.com"},
        organizations=[{"name": "acme", "forward_per_minute": 2}],
        agents=[
            {"name": "support", **agent},
            {"name": "speaking", "busy": "say All our agents are busy.", **agent},
            {"name": "forwarding", "busy": "+14155550177", **agent},
            {"name": "queueing", "busy": "queue", "max_returns": 2, **agent},
            {"name": "returning", "after": "redirect", "max_returns": 2, "max_resumes": 0, **agent},
            {"name": "locked", "websocket_auth": "token", **agent},
        ],
        limits={"close_timeout": 0.5},
    )


def twilio(test: Any) -> Any:
    return pytest.mark.parametrize("carrier", ["twilio"], indirect=True)(test)


async def post(line: DocumentCalls, query: str, body: bytes, headers: dict[str, str] = FORM) -> Answered:
    answered: Answered = await line.server.send("POST", f"{PUBLIC}/xml/twilio?{query}", headers, body)
    return answered


def verbs(placed: Placed) -> list[str]:
    assert placed.document is not None, placed.answered
    return [verb.tag for verb in placed.document.verbs]


def assert_sent_away(placed: Placed, status: int) -> None:
    """The call ends kindly; Exotel's flow goes on where its applet gets no document (texml/exotel.py)."""
    if placed.answered.status != 200:
        assert placed.answered.status == status
        assert placed.answered.json["error"]
    else:
        assert verbs(placed)[0] in ("Reject", "Hangup")


# Whose mistake it is: the operator's, in the URL


@twilio
@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("agent=support", "agent and org go together"),
        ("org=acme", "agent and org go together"),
        ("agent=support&agent=sales&org=acme", "agent is given twice"),
        ("agent=Support!&org=acme", "no names"),
        (f"{SUPPORT}&body=%%%", "not base64"),
        (f"{SUPPORT}&body=bm90anNvbg==", "not base64 of JSON"),
        (f"{SUPPORT}&body=e30=&body=e30=", "body is given twice"),
        (f"{SUPPORT}&return=many", "return is no small number"),
        (f"{SUPPORT}&return=-1", "return is no small number"),
        (f"{SUPPORT}&sample_rate=44100", "sample_rate is none of"),
        (f"{SUPPORT}&a=1&a=2", "custom parameter is given twice"),
        (f"{SUPPORT}&a=%ff", "not in UTF-8"),
        (f"{SUPPORT}&" + "&".join(f"p{number}=1" for number in range(60)), "more than 50 custom parameters"),
        (f"{SUPPORT}&" + "&".join(f"p{number}=1" for number in range(300)), "more than 200 fields"),
        (f"{SUPPORT}&serviceHost=sales.acme", "two agents are named"),
    ],
)
async def test_a_bad_url_is_400(line: DocumentCalls, query: str, detail: str) -> None:
    placed = await line.place(f"/xml/twilio?{query}", proven=False)
    assert placed.answered.status == 400
    assert detail in placed.answered.json["error"]


@twilio
async def test_a_body_that_is_too_long_is_413(line: DocumentCalls) -> None:
    body = quote(base64.b64encode(b'"' + b"x" * 4095 + b'"').decode())
    assert (await line.place(f"/xml/twilio?{SUPPORT}&body={body}")).answered.status == 413


# And the sender's, in the form


@twilio
@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"CallSid=CA1&CallSid=CA2", FORM, 400),
        (b"CallSid=CA1&From=%2B1&From=%2B2", FORM, 400),
        (b"CallSid=%ff", FORM, 400),
        (b"CallSid=%0a", FORM, 400),
        (b"CallSid=" + b"x" * 257, FORM, 400),
        (b"CallSid=\xff", FORM, 400),
        (b"CallSid=%zz", FORM, 400),
        (b"&".join(b"f%d=1" % number for number in range(1100)), FORM, 400),
        (b"CallSid=" + b"x" * 33_000, FORM, 413),
        (b'{"CallSid":"CA1"}', {"Content-Type": "application/json"}, 400),
        (b"CallSid=CA1", {"Content-Type": "application/x-www-form-urlencoded; charset=latin-1"}, 400),
        (b"CallSid=CA1", {"Content-Type": "multipart/form-data; boundary=x"}, 400),
    ],
)
async def test_a_bad_form(line: DocumentCalls, body: bytes, headers: dict[str, str], status: int) -> None:
    answered = await post(line, SUPPORT, body, headers)
    assert answered.status == status
    assert answered.json["error"]


@twilio
@pytest.mark.parametrize("number", ["%00%01", "x" * 300, "%7f"])
async def test_an_unprintable_number_is_omitted(line: DocumentCalls, number: str) -> None:
    answered = await post(line, SUPPORT, f"CallSid=CA1&From={number}&To=%2B14155550199".encode())
    assert answered.status == 200
    assert "from_number" not in answered.text
    assert "to_number" in answered.text


@twilio
async def test_numbers_are_escaped(line: DocumentCalls) -> None:
    answered = await post(line, SUPPORT, b"CallSid=CA1&From=%22%3E%3CHangup%2F%3E%26&To=sip%3Az%C3%B6e%40x")
    assert answered.status == 200
    assert "<Hangup/>" not in answered.text
    assert "&quot;&gt;&lt;Hangup/&gt;&amp;" in answered.text


async def test_no_such_carrier(gateway: Gateway) -> None:
    status, answer = gateway.get(f"/xml/vonage?{SUPPORT}")
    assert status == 404
    assert "exotel, plivo, telnyx, twilio" in answer["error"]


async def test_without_a_public_url_there_are_no_documents(start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway(agents=[{"name": "support", "organization": "acme"}])
    status, answer = gateway.get(f"/xml/twilio?{SUPPORT}")
    assert status == 404
    assert "public_url" in answer["error"]


# Documents that refuse a call


async def test_an_unknown_agent(line: DocumentCalls) -> None:
    assert_sent_away(await line.place(f"/xml/{line.carrier}?agent=nobody&org=acme"), 404)


async def test_an_unknown_number(line: DocumentCalls) -> None:
    assert_sent_away(await line.place(f"/xml/{line.carrier}", to="+15550000000"), 404)


async def test_no_token_is_given_to_an_unauthenticated_carrier(line: DocumentCalls) -> None:
    placed = await line.place(f"/xml/{line.carrier}?agent=locked&org=acme")
    assert placed.answered.status == 403


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo"], indirect=True)
@pytest.mark.parametrize(
    "query", ["customer=" + "x" * 700, "body=" + base64.b64encode(b'"' + b"x" * 4000 + b'"').decode()]
)
async def test_parameters_that_the_carrier_cannot_carry(line: DocumentCalls, query: str) -> None:
    """Twilio's and Plivo's limits; Telnyx has none that is known (docs/reference/carriers.md §2.4, §4.1,
    §4.4).
    """
    too_much = {"twilio": query.startswith("customer"), "plivo": True, "telnyx": False}[line.carrier]
    placed = await line.place(f"/xml/{line.carrier}?{SUPPORT}&{query}")
    assert placed.answered.status == 200
    assert bool(placed.document and placed.document.stream_url) is not too_much
    if too_much:
        assert_sent_away(placed, 422)


async def test_control_characters_in_a_parameter(line: DocumentCalls) -> None:
    placed = await line.place(f"/xml/{line.carrier}?{SUPPORT}&customer=a%01b", proven=False)
    if line.carrier != "exotel":
        assert_sent_away(placed, 422)
    else:  # they travel percent-encoded
        assert "%01" in placed.answered.text


async def full(line: DocumentCalls, support: Agent) -> None:
    """The one place is taken by somebody else's call; each agent has its own count, so take all."""
    for agent in ("support", "speaking", "queueing"):
        caller = await line.gateway.dial(f"/ws/generic/{agent}.acme")
        assert caller.status == 101
        await support.call()


async def test_at_capacity(line: DocumentCalls, support: Agent) -> None:
    await full(line, support)
    before = len(line.gateway.sessions())
    assert_sent_away(await line.place(), 429)
    assert len(line.gateway.sessions()) == before, "no place is held"
    placed = await line.place(f"/xml/{line.carrier}?agent=speaking&org=acme")
    if line.carrier == "exotel":
        assert placed.answered.status == 429
        assert placed.answered.headers["retry-after"] == "5"
    else:
        assert "All our agents are busy." in placed.answered.text
        assert verbs(placed)[-1] == "Hangup"

    def lines() -> list[dict[str, Any]]:
        return [one for one in line.gateway.log_lines() if one.get("call_id") == placed.call_id]

    if line.carrier != "exotel":
        (reply,) = await eventually(lines, "it is logged")
        assert (reply["what"], reply["reason"]) == ("refusal", "at_capacity")


@twilio
async def test_callers_are_sent_to_a_number_as_often_as_the_operator_allows(
    line: DocumentCalls, support: Agent
) -> None:
    caller = await line.gateway.dial("/ws/generic/forwarding.acme")
    await support.call()
    for expected in (["Dial", "Hangup"], ["Dial", "Hangup"], ["Reject"]):
        assert verbs(await line.place("/xml/twilio?agent=forwarding&org=acme")) == expected
    await caller.leave()


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo"], indirect=True)
async def test_a_queued_call_comes_back_until_its_time_is_over(line: DocumentCalls, support: Agent) -> None:
    await full(line, support)
    path = f"/xml/{line.carrier}?agent=queueing&org=acme&customer=7"
    for returns in (1, 2, 3):
        placed = await line.place(path)
        back = [verb for verb in placed.document.verbs if verb.tag == "Redirect"]
        assert [verb.text.startswith(f"https://{STREAM_HOST}/xml/{line.carrier}?") for verb in back] == [True]
        parts = urlsplit(back[0].text)
        assert parts.query.endswith(f"return={returns}")
        assert "customer=7" in parts.query
        path = f"{parts.path}?{parts.query}"
    assert verbs(await line.place(path)) == ["Hangup"], "it came back more often than it may"


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo"], indirect=True)
async def test_a_queued_call_gets_a_stream_when_a_slot_is_free(line: DocumentCalls, support: Agent) -> None:
    caller = await line.gateway.dial("/ws/generic/queueing.acme")
    call = await support.call()
    placed = await line.place(f"/xml/{line.carrier}?agent=queueing&org=acme")
    (back,) = [verb.text for verb in placed.document.verbs if verb.tag == "Redirect"]
    await caller.hang_up()
    await assert_ended(line.gateway, call.session, "caller_hangup", "caller")
    parts = urlsplit(back)
    assert (await line.place(f"{parts.path}?{parts.query}")).stream_url


# Calls that come back


def back_of(placed: Placed) -> str:
    """Where the document's Redirect goes."""
    assert placed.document is not None
    (redirect,) = [verb for verb in placed.document.after if verb.tag == "Redirect"]
    parts = urlsplit(redirect.text or "")
    assert parts.netloc == STREAM_HOST
    return f"{parts.path}?{parts.query}"


async def comes_back(line: DocumentCalls, placed: Placed, path: str) -> Placed:
    """The same call asks again, as its document said."""
    name = "CallUUID" if line.carrier == "plivo" else "CallSid"
    how = {"method": "POST"} if line.carrier == "telnyx" else {}
    again = await line.place(path, **{name: placed.call_id}, **how)
    return Placed(placed.call_id, again.answered, again.document, again.fields)


RETURNING = pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo"], indirect=True)


@RETURNING
async def test_a_call_whose_agent_ended_it_is_over(line: DocumentCalls, support: Agent) -> None:
    placed = await line.place(f"/xml/{line.carrier}?agent=returning&org=acme")
    caller, call = await line.stream(placed, support)
    call.send(call.close_frame(1000))
    assert (await caller.closed())[0] == 1000
    again = await comes_back(line, placed, back_of(placed))
    assert verbs(again) == ["Hangup"]
    await assert_ended(line.gateway, call.session, "agent_ended", "agent")


@RETURNING
async def test_a_call_whose_agent_failed_gets_another_stream(line: DocumentCalls, support: Agent) -> None:
    placed = await line.place(f"/xml/{line.carrier}?agent=returning&org=acme")
    first = placed
    for _ in range(2):
        caller, call = await line.stream(placed, support)
        call.reset()
        await caller.closed()
        again = await comes_back(line, first, back_of(placed))
        await assert_ended(line.gateway, call.session, "agent_lost", "agent")
        placed = again
    caller, call = await line.stream(placed, support)
    call.reset()
    await caller.closed()
    assert verbs(await comes_back(line, first, back_of(placed))) == ["Hangup"], "the loop guard"


@RETURNING
async def test_a_stream_that_never_opened_is_tried_again(line: DocumentCalls, support: Agent) -> None:
    placed = await line.place(f"/xml/{line.carrier}?agent=returning&org=acme")
    again = await comes_back(line, placed, back_of(placed))
    caller, call = await line.stream(again, support)
    await caller.hang_up()
    await assert_ended(line.gateway, call.session, "caller_hangup", "caller")


@RETURNING
async def test_a_call_that_comes_back_while_its_stream_seems_to_live(
    line: DocumentCalls, support: Agent
) -> None:
    """Its gateway was lost and nobody has noticed yet: the carrier knows better, and the call goes on."""
    placed = await line.place(f"/xml/{line.carrier}?agent=returning&org=acme")
    _, call = await line.stream(placed, support)
    again = await comes_back(line, placed, back_of(placed))
    second = await line.dial(again.stream_url)
    for message in opening_of_call(line.carrier, placed.call_id):
        second.say(message)
    await assert_ended(line.gateway, call.session, "taken_over", "carrier")
    taken = await support.call()
    assert taken.session != call.session
    await second.leave()


async def test_a_draining_gateway_refuses_with_a_document(
    start_gateway: Callable[..., Gateway],
    carrier_servers: dict[str, Server],
    support: Agent,
    support_port: AgentPort,
) -> None:
    """A call that is running keeps the process; another one comes in meanwhile."""
    gateway = start_gateway(
        server={"public_url": "https://voice.example.com"},
        agents=[
            {
                "name": "support",
                "organization": "acme",
                "instances": [support_port.url],
                "sessions_per_instance": 5,
                "busy": "say We are going away.",
            }
        ],
    )
    server = carrier_servers["twilio"]
    server.via = f"http://127.0.0.1:{gateway.port}"
    await server.start()
    try:
        line = DocumentCalls(gateway, server, "twilio")
        caller, _ = await line.stream(await line.place(), support)
        gateway.terminate()
        await eventually(lambda: gateway.get("/readyz")[0] == 503, "it drains")
        placed = await line.place()
        assert "We are going away." in placed.answered.text
        await caller.hang_up()
        assert await gateway.ended() == 0
    finally:
        await gateway.callers_leave()
        await server.stop()
