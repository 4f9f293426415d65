# SPDX-License-Identifier: BSD-2-Clause
"""A carrier that is lost and opens another socket for its call goes on with the session (docs/sockets.md).

carriers.md §1, "Carrier reconnects by itself", §3.1, §4.1.
"""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from gateway.media.accelerator import ACTIVE
from tests.harness.agent import Agent, AgentCall, AgentPort, hangs, waits_for
from tests.harness.caller import Caller
from tests.harness.documented import Documented, Server, accounts, on_line, said
from tests.harness.frames import CONTINUATION, TEXT
from tests.harness.gateway import END_EVENTS, Gateway, eventually
from tests.harness.openings import IDS, replies, talk
from tests.harness.peer import WAIT_S
from tests.harness.rest_plivo import PlivoCall
from tests.harness.rest_server import Placed
from tests.harness.telephony import assert_agent_heard, assert_caller_heard, assert_ended, assert_refused

CARRIERS = ("twilio", "telnyx", "plivo")
KEY = "sk_acme"
NEVER_S = 30
"""Longer than any test waits: a call that ends in it was ended by something else."""

SOON_S = 1.0


@pytest.fixture(scope="module", params=["on", "off"] if ACTIVE else ["off"])
def accelerator(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def ports(agent_port: Callable[[], AgentPort]) -> list[AgentPort]:
    return [agent_port(), agent_port()]


@pytest.fixture(scope="module")
def start(
    start_gateway: Callable[..., Gateway],
    ports: list[AgentPort],
    carrier_servers: dict[str, Server],
    accelerator: str,
) -> Callable[..., Gateway]:
    """Starts a gateway whose agents have one place each; acme wants proof of everybody, globex of nobody."""
    plivo = carrier_servers["plivo"]

    def one(*, workers: int = 1, **limits: Any) -> Gateway:
        agent = {"organization": "acme", "instances": [ports[0].url], "max_agents": 1, "max_resumes": 0}
        proving = accounts(carrier_servers)
        for account in proving:
            if account["carrier"] == "plivo":
                account["api_url"] = plivo.api_url
        others = {
            "support": {},
            "asked": {"after": "redirect"},
            "messages": {"media": "messages", "after": "redirect"},
            "hidden": {"hide_call_id": True, "after": "redirect"},
            "brief": {"max_session_duration": 5, "after": "redirect"},
            "resumed": {"max_resumes": 2, "after": "redirect", "instances": [port.url for port in ports]},
            "ringing": {"hold": "ringback", "after": "redirect"},
        }
        return start_gateway(
            server={"public_url": "https://voice.example.com", "workers": workers, "drain_timeout": 60},
            organizations=[{"name": "acme", "carriers": proving, "private_keys": [KEY]}, {"name": "globex"}],
            accelerator=accelerator,
            agents=[
                *(agent | {"name": name} | more for name, more in others.items()),
                agent | {"name": "support", "organization": "globex"},
            ],
            limits={"close_timeout": 0.5, "reconnect_timeout": NEVER_S, "instance_failures": 0} | limits,
        )

    return one


@pytest.fixture(scope="module")
def gateway(start: Callable[..., Gateway]) -> Gateway:
    return start()


@pytest.fixture
async def agents(agent_at: Callable[..., Any], ports: list[AgentPort], gateway: Gateway) -> list[Agent]:
    return [await agent_at(port) for port in ports]


@pytest.fixture
def support(agents: list[Agent]) -> Agent:
    return agents[0]


@pytest.fixture(params=CARRIERS)
def carrier(request: pytest.FixtureRequest) -> str:
    return str(request.param)


just = {
    name: pytest.mark.parametrize("carrier", [name], indirect=True) for name in ("twilio", "telnyx", "plivo")
}


def on_stream(carrier: str, message: str, stream: str) -> str:
    """A message of the transcripts, of another stream."""
    return message.replace(IDS[carrier][1], stream)


@dataclass
class Stream:
    """A call that runs: its carrier's latest socket, and its agent. `first`: the id that the agent knows."""

    line: Documented
    placed: Placed
    caller: Caller
    agent: AgentCall
    first: str = "stream-1"
    latest: str = "stream-1"
    count: int = 1

    @property
    def gateway(self) -> Gateway:
        return self.line.gateway

    @property
    def session(self) -> str:
        return self.agent.session

    async def both_hear(self) -> None:
        """Sound, digits and marks go both ways, each side hearing the stream's id that it knows."""
        await self.agent_hears(talk(self.line.carrier))
        await self.caller_hears(replies(self.line.carrier))

    async def agent_hears(self, messages: list[str]) -> None:
        carrier = self.line.carrier
        for message in messages:
            self.caller.say(on_stream(carrier, message, self.latest))
        for message in messages:
            heard = await self.agent.hear()
            assert json.loads(heard.payload) == json.loads(on_stream(carrier, message, self.first))

    async def caller_hears(self, messages: list[str]) -> None:
        for message in messages:
            self.agent.say(on_stream(self.line.carrier, message, self.first))
        await self.caller_hears_what_was_said(messages)

    async def caller_hears_what_was_said(self, messages: list[str]) -> None:
        carrier = self.line.carrier
        for message in messages:
            heard = await self.caller.hear()
            assert json.loads(heard.payload) == json.loads(on_stream(carrier, message, self.latest))

    async def is_lost(self, how: str = "half_close") -> None:
        """The carrier's socket ends without a close, and the gateway knows it."""
        getattr(self.caller, how)()
        if how == "half_close":
            await self.caller.ended()
        await eventually(lambda: waits(self.gateway, self.session), "the call waits for another socket")

    async def comes_again(self) -> Caller:
        """Opens another socket for the call, as the carrier does."""
        url = self.placed.stream_url
        if self.line.carrier == "twilio":
            again = await asks_again(self.line, self.placed)
            url = again.stream_url
            self.placed = again
        self.count += 1
        self.latest = f"stream-{self.count}"
        caller = await self.line.dial(url)
        assert caller.status == 101, caller.body
        for message in opening(self.line.carrier, self.placed.call_id, self.latest):
            caller.say(message)
        return caller

    async def goes_on(self) -> None:
        """Another socket comes, and the call goes on with it."""
        before = continued(self.gateway, self.session)
        self.caller = await self.comes_again()
        await eventually(lambda: len(continued(self.gateway, self.session)) > len(before), "the call goes on")

    async def hangs_up(self) -> dict[str, Any]:
        """The caller hangs up; gives the call's record."""
        self.caller.send(self.caller.close_frame(1000))
        assert (await self.agent.closed())[0] == 1000
        record = await assert_ended(self.gateway, self.session, "caller_hangup", "caller")
        assert record["state"] == "ended"
        assert [one["id"] for one in sessions_of(self)] == [self.session], "there is no other session"
        return record


def opening(carrier: str, call_id: str, stream: str) -> list[str]:
    return [on_stream(carrier, message, stream) for message in said(carrier, call_id)]


def sessions_of(stream: Stream) -> list[dict[str, Any]]:
    return [one for one in stream.gateway.sessions() if one["call_id"] == stream.placed.call_id]


def continued(gateway: Gateway, session: str) -> list[dict[str, Any]]:
    lines = gateway.log_lines()
    return [line for line in lines if line["event"] == "call continued" and line["session"] == session]


def waits(gateway: Gateway, session: str) -> bool:
    """Whether the call is known, over all workers, to wait for another socket."""
    found = gateway._rows("SELECT * FROM document WHERE kind = 'call_lost' AND key = ?", (session,))
    return bool(found)


async def asks_again(line: Documented, placed: Placed) -> Placed:
    """The carrier asks for a document again, as the last one said."""
    assert placed.document is not None
    (redirect,) = [verb for verb in placed.document.after if verb.tag == "Redirect"]
    parts = urlsplit(redirect.text or "")
    name = "CallUUID" if line.carrier == "plivo" else "CallSid"
    how = {"method": "POST"} if line.carrier == "telnyx" else {}
    again = await line.place(f"{parts.path}?{parts.query}", **{name: placed.call_id}, **how)
    return Placed(placed.call_id, again.answered, again.document, again.fields)


async def first_stream(
    line: Documented, agent: Agent, name: str | None = None, org: str = "acme", *, opened: bool = True
) -> Stream:
    """A call that reached its agent. Without a `name` its agent is one that this carrier comes back to."""
    name = name or ("asked" if line.carrier == "twilio" else "support")
    proven = org == "acme"
    placed = await line.place(f"/xml/{line.carrier}?agent={name}&org={org}", proven=proven)
    caller = await line.dial(placed.stream_url, proven=proven)
    assert caller.status == 101, caller.body
    sent = [caller.say(message) for message in opening(line.carrier, placed.call_id, "stream-1")]
    taken = await agent.call()
    if opened:
        await taken.opening(sent)
    return Stream(line, placed, caller, taken)


# It goes on


@pytest.mark.parametrize("how", ["half_close", "reset"])
async def test_the_next_socket_goes_on_with_the_session(line: Documented, support: Agent, how: str) -> None:
    stream = await first_stream(line, support)
    await stream.both_hear()
    await stream.is_lost(how)
    await stream.goes_on()
    await stream.both_hear()
    assert support.upgrades == 1
    record = await stream.hangs_up()
    heard, opened = len(talk(line.carrier)), len(said(line.carrier, ""))
    assert record["frames_in"] == 2 * (opened + heard)
    assert record["frames_out"] == 2 * len(replies(line.carrier))
    assert record["resumed"] == 0
    (told,) = continued(line.gateway, stream.session)
    assert (told["times"], told["call_id"]) == (1, stream.placed.call_id)
    assert told["words"] == "the carrier's socket was lost without a close"
    assert told["seconds"] >= 0


async def test_a_socket_that_seems_to_live_is_closed(line: Documented, support: Agent) -> None:
    """Half open: the carrier knows that it is gone, the gateway does not."""
    stream = await first_stream(line, support)
    await stream.both_hear()
    first = stream.caller
    await stream.goes_on()
    assert await first.closed() == (1000, "the carrier opened a new socket for the call")
    await stream.both_hear()
    await stream.hangs_up()
    assert support.upgrades == 1


async def test_again_and_again(line: Documented, support: Agent) -> None:
    stream = await first_stream(line, support)
    for times in range(1, 4):  # a document is asked for so often, and no more
        if times % 2:
            await stream.is_lost()
        await stream.goes_on()
        await stream.both_hear()
        assert continued(line.gateway, stream.session)[-1]["times"] == times
    await stream.hangs_up()


async def test_what_the_agent_says_meanwhile_is_heard(line: Documented, support: Agent) -> None:
    stream = await first_stream(line, support)
    await stream.is_lost()
    meanwhile = replies(line.carrier) * 5
    for message in meanwhile:
        stream.agent.say(on_stream(line.carrier, message, stream.first))
    ping = stream.agent.frame(0x9, b"there?")
    stream.agent.send(ping)
    assert (await stream.agent.hear()).payload == b"there?", "who waits is answered meanwhile"
    await stream.goes_on()
    await stream.caller_hears_what_was_said(meanwhile)
    await stream.both_hear()
    await stream.hangs_up()


async def test_what_the_caller_says_at_once_is_heard(line: Documented, support: Agent) -> None:
    """Also in the packet that ends the opening."""
    stream = await first_stream(line, support)
    await stream.is_lost()
    stream.count += 1
    stream.latest = "stream-2"
    url = (await asks_again(line, stream.placed)).stream_url if line.carrier == "twilio" else None
    stream.caller = await line.dial(url or stream.placed.stream_url)
    messages = opening(line.carrier, stream.placed.call_id, stream.latest)
    early = talk(line.carrier)
    messages += [on_stream(line.carrier, message, stream.latest) for message in early]
    stream.caller.send(b"".join(stream.caller.frame(TEXT, message.encode()) for message in messages))
    for message in early:
        heard = await stream.agent.hear()
        assert json.loads(heard.payload) == json.loads(on_stream(line.carrier, message, stream.first))
    await stream.hangs_up()


async def test_a_stream_that_kept_its_id(line: Documented, support: Agent) -> None:
    """Whether an id is new is not documented (carriers.md §3.1): where it is not, bytes pass as they come."""
    stream = await first_stream(line, support)
    await stream.is_lost()
    stream.count = 0
    await stream.goes_on()
    await assert_agent_heard(stream.agent, [stream.caller.say(message) for message in talk(line.carrier)])
    await assert_caller_heard(stream.caller, [stream.agent.say(one) for one in replies(line.carrier)])
    await stream.hangs_up()


async def test_coupled_through_messages_all_along(line: Documented, support: Agent) -> None:
    stream = await first_stream(line, support, "messages")
    await stream.both_hear()
    if line.carrier != "twilio":
        stream.placed = await asks_again(line, stream.placed)
    await stream.is_lost()
    await stream.goes_on()
    stream.caller.say("no message")
    await stream.both_hear()
    await stream.hangs_up()


@just["twilio"]
async def test_an_agent_that_does_not_know_the_call_id(line: Documented, support: Agent) -> None:
    stream = await first_stream(line, support, "hidden", opened=False)
    first = [await stream.agent.hear() for _ in said("twilio", "")]
    assert stream.placed.call_id.encode() not in first[-1].payload
    await stream.is_lost()
    await stream.goes_on()
    await stream.both_hear()
    assert stream.placed.call_id.encode() not in stream.agent.heard
    await stream.hangs_up()


@pytest.mark.parametrize("fragmented", [False, True])
@just["plivo"]
async def test_a_message_that_the_agent_had_half_said(
    line: Documented, support: Agent, fragmented: bool
) -> None:
    """Half of it went to the first socket: the second does not get the other half, but all that follows."""
    stream = await first_stream(line, support)
    await stream.both_hear()
    text = replies("plivo")[0].encode().ljust(5000)
    if fragmented:
        begun = stream.agent.frame(TEXT, text[:3000], fin=False)
        rest = stream.agent.frame(CONTINUATION, text[3000:])
    else:
        whole = stream.agent.frame(TEXT, text)
        begun, rest = whole[:3000], whole[3000:]
    at = len(stream.caller.heard)
    stream.agent.send(begun)
    await stream.caller.hear_bytes(at + len(begun))
    await stream.is_lost()
    stream.agent.send(rest)
    await stream.goes_on()
    await stream.both_hear()
    await stream.hangs_up()


@just["telnyx"]
async def test_a_call_whose_agent_is_lost_later(line: Documented, agents: list[Agent]) -> None:
    """The next agent is told the latest stream; then that one goes on, too."""
    stream = await first_stream(line, await ready_one(agents), "resumed")
    await stream.is_lost()
    await stream.goes_on()
    for other in (agents[1], agents[0]):
        stream.agent.reset()
        second = await other.call()
        assert second.session == stream.session
        told = b"".join([(await second.hear()).payload for _ in said("telnyx", "")])
        assert stream.latest.encode() in told
        stream.agent, stream.first = second, stream.latest
        await stream.both_hear()
        await stream.is_lost()
        await stream.goes_on()
        await stream.both_hear()
    record = await stream.hangs_up()
    assert record["resumed"] == 2


async def ready_one(agents: list[Agent]) -> Agent:
    """The instance that the next call goes to: of two that are free, the first."""
    return agents[0]


@just["twilio"]
async def test_the_holding_sound_goes_on(line: Documented, support: Agent) -> None:
    """Of an agent that has not spoken: the caller hears that it is called, on the second socket too."""
    may_accept = asyncio.Event()
    support.answer = waits_for(may_accept)
    taking = asyncio.create_task(first_stream(line, support, "ringing"))
    await support.asks()
    await until_sound(line.gateway.callers[-1], "stream-1")
    may_accept.set()
    stream = await taking
    await stream.is_lost()
    await stream.goes_on()
    await until_sound(stream.caller, "stream-2")
    stream.agent.say(on_stream("twilio", replies("twilio")[0], stream.first))
    while (heard := json.loads((await stream.caller.hear()).payload))["event"] != "clear":
        assert heard["streamSid"] == "stream-2"
    await stream.caller_hears_what_was_said(replies("twilio")[:1])
    await stream.hangs_up()


@just["telnyx"]
async def test_a_carrier_that_must_be_sent_something_is(line: Documented, support: Agent) -> None:
    """carriers.md §3.3: a leg that got nothing ends after 1.6 s; its agent has nothing to say just now."""
    stream = await first_stream(line, support)
    await stream.is_lost()
    await stream.goes_on()
    silence = json.loads((await stream.caller.hear()).payload)
    assert silence["event"] == "media"
    await stream.hangs_up()


async def until_sound(caller: Caller, stream: str) -> None:
    while (heard := json.loads((await caller.hear()).payload))["event"] != "media":
        pass
    assert heard["streamSid"] == stream


@just["plivo"]
async def test_a_carrier_that_has_stopped_to_read(line: Documented, support: Agent) -> None:
    """Its network is gone, and what the agent says is stuck. All that follows is heard, and whole."""
    stream = await first_stream(line, support)
    message, poured = replies("plivo")[0], 0
    goes_on = asyncio.Event()

    async def pour() -> None:
        """Four kilobytes at a time, numbered, until the call has gone on."""
        nonlocal poured
        while not goes_on.is_set():
            text = message[:-1] + f', "number": {poured}, "more": "{"." * 4000}"}}'
            await stream.agent.pour(stream.agent.frame(TEXT, text.encode()))
            poured += 1

    pouring = asyncio.create_task(pour())
    before = -1
    while poured != before:  # until nobody takes it any more
        before = poured
        await asyncio.sleep(0.1)
    await stream.goes_on()
    goes_on.set()
    numbers = [json.loads((await stream.caller.hear()).payload)["number"]]
    while not pouring.done() or numbers[-1] < poured - 1:
        numbers.append(json.loads((await stream.caller.hear()).payload)["number"])
    assert numbers == list(range(numbers[0], poured))
    assert numbers[0] <= before
    await stream.both_hear()
    await stream.hangs_up()


# It ends


async def assert_over(stream: Stream, reason: str, side: str, code: int) -> dict[str, Any]:
    """The agent is told so, and the record says it."""
    assert (await stream.agent.closed())[0] == code
    return await assert_ended(stream.gateway, stream.session, reason, side)


async def test_none_comes_in_time(
    start: Callable[..., Gateway], carrier_servers: dict[str, Server], agents: list[Agent]
) -> None:
    gateway = start(reconnect_timeout=SOON_S)
    for carrier in CARRIERS:
        async with on_line(gateway, carrier_servers, carrier) as line:
            stream = await first_stream(line, agents[0])
            stream.caller.reset()
            words = "the carrier's socket was lost without a close, and no other came within 1 s"
            assert await stream.agent.closed() == (1011, words)
            record = await assert_ended(gateway, stream.session, "carrier_lost", "carrier")
            assert (record["detail"], record["state"]) == (words, "failed")
            # Then the next one is a session of its own, as it is where none is waited for.
            caller = await stream.comes_again()
            taken = await agents[0].call()
            assert taken.session != stream.session
            await caller.leave()
            assert (await taken.closed())[0] == 1011
            await assert_ended(gateway, taken.session, "carrier_lost", "carrier")


@just["plivo"]
async def test_it_is_stopped_meanwhile(line: Documented, support: Agent) -> None:
    stream = await first_stream(line, support)
    await stream.is_lost()
    assert await asyncio.to_thread(delete, line.gateway, stream.session) == 200
    await assert_over(stream, "stopped", "gateway", 1000)


def delete(gateway: Gateway, session: str) -> int:
    """Has a session stopped, through the API; the answer's status."""
    return ask(gateway, "DELETE", f"/v1/agents/support/sessions/{session}")


def ask(gateway: Gateway, method: str, path: str, body: dict[str, str] | None = None) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=WAIT_S)
    try:
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        connection.request(method, path, json.dumps(body) if body else None, headers)
        return connection.getresponse().status
    finally:
        connection.close()


@just["plivo"]
async def test_it_is_not_transferred_meanwhile(line: Documented, support: Agent) -> None:
    """There is no stream that could end as that of a transferred call does; afterwards there is."""
    stream = await first_stream(line, support)
    await stream.is_lost()
    path = f"/v1/sessions/{stream.session}/call/transfer"
    assert await asyncio.to_thread(ask, line.gateway, "POST", path, {"to": "sip:desk@example.com"}) == 409
    await stream.goes_on()
    await stream.both_hear()
    await stream.hangs_up()


@just["plivo"]
async def test_it_is_hung_up_meanwhile(line: Documented, support: Agent) -> None:
    stream = await first_stream(line, support)
    await stream.is_lost()
    path = f"/v1/sessions/{stream.session}/call/hangup"
    line.server.calls[stream.placed.call_id] = PlivoCall(
        stream.placed.call_id, stream.placed.call_id, {}, "in-progress"
    )
    assert await asyncio.to_thread(ask, line.gateway, "POST", path) == 200
    await assert_over(stream, "hung_up", "gateway", 1000)


@just["plivo"]
async def test_the_agent_closes_meanwhile(line: Documented, support: Agent) -> None:
    """It has ended the call, which is hung up as ever; the next socket is nobody's."""
    stream = await first_stream(line, support)
    await stream.is_lost()
    before = len(line.server.seen)
    stream.agent.send(stream.agent.close_frame(1000, "bye"))
    await stream.agent.ended()
    await assert_ended(line.gateway, stream.session, "agent_ended", "agent")
    assert [seen.operation for seen in line.server.seen[before:]] == ["hangup"]
    told = len(line.gateway.ends())
    late = await stream.comes_again()
    assert (await late.closed())[0] == 1008
    await assert_refused(line.gateway, told, "unauthorized")


@pytest.mark.parametrize(("code", "why"), [(1011, "agent_failed"), (None, "agent_lost")])
@just["twilio"]
async def test_the_agent_is_lost_meanwhile(line: Documented, support: Agent, code: int, why: str) -> None:
    """One thing at a time. The carrier asks again, and gets another stream."""
    stream = await first_stream(line, support)
    await stream.is_lost()
    if code is None:
        stream.agent.reset()
    else:
        stream.agent.send(stream.agent.close_frame(code))
    await assert_ended(line.gateway, stream.session, why, "agent")
    caller = await stream.comes_again()
    taken = await support.call()
    assert taken.session != stream.session
    await caller.hang_up()
    await assert_ended(line.gateway, taken.session, "caller_hangup", "caller")


@just["twilio"]
async def test_it_has_lasted_long_enough(line: Documented, support: Agent) -> None:
    stream = await first_stream(line, support, "brief")
    await stream.is_lost()
    assert await stream.agent.closed() == (1000, "5 s")
    await assert_ended(line.gateway, stream.session, "max_duration", "gateway")


@just["twilio"]
async def test_the_longest_duration_goes_on(line: Documented, support: Agent) -> None:
    """A call does not get more time with each socket (how much: tests/media/test_relay_carrier_lost.py)."""
    stream = await first_stream(line, support, "brief")
    await stream.is_lost()
    await stream.goes_on()
    assert await stream.caller.closed() == (1000, "5 s")
    await assert_over(stream, "max_duration", "gateway", 1000)


@just["plivo"]
async def test_the_carrier_says_that_the_call_is_over(line: Documented, support: Agent) -> None:
    stream = await first_stream(line, support)
    await stream.is_lost()
    url = f"https://us-west.voice.example.com/callbacks/plivo/{stream.session}/status"
    fields = {"CallUUID": stream.placed.call_id, "CallStatus": "completed"}
    answered = await line.server.post(url, fields)
    assert answered.status == 200
    await assert_over(stream, "caller_hangup", "caller", 1000)


@just["plivo"]
async def test_a_call_that_the_carrier_has_called_over_is_not_waited_for(
    line: Documented, support: Agent
) -> None:
    stream = await first_stream(line, support)
    url = f"https://us-west.voice.example.com/callbacks/plivo/{stream.session}/status"
    fields = {"CallUUID": stream.placed.call_id, "CallStatus": "completed"}
    assert (await line.server.post(url, fields)).status == 200
    stream.caller.reset()
    await assert_over(stream, "carrier_lost", "carrier", 1011)


@just["telnyx"]
async def test_a_carrier_that_has_said_stop_is_not_waited_for(line: Documented, support: Agent) -> None:
    stream = await first_stream(line, support)
    stop = stream.caller.say(on_stream("telnyx", '{"event": "stop", "stop": {}}', "stream-1"))
    await assert_agent_heard(stream.agent, [stop])
    stream.caller.reset()
    await assert_over(stream, "caller_hangup", "caller", 1000)


@just["telnyx"]
async def test_a_close_is_an_end(line: Documented, support: Agent) -> None:
    stream = await first_stream(line, support)
    stream.caller.send(stream.caller.close_frame(1001))
    assert (await stream.agent.closed())[0] == 1001
    await assert_ended(line.gateway, stream.session, "caller_hangup", "caller")


@just["telnyx"]
async def test_an_agent_that_has_had_half_a_message_cannot_go_on(line: Documented, support: Agent) -> None:
    """A bot on Pipecat ends a call over a message that is no JSON (carriers.md §8.2)."""
    stream = await first_stream(line, support)
    half = stream.caller.frame(TEXT, talk("telnyx")[0][:50].encode(), fin=False)
    stream.caller.send(half)
    await assert_agent_heard(stream.agent, [half])
    stream.caller.reset()
    await assert_over(stream, "carrier_lost", "carrier", 1011)


@just["plivo"]
async def test_a_gateway_that_drains_does_not_wait(
    start: Callable[..., Gateway], carrier_servers: dict[str, Server], agents: list[Agent], carrier: str
) -> None:
    """It takes no second socket; the calls that run go on."""
    gateway = start()
    async with on_line(gateway, carrier_servers, carrier) as line:
        stream = await first_stream(line, agents[0])
        await stream.is_lost()
        gateway.terminate()
        assert (await stream.agent.closed())[0] == 1011
        assert await gateway.ended() == 0
    (record,) = gateway.sessions(stream.session)
    assert record["reason"] == "draining"
    assert "no other is taken any more" in record["detail"]


# It is another's


@just["plivo"]
async def test_a_second_socket_for_another_agent_takes_the_call_over(
    line: Documented, support: Agent
) -> None:
    """As where an operator's own XML leads the call from one agent to the next."""
    stream = await first_stream(line, support)
    again = await line.place("/xml/plivo?agent=asked&org=acme&return=1", CallUUID=stream.placed.call_id)
    caller = await line.dial(again.stream_url)
    for message in opening("plivo", stream.placed.call_id, "stream-2"):
        caller.say(message)
    await assert_over(stream, "taken_over", "carrier", 1000)
    taken = await support.call()
    assert taken.session != stream.session
    await caller.hang_up()
    await assert_ended(line.gateway, taken.session, "caller_hangup", "caller")


@just["telnyx"]
async def test_a_stream_in_another_codec_takes_the_call_over(line: Documented, support: Agent) -> None:
    stream = await first_stream(line, support)
    caller = await line.dial(stream.placed.stream_url)
    for message in opening("telnyx", stream.placed.call_id, "stream-2"):
        caller.say(message.replace("PCMU", "PCMA"))
    await assert_over(stream, "taken_over", "carrier", 1000)
    taken = await support.call()
    assert taken.session != stream.session
    await caller.hang_up()
    await assert_ended(line.gateway, taken.session, "caller_hangup", "caller")


@just["twilio"]
async def test_without_a_token_nothing_is_waited_for(line: Documented, support: Agent) -> None:
    caller = await line.gateway.dial("/ws/twilio/support.globex")
    sent = [caller.say(message) for message in opening("twilio", "CA1", "stream-1")]
    taken = await support.call()
    await taken.opening(sent)
    caller.reset()
    assert (await taken.closed())[0] == 1011
    await assert_ended(line.gateway, taken.session, "carrier_lost", "carrier")


@just["twilio"]
async def test_a_carrier_that_does_not_come_back_is_not_waited_for(line: Documented, support: Agent) -> None:
    stream = await first_stream(line, support, "support")
    stream.caller.reset()
    await assert_over(stream, "carrier_lost", "carrier", 1011)


async def test_while_the_agent_starts_a_second_socket_takes_the_call_over(
    line: Documented, support: Agent
) -> None:
    """There is no session yet that could go on."""
    if line.carrier == "twilio":
        return
    support.answer = hangs
    placed = await line.place(f"/xml/{line.carrier}?agent=support&org=acme")
    first = await line.dial(placed.stream_url)
    for message in opening(line.carrier, placed.call_id, "stream-1"):
        first.say(message)
    await support.asks()
    second = await line.dial(placed.stream_url)
    for message in opening(line.carrier, placed.call_id, "stream-2"):
        second.say(message)
    assert (await first.closed())[0] == 1000
    await support.asks()


async def test_over_two_workers_a_call_goes_on_wherever_its_socket_comes(
    start: Callable[..., Gateway], carrier_servers: dict[str, Server], agents: list[Agent], carrier: str
) -> None:
    """The agent has one place, and is never asked again."""
    gateway = start(workers=2)
    async with on_line(gateway, carrier_servers, carrier) as line:
        stream = await first_stream(line, agents[0])
        for times in range(3 if carrier == "twilio" else 8):  # a document is asked for so often, and no more
            if times % 2:
                await stream.is_lost()
            await stream.goes_on()
            await stream.both_hear()
        await stream.hangs_up()


@just["telnyx"]
async def test_over_two_workers_what_cannot_go_on_is_taken_over(
    start: Callable[..., Gateway], carrier_servers: dict[str, Server], agents: list[Agent], carrier: str
) -> None:
    """Also where the socket came to another worker than the call's, which would not have it."""
    gateway = start(workers=2)
    async with on_line(gateway, carrier_servers, carrier) as line:
        for _ in range(4):
            stream = await first_stream(line, agents[0])
            caller = await line.dial(stream.placed.stream_url)
            for message in opening(carrier, stream.placed.call_id, "stream-2"):
                caller.say(message.replace("PCMU", "PCMA"))
            await assert_over(stream, "taken_over", "carrier", 1000)
            taken = await agents[0].call()
            await caller.hang_up()
            await assert_ended(gateway, taken.session, "caller_hangup", "caller")


@pytest.mark.parametrize("carrier", ["telnyx", "plivo"], indirect=True)
async def test_many_at_once_and_one_has_the_call(line: Documented, support: Agent) -> None:
    """Whichever are handed over, refused or taken over: one session is left, with one socket."""
    placed = await line.place()
    callers = [await line.dial(placed.stream_url) for _ in range(6)]
    for number, caller in enumerate(callers):
        for message in opening(line.carrier, placed.call_id, f"stream-{number}"):
            caller.say(message)

    def told() -> int:
        lines = [one for one in line.gateway.log_lines() if one.get("call_id") == placed.call_id]
        return sum(one["event"] in (*END_EVENTS, "call continued") for one in lines)

    def live() -> list[str]:
        mine = [one for one in line.gateway.sessions() if one["call_id"] == placed.call_id]
        return [one["id"] for one in mine if one["ended_at"] is None]

    await eventually(lambda: told() == 5 and len(live()) == 1, "all but one are over, or part of it")
    (session,) = live()
    await line.gateway.callers_leave()
    assert await asyncio.to_thread(delete, line.gateway, session) in (200, 409)
    await eventually(lambda: not live(), "it is over")


# Its document


async def test_the_document_of_a_call_that_waits_is_another_stream(line: Documented, support: Agent) -> None:
    """At once, and so often as `max_returns` says."""
    stream = await first_stream(line, support, "asked")
    await stream.is_lost()
    placed = stream.placed
    for _ in range(3):
        placed = await asks_again(line, placed)
        assert placed.stream_url
    last = await asks_again(line, placed)
    assert last.document is not None
    assert [verb.tag for verb in last.document.verbs] == ["Hangup"], "the loop guard"
    caller = await line.dial(placed.stream_url)
    for message in opening(line.carrier, placed.call_id, "stream-2"):
        caller.say(message)
    await eventually(lambda: continued(line.gateway, stream.session), "the call goes on")
    stream.caller, stream.latest = caller, "stream-2"
    await stream.both_hear()
    await stream.hangs_up()
