# SPDX-License-Identifier: BSD-2-Clause
"""A call whose carrier opens another socket when one is lost (docs/sockets.md; docs/reference/carriers.md
§1, §3.1, §4.1).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, AgentCall
from tests.harness.call_assertions import assert_ended
from tests.harness.caller import Caller
from tests.harness.document_calls import DocumentCalls, opening_of_call
from tests.harness.gateway import Gateway
from tests.harness.rest_server import Placed
from tests.harness.transcripts import IDS, replies, talk

CARRIERS = ("twilio", "telnyx", "plivo")


only = {
    name: pytest.mark.parametrize("carrier", [name], indirect=True) for name in ("twilio", "telnyx", "plivo")
}


def on_stream(carrier: str, message: str, stream: str) -> str:
    """Return a transcript's message with another stream id."""
    return message.replace(IDS[carrier][1], stream)


@dataclass
class ReconnectingCall:
    """A running call with its carrier's latest socket. `first`: the stream id that the agent knows."""

    line: DocumentCalls
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
        """Assert that messages go both ways, each side receiving the stream id that it knows."""
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
        """End the carrier's socket without a close, and wait until the gateway has noticed."""
        getattr(self.caller, how)()
        if how == "half_close":
            await self.caller.ended()
        await eventually(
            lambda: waits_for_carrier(self.gateway, self.session), "the call waits for another socket"
        )

    async def comes_again(self, early: Sequence[str] = (), **how: Any) -> Caller:
        """Open another socket for the call, as the carrier does. `early`: sent before its `start`; `how`: see
        caller.dial.
        """
        url = self.placed.stream_url
        if self.line.carrier == "twilio":
            again = await requests_next_document(self.line, self.placed)
            url = again.stream_url
            self.placed = again
        self.count += 1
        self.latest = f"stream-{self.count}"
        caller = await self.line.dial(url, **how)
        assert caller.status == 101, caller.body
        *before, start = opening(self.line.carrier, self.placed.call_id, self.latest)
        for message in (*before, *early, start):
            caller.say(message)
        return caller

    async def goes_on(self, early: Sequence[str] = ()) -> None:
        """Open another socket, and wait until the call continues on it. `early`: see comes_again."""
        before = continuations(self.gateway, self.session)
        self.caller = await self.comes_again(early)
        await eventually(
            lambda: len(continuations(self.gateway, self.session)) > len(before), "the call goes on"
        )

    async def hangs_up(self) -> dict[str, Any]:
        """Hang up as the caller does; return the session's record."""
        self.caller.send(self.caller.close_frame(1000))
        assert (await self.agent.closed())[0] == 1000
        record = await assert_ended(self.gateway, self.session, "caller_hangup", "caller")
        assert record["state"] == "ended"
        assert [one["id"] for one in sessions_of(self)] == [self.session], "there is no other session"
        return record


def opening(carrier: str, call_id: str, stream: str) -> list[str]:
    return [on_stream(carrier, message, stream) for message in opening_of_call(carrier, call_id)]


def sessions_of(stream: ReconnectingCall) -> list[dict[str, Any]]:
    return [one for one in stream.gateway.sessions() if one["call_id"] == stream.placed.call_id]


def continuations(gateway: Gateway, session: str) -> list[dict[str, Any]]:
    lines = gateway.log_lines()
    return [line for line in lines if line["event"] == "call continued" and line["session"] == session]


def waits_for_carrier(gateway: Gateway, session: str) -> bool:
    """Return True if the store says that the call waits for another socket."""
    found = gateway.rows("SELECT * FROM document WHERE kind = 'call_lost' AND key = ?", (session,))
    return bool(found)


async def requests_next_document(line: DocumentCalls, placed: Placed) -> Placed:
    """Fetch a document again, at the URL that the last one names."""
    assert placed.document is not None
    (redirect,) = [verb for verb in placed.document.after if verb.tag == "Redirect"]
    parts = urlsplit(redirect.text or "")
    name = "CallUUID" if line.carrier == "plivo" else "CallSid"
    how = {"method": "POST"} if line.carrier == "telnyx" else {}
    again = await line.place(f"{parts.path}?{parts.query}", **{name: placed.call_id}, **how)
    return Placed(placed.call_id, again.answered, again.document, again.fields)


async def first_stream(
    line: DocumentCalls, agent: Agent, name: str | None = None, org: str = "acme", *, opened: bool = True
) -> ReconnectingCall:
    """Place a call, and wait until its agent has it. `name`: None for an agent that takes calls back."""
    name = name or ("asked" if line.carrier == "twilio" else "support")
    proven = org == "acme"
    placed = await line.place(f"/xml/{line.carrier}?agent={name}&org={org}", proven=proven)
    caller = await line.dial(placed.stream_url, proven=proven)
    assert caller.status == 101, caller.body
    sent = [caller.say(message) for message in opening(line.carrier, placed.call_id, "stream-1")]
    taken = await agent.call()
    if opened:
        await taken.opening(sent)
    return ReconnectingCall(line, placed, caller, taken)


async def assert_another_session(stream: ReconnectingCall, caller: Caller, agent: Agent) -> None:
    """Assert that this socket's call reached the agent as a session of its own; hang up."""
    taken = await agent.call()
    assert taken.session != stream.session
    await caller.hang_up()
    await assert_ended(stream.gateway, taken.session, "caller_hangup", "caller")


async def assert_call_over(stream: ReconnectingCall, reason: str, side: str, code: int) -> dict[str, Any]:
    """Assert that the agent gets this close code, and that the session ended with this reason."""
    assert (await stream.agent.closed())[0] == code
    return await assert_ended(stream.gateway, stream.session, reason, side)
