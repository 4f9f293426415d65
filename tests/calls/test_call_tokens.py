# SPDX-License-Identifier: BSD-2-Clause
"""The token in a document's stream URL: for one call, once, and one socket for one call.

docs/reference/carriers.md §2.1, §3.1, §4.1, §5.1. Two workers, so that whatever is remembered is remembered
over both.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
import uuid
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from gateway.auth.call_tokens import Audience
from gateway.auth.media_tokens import CallGrant, MediaTokens
from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import assert_caller_heard, assert_ended, assert_refused
from tests.harness.document_calls import HOST, DocumentCalls, Server, accounts, opening_of_call, token_of
from tests.harness.gateway import Gateway
from tests.harness.transcripts import replies

RECONNECTING = ("telnyx", "plivo")
OTHERS = ("twilio", "exotel")


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., Gateway], support_port: AgentPort, carrier_servers: dict[str, Server]
) -> Gateway:
    """acme wants proof of everybody, globex of nobody; each has an agent with one place."""
    return start_gateway(
        server={"public_url": "https://voice.example.com", "workers": 2},
        organizations=[{"name": "acme", "carriers": accounts(carrier_servers)}, {"name": "globex"}],
        agents=[
            {"name": "support", "organization": name, "instances": [support_port.url], "max_agents": 1}
            for name in ("acme", "globex")
        ],
        limits={"close_timeout": 0.5, "agent_connect_timeout": 5.0},
    )


async def assert_closed_as(line: DocumentCalls, caller: Any, before: int, reason: str) -> None:
    """Refused on the socket, told once, and never a session."""
    assert (await caller.closed())[0] == 1008
    await assert_refused(line.gateway, before, reason)


def minted(line: DocumentCalls, call_id: str, *, at: float, **claims: Any) -> str:
    """A stream URL with a token of the gateway's own secret, made at another time."""
    connection = sqlite3.connect(f"file:{line.gateway.store}?mode=ro", uri=True)
    (value,) = connection.execute("SELECT value FROM document WHERE kind = 'secret'").fetchone()
    connection.close()
    tokens = MediaTokens(bytes.fromhex(json.loads(value)), SimpleNamespace(key_values=None), lambda: at)
    token = tokens.mint_call(
        Audience("support.acme", "acme", line.carrier), CallGrant(call_id=call_id, **claims)
    )
    return stream_url(line, token)


def stream_url(line: DocumentCalls, token: str, organization: str = "acme") -> str:
    if line.carrier in OTHERS:
        return f"wss://{HOST}/ws/{line.carrier}/support.{organization}/{token}"
    return f"wss://{HOST}/ws/{line.carrier}?serviceHost=support.{organization}&token={token}"


async def test_a_token_for_another_call_is_refused(line: DocumentCalls, support: Agent) -> None:
    placed = await line.place()
    before = len(line.gateway.ends())
    caller = await line.dial(placed.stream_url)
    assert caller.status == 101
    for message in opening_of_call(line.carrier, "somebody-elses-call"):
        caller.say(message)
    await assert_closed_as(line, caller, before, "unauthorized")
    assert support.upgrades == 0
    # It was not used up by that: the call itself still comes through.
    caller, call = await line.stream(placed, support)
    await caller.hang_up()
    await assert_ended(line.gateway, call.session, "caller_hangup", "caller")


async def test_a_connection_that_failed_is_tried_again_with_the_same_url(
    line: DocumentCalls, support: Agent
) -> None:
    """docs/reference/carriers.md §4.1, §5.1: the socket that said nothing did not use the token up."""
    placed = await line.place()
    first = await line.dial(placed.stream_url)
    assert first.status == 101
    await first.leave()
    caller, call = await line.stream(placed, support)
    await caller.hang_up()
    await assert_ended(line.gateway, call.session, "caller_hangup", "caller")


async def test_a_token_is_refused_after_a_call_that_ended_well(line: DocumentCalls, support: Agent) -> None:
    placed = await line.place()
    caller, call = await line.stream(placed, support)
    await caller.hang_up()
    await assert_ended(line.gateway, call.session, "caller_hangup", "caller")
    before = len(line.gateway.ends())
    again = await line.dial(placed.stream_url)
    for message in opening_of_call(line.carrier, placed.call_id):
        again.say(message)
    await assert_closed_as(line, again, before, "unauthorized")
    assert support.upgrades == 1


@pytest.mark.parametrize("carrier", OTHERS, indirect=True)
async def test_a_second_socket_is_refused(line: DocumentCalls, support: Agent) -> None:
    placed = await line.place()
    caller, call = await line.stream(placed, support)
    again = await line.place(CallSid=placed.call_id)
    for url in (placed.stream_url, again.stream_url):  # its own, and that of a repeated webhook
        before = len(line.gateway.ends())
        second = await line.dial(url)
        assert second.status == 101
        for message in opening_of_call(line.carrier, placed.call_id):
            second.say(message)
        await assert_closed_as(line, second, before, "duplicate_call")
    await assert_caller_heard(caller, [call.say(replies(line.carrier)[0])])
    await caller.hang_up()
    await assert_ended(line.gateway, call.session, "caller_hangup", "caller")
    assert support.upgrades == 1


@pytest.mark.parametrize("carrier", RECONNECTING, indirect=True)
async def test_a_second_socket_takes_over(line: DocumentCalls, support: Agent) -> None:
    """Again and again, and by whichever worker; the agent has one place."""
    placed = await line.place()
    caller, call = await line.stream(placed, support)
    for _ in range(5):
        second = await line.dial(placed.stream_url)
        assert second.status == 101
        taken = await line.opened(second, placed.call_id, support)
        await assert_ended(line.gateway, call.session, "taken_over", "carrier")
        assert (await caller.closed())[0] == 1000
        await call.closed()
        await caller.leave()
        caller, call = second, taken
    await assert_caller_heard(caller, [call.say(replies(line.carrier)[0])])
    await caller.hang_up()
    await assert_ended(line.gateway, call.session, "caller_hangup", "caller")


@pytest.mark.parametrize("carrier", RECONNECTING, indirect=True)
async def test_a_carrier_dials_a_lost_stream_again(line: DocumentCalls, support: Agent) -> None:
    placed = await line.place()
    caller, call = await line.stream(placed, support)
    caller.reset()
    await assert_ended(line.gateway, call.session, "carrier_lost", "carrier")
    caller, call = await line.stream(placed, support)
    await caller.hang_up()
    await assert_ended(line.gateway, call.session, "caller_hangup", "caller")


async def test_of_many_streams_at_once_one_has_the_call(line: DocumentCalls, support: Agent) -> None:
    placed = await line.place()
    callers = [await line.dial(placed.stream_url) for _ in range(6)]
    for caller in callers:
        for message in opening_of_call(line.carrier, placed.call_id):
            caller.say(message)

    def over() -> bool:
        return len([entry for entry in line.gateway.ends() if entry.get("call_id") == placed.call_id]) == 5

    await eventually(over, "all but one are over")

    def live() -> int:
        own = [record for record in line.gateway.sessions() if record["call_id"] == placed.call_id]
        return [one["ended_at"] for one in own].count(None)

    await eventually(lambda: live() == 1, "the last one has its place")
    if line.carrier in OTHERS:
        await eventually(lambda: support.upgrades == 1, "the agent is asked once")


async def test_an_expired_token_is_refused(line: DocumentCalls, support: Agent) -> None:
    before = len(line.gateway.ends())
    caller = await line.dial(minted(line, "call-1", at=time.time() - 301))
    assert caller.refusal == (403, "unauthorized")
    await assert_refused(line.gateway, before, "unauthorized")
    assert line.gateway.ends()[-1]["words"] == "the token is refused: expired"
    assert support.upgrades == 0


@pytest.mark.parametrize("place", [2, 60, 130])
async def test_a_changed_token_is_refused(line: DocumentCalls, support: Agent, place: int) -> None:
    token = token_of((await line.place()).stream_url)
    changed = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
    caller = await line.dial(stream_url(line, changed))
    assert caller.refusal == (403, "unauthorized")
    assert support.upgrades == 0


async def test_a_token_for_another_agent_is_refused(line: DocumentCalls, support: Agent) -> None:
    token = token_of((await line.place()).stream_url)
    caller = await line.dial(stream_url(line, token, "globex"))
    assert caller.refusal == (403, "unauthorized")
    assert support.upgrades == 0


async def test_a_token_counts_for_an_organisation_without_accounts(
    line: DocumentCalls, support: Agent
) -> None:
    """The token binds the socket to the call all the same."""
    placed = await line.place(f"/xml/{line.carrier}?agent=support&org=globex", proven=False)
    assert placed.answered.status == 200
    before = len(line.gateway.ends())
    caller = await line.dial(placed.stream_url, proven=False)
    for message in opening_of_call(line.carrier, "another-call"):
        caller.say(message)
    await assert_closed_as(line, caller, before, "unauthorized")
    caller = await line.dial(placed.stream_url, proven=False)
    call = await line.opened(caller, placed.call_id, support)
    await caller.hang_up()
    await assert_ended(line.gateway, call.session, "caller_hangup", "caller")


async def test_a_token_without_a_call_is_bound_to_the_first_call(line: DocumentCalls, support: Agent) -> None:
    """As that of a call out, whose id is not known before the carrier has made it."""
    first, second = uuid.uuid4().hex, uuid.uuid4().hex
    url = minted(line, "", at=time.time())
    caller = await line.dial(url)
    call = await line.opened(caller, first, support)
    before = len(line.gateway.ends())
    other = await line.dial(url)
    for message in opening_of_call(line.carrier, second):
        other.say(message)
    await assert_closed_as(line, other, before, "unauthorized")
    await caller.hang_up()
    await assert_ended(line.gateway, call.session, "caller_hangup", "caller")


async def test_a_token_of_a_session_that_waits_for_no_stream(line: DocumentCalls, support: Agent) -> None:
    call_id = uuid.uuid4().hex
    url = minted(line, call_id, at=time.time(), session_id=str(uuid.uuid4()))
    before = len(line.gateway.ends())
    caller = await line.dial(url)
    for message in opening_of_call(line.carrier, call_id):
        caller.say(message)
    await assert_closed_as(line, caller, before, "unauthorized")
    assert support.upgrades == 0


@pytest.fixture(scope="module")
def dying(
    start_gateway: Callable[..., Gateway], support_port: AgentPort, carrier_servers: dict[str, Server]
) -> Gateway:
    """A gateway whose workers a test kills."""
    agent = {"name": "support", "organization": "acme", "instances": [support_port.url], "max_agents": 1}
    return start_gateway(
        server={"public_url": "https://voice.example.com", "workers": 2},
        organizations=[{"name": "acme", "carriers": accounts(carrier_servers)}],
        agents=[agent | {"after": "redirect"}],
    )


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo"], indirect=True)
async def test_a_call_whose_gateway_died_comes_back_to_the_other(
    dying: Gateway, carrier_servers: dict[str, Server], carrier: str, support: Agent
) -> None:
    """Its document redirects, so the carrier asks again. The one place was the dead call's."""
    gateway = dying
    before = len(gateway.log_lines())
    server = carrier_servers[carrier]
    server.via = f"http://127.0.0.1:{gateway.port}"
    await server.start()
    try:
        line = DocumentCalls(gateway, server, carrier)
        placed = await line.place()
        caller, call = await line.stream(placed, support)
        owner = gateway.sessions(call.session)[0]["owner"]
        os.kill(next(worker["pid"] for worker in gateway.workers() if worker["id"] == owner), signal.SIGKILL)
        gateway.upgrades -= 1  # it does not live to tell its call's end
        assert await caller.closed() == (1006, "")
        # Only its parent's word says that all its sockets are gone, the one that listens among them.
        await eventually(
            lambda: any(line["event"].startswith("a worker died") for line in gateway.log_lines()[before:]),
            "its death is told",
        )
        await eventually(lambda: gateway.listening() == 2, "a worker is started again")
        await server.stop()  # it may have a connection to the dead worker
        await server.start()
        assert placed.document is not None
        (redirect,) = [verb for verb in placed.document.after if verb.tag == "Redirect"]
        parts = urlsplit(redirect.text or "")
        again = await line.place(
            f"{parts.path}?{parts.query}",
            **{"CallUUID" if carrier == "plivo" else "CallSid": placed.call_id},
            **({"method": "POST"} if carrier == "telnyx" else {}),
        )
        second = await line.dial(again.stream_url)
        assert second.status == 101, second.body
        taken = await line.opened(second, placed.call_id, support)
        assert taken.session != call.session
        assert gateway.sessions(call.session)[0]["reason"] == "gateway_lost"
        await second.hang_up()
        await assert_ended(gateway, taken.session, "caller_hangup", "caller")
    finally:
        await gateway.callers_leave()
        await server.stop()


async def test_a_token_used_before_a_later_one_is_refused(line: DocumentCalls, support: Agent) -> None:
    """A call that came back with a new document: the URL of the old one is nobody's any more."""
    key = "CallUUID" if line.carrier == "plivo" else "CallSid"
    old = await line.place()
    new = await line.place(**{key: old.call_id})
    caller, call = await line.stream(old, support)
    caller.reset()
    await assert_ended(line.gateway, call.session, "carrier_lost", "carrier")
    for how_it_goes in ("runs", "is over"):
        if how_it_goes == "runs":
            caller = await line.dial(new.stream_url)
            call = await line.opened(caller, old.call_id, support)
        else:
            await caller.hang_up()
            await assert_ended(line.gateway, call.session, "caller_hangup", "caller")
        before = len(line.gateway.ends())
        stolen = await line.dial(old.stream_url)
        for message in opening_of_call(line.carrier, old.call_id):
            stolen.say(message)
        await assert_closed_as(line, stolen, before, "unauthorized")
    assert support.upgrades == 2
