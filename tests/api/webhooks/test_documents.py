# SPDX-License-Identifier: BSD-2-Clause
"""The documents that carriers fetch: where they lead, and that all they carry reaches the agent.

Unsigned here: the organisations have no accounts. How documents are written is tests/texml's affair.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, AgentCall, AgentPort
from tests.harness.call_assertions import assert_ended
from tests.harness.caller import Caller
from tests.harness.document_calls import PUBLIC, DocumentCalls
from tests.harness.gateway import Gateway

REGIONAL = "voice.example.com"


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway], support_port: AgentPort) -> Gateway:
    agent = {"organization": "acme", "instances": [support_port.url], "sessions_per_instance": 50}
    return start_gateway(
        server={"public_url": "https://voice.example.com"},
        agents=[
            {"name": "support", **agent},
            {"name": "faraway", "region": "eu-central", **agent},
            {"name": "dialling", "after": "+15557654321", **agent},
            {"name": "own", "after": "<Say>Bye &amp; thanks.</Say>", **agent},
        ],
        numbers=[
            {"number": "+14155550199", "agent": "support.acme"},
            {"number": "+918047491899", "agent": "support.acme"},
            {"number": "+493012345678", "agent": "faraway.acme"},
        ],
    )


def encoded(value: Any) -> str:
    return base64.b64encode(json.dumps(value, separators=(",", ":")).encode()).decode()


def body_of(call: AgentCall) -> Any:
    (body,) = call.query["body"]
    return json.loads(base64.b64decode(body, validate=True))


async def through(
    line: DocumentCalls, support: Agent, path: str, **more: Any
) -> tuple[Any, Caller, AgentCall]:
    """A call by its document; Twilio and Plivo get the parameters that the document says."""
    placed = await line.place(path, **more)
    assert placed.answered.status == 200, placed.answered
    assert placed.document is not None
    parameters = dict(placed.document.parameters)
    if line.carrier == "plivo" and "extraHeaders" in placed.document.stream:
        pairs = (pair.partition("=") for pair in placed.document.stream["extraHeaders"].split(","))
        parameters = {name: unquote(value) for name, _, value in pairs}
    caller, call = await line.stream(placed, support, **parameters)
    return placed, caller, call


async def test_the_stream_goes_to_the_agents_region(line: DocumentCalls) -> None:
    placed = await line.place(f"/xml/{line.carrier}?agent=faraway&org=acme")
    assert urlsplit(placed.stream_url).netloc == "eu-central.voice.example.com"
    assert placed.stream_url.startswith("wss://")


async def test_a_region_that_is_named_must_be_the_agents(line: DocumentCalls) -> None:
    asked = f"/xml/{line.carrier}?agent=faraway&org=acme&region="
    assert (await line.place(f"{asked}eu-central")).stream_url
    placed = await line.place(f"{asked}us-east")
    assert placed.document is None or placed.document.stream_url is None


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_both_methods(line: DocumentCalls, method: str) -> None:
    how = {"method": method} if line.carrier in ("telnyx", "exotel") else {}
    assert (await line.place(**how)).stream_url


@pytest.mark.parametrize("carrier", ["exotel"], indirect=True)
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b'{"CallSid": "exotel-json", "CallTo": "08047491899", "Legs": []}'),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="CallSid"\r\n\r\nexotel-multipart\r\n'
            b'--b\r\nContent-Disposition: form-data; name="CallTo"\r\n\r\n08047491899\r\n--b--\r\n',
        ),
    ],
)
async def test_exotel_may_send_the_called_number_as_json_or_multipart(
    line: DocumentCalls, kind: str, body: bytes
) -> None:
    headers = {"Content-Type": kind, **line.server.upgrade_headers(line.url())}
    answered = await line.server.send("POST", f"{PUBLIC}/xml/exotel", headers, body)
    assert answered.status == 200, answered
    assert urlsplit(answered.json["url"]).netloc == REGIONAL


@pytest.mark.parametrize(
    "number", ["+14155550199", "14155550199", "+91 8047491899", "08047491899", "+493012345678"]
)
async def test_by_the_called_number(line: DocumentCalls, number: str) -> None:
    placed = await line.place(f"/xml/{line.carrier}", to=number)
    host = "eu-central.voice.example.com" if number.startswith("+49") else REGIONAL
    assert urlsplit(placed.stream_url).netloc == host


async def test_the_ways_to_name_an_agent(line: DocumentCalls) -> None:
    for query in (
        "agent=support.acme",
        "serviceHost=support.acme",
        "agent=support&org=acme&serviceHost=support.acme",
    ):
        assert "support.acme" in (await line.place(f"/xml/{line.carrier}?{query}")).stream_url


async def test_the_call_and_its_numbers_are_in_the_record(line: DocumentCalls, support: Agent) -> None:
    numbers = {"sender": "+14155550100", "to": "+14155550199"}
    _, caller, call = await through(line, support, f"/xml/{line.carrier}?agent=support&org=acme", **numbers)
    await caller.hang_up()
    await assert_ended(line.gateway, call.session, "caller_hangup", "caller")
    if line.carrier in ("twilio", "plivo"):  # the others' openings tell them by themselves
        (record,) = line.gateway.sessions(call.session)
        assert (record["from_number"], record["to_number"]) == ("+14155550100", "+14155550199")


@pytest.mark.parametrize("carrier", ["plivo"], indirect=True)
async def test_plivos_agent_gets_the_numbers_in_the_body(line: DocumentCalls, support: Agent) -> None:
    path = "/xml/plivo?agent=support&org=acme"
    _, caller, call = await through(line, support, path, sender="14155550100", to="14155550199")
    assert body_of(call) == {"from": "14155550100", "to": "14155550199"}
    await caller.hang_up()
    _, caller, call = await through(line, support, f"{path}&body={quote(encoded({'to': 'mine', 'a': 1}))}")
    assert body_of(call) == {"from": "14155550100", "to": "mine", "a": 1}
    await caller.hang_up()
    _, caller, call = await through(line, support, f"{path}&body={quote(encoded([1]))}")
    assert body_of(call) == [1], "what is no object stays as it is"


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "exotel"], indirect=True)
async def test_the_body_reaches_the_agent(line: DocumentCalls, support: Agent) -> None:
    said = {"customer": 4711, "name": "Zoë <&>", "plus": "a+b/c"}
    path = f"/xml/{line.carrier}?agent=support&org=acme&body={quote(encoded(said))}"
    _, caller, call = await through(line, support, path)
    assert body_of(call) == said
    await caller.hang_up()


async def test_custom_parameters_reach_the_agent_where_its_bots_read_them(
    line: DocumentCalls, support: Agent
) -> None:
    """docs/reference/carriers.md §8.1: bots read the parameters of Twilio's and Exotel's `start` alone."""
    path = f"/xml/{line.carrier}?agent=support&org=acme&customer=4711"
    placed, caller, call = await through(line, support, path)
    match line.carrier:
        case "twilio":
            assert placed.document is not None
            assert placed.document.parameters["customer"] == "4711"
        case "exotel":
            assert call.query["customer"] == ["4711"]
        case "telnyx":
            assert (call.query["customer"], body_of(call)) == (["4711"], {"customer": "4711"})
        case "plivo":
            assert body_of(call)["customer"] == "4711"
    await caller.hang_up()


@pytest.mark.parametrize("carrier", ["twilio"], indirect=True)
async def test_the_members_of_a_body_are_parameters_for_twilio(line: DocumentCalls, support: Agent) -> None:
    said = {"customer": 4711, "plan": "gold", "serviceHost": "other.acme"}
    path = f"/xml/twilio?agent=support&org=acme&plan=silver&body={quote(encoded(said))}"
    placed, caller, call = await through(line, support, path)
    assert placed.document is not None
    parameters = placed.document.parameters
    assert (parameters["customer"], parameters["plan"]) == ("4711", "silver")
    assert "serviceHost" not in parameters
    assert body_of(call) == said
    await caller.hang_up()


@pytest.mark.parametrize("carrier", ["twilio"], indirect=True)
@pytest.mark.parametrize("size", [300, 301, 4096])
async def test_a_long_body_is_split_for_twilio(line: DocumentCalls, support: Agent, size: int) -> None:
    said = "x" * (size - 2)
    path = f"/xml/twilio?agent=support&org=acme&body={quote(encoded(said))}"
    placed, caller, call = await through(line, support, path)
    assert urlsplit(placed.stream_url).query == ""
    pieces = {name: value for name, value in placed.document.parameters.items() if "body" in name}
    assert list(pieces)[:2] == ["_patchbay_body", "_patchbay_body_2"][: len(pieces)]
    assert all(len(name + value) < 500 for name, value in pieces.items())
    assert body_of(call) == said
    await caller.hang_up()


@pytest.mark.parametrize("carrier", ["plivo", "telnyx"], indirect=True)
async def test_the_longest_body_in_a_query(line: DocumentCalls, support: Agent) -> None:
    said = "x" * (4094 if line.carrier == "telnyx" else 1000)
    path = f"/xml/{line.carrier}?agent=support&org=acme&body={quote(encoded(said))}"
    _, caller, call = await through(line, support, path)
    assert body_of(call) == said
    await caller.hang_up()


async def test_custom_parameters_come_where_that_carrier_has_them(line: DocumentCalls) -> None:
    asked = f"/xml/{line.carrier}?agent=support&org=acme&customer=47%2611&note=Zo%C3%AB"
    placed = await line.place(asked, proven=False)  # Plivo's own package signs no such URL
    assert placed.document is not None
    match line.carrier:
        case "twilio" | "telnyx":
            found = placed.document.parameters
        case "plivo":
            pairs = (pair.partition("=") for pair in placed.document.stream["extraHeaders"].split(","))
            found = {name: unquote(value) for name, _, value in pairs}
        case _:
            found = {name: one for name, (one,) in parse_qs(urlsplit(placed.stream_url).query).items()}
    custom = {name: value for name, value in found.items() if not name.endswith("_number")}
    assert custom == {"customer": "47&11", "note": "Zoë"}


async def test_a_carriers_own_fields_are_no_parameters(line: DocumentCalls) -> None:
    more = {"FromCity": "SAN FRANCISCO", "CallToken": "x" * 600}
    placed = await line.place(**more)
    assert "SAN" not in placed.answered.text
    assert "CallToken" not in placed.answered.text


@pytest.mark.parametrize("carrier", ["plivo", "exotel"], indirect=True)
async def test_the_sample_rate(line: DocumentCalls) -> None:
    placed = await line.place(f"/xml/{line.carrier}?agent=support&org=acme&sample_rate=16000")
    assert "16000" in placed.answered.text


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo"], indirect=True)
async def test_what_comes_after_the_stream_is_the_agents(line: DocumentCalls) -> None:
    assert [verb.tag for verb in (await line.place()).document.after] == ["Hangup"]
    dialling = await line.place(f"/xml/{line.carrier}?agent=dialling&org=acme")
    assert [verb.tag for verb in dialling.document.after] == ["Dial", "Hangup"]
    own = await line.place(f"/xml/{line.carrier}?agent=own&org=acme")
    assert [(verb.tag, verb.text) for verb in own.document.after] == [("Say", "Bye & thanks.")]


async def test_a_repeated_webhook_gives_an_equally_good_document(line: DocumentCalls, support: Agent) -> None:
    name = "CallUUID" if line.carrier == "plivo" else "CallSid"
    first = await line.place()
    again = await line.place(**{name: first.call_id})
    assert again.stream_url != first.stream_url
    caller = await line.dial(again.stream_url)
    call = await line.opened(caller, first.call_id, support)
    await caller.hang_up()
    await assert_ended(line.gateway, call.session, "caller_hangup", "caller")


@pytest.mark.parametrize("carrier", ["plivo"], indirect=True)
async def test_the_path_of_pipecats_guide(line: DocumentCalls, support: Agent) -> None:
    placed, caller, call = await through(line, support, "/plivo-xml?agent=support&org=acme")
    assert placed.answered.headers["content-type"] == "text/xml; charset=utf-8"
    await caller.hang_up()
    await assert_ended(line.gateway, call.session, "caller_hangup", "caller")


async def test_without_a_call_id_the_token_is_whose_call_comes_first(
    line: DocumentCalls, support: Agent
) -> None:
    """Exotel's question for a socket is not documented field by field (docs/reference/carriers.md §5.3)."""
    answered = await line.server.send("GET", line.url(f"/xml/{line.carrier}?agent=support&org=acme"), {})
    assert answered.status == 200
    assert "wss://" in answered.text


async def test_each_document_is_one_log_line(line: DocumentCalls) -> None:
    placed = await line.place()

    def lines() -> list[dict[str, Any]]:
        return [one for one in line.gateway.log_lines() if one.get("call_id") == placed.call_id]

    entries = await eventually(lines, "it is logged")
    assert [(one["event"], one["what"], one["agent"]) for one in entries] == [
        ("document", "stream", "support.acme")
    ]
    assert placed.fields.get("From", "+1415") not in json.dumps(entries)
