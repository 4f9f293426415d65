# SPDX-License-Identifier: BSD-2-Clause
"""Assertions about calls, and whole calls in one line."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, AgentCall
from tests.harness.caller import Caller
from tests.harness.gateway import Gateway
from tests.harness.transcripts import opening, replies, talk
from tests.harness.websocket_peer import WebSocketPeer


@dataclass
class Call:
    """A call whose agent has received the opening."""

    caller: Caller
    agent: AgentCall
    opening: list[bytes]

    @property
    def session(self) -> str:
        """The session's id."""
        return self.agent.session


async def connect(
    gateway: Gateway,
    agent: Agent,
    target: str = "/ws/twilio/support.acme",
    *,
    parameters: dict[str, str] | None = None,
    to_number: str | None = None,
    from_number: str | None = None,
    **how: Any,
) -> Call:
    """Place a call, and wait until the agent has received the opening, unchanged."""
    caller = await gateway.dial(target, **how)
    assert caller.status == 101, caller.body
    carrier = target.split("/")[2].partition("?")[0]
    sent = []
    if carrier != "generic":
        messages = opening(carrier, parameters, to_number=to_number, from_number=from_number)
        sent = [caller.say(message) for message in messages]
    taken = await agent.call()
    assert str(uuid.UUID(taken.session)) == taken.session
    await taken.opening(sent)
    return Call(caller, taken, sent)


async def assert_agent_heard(call: AgentCall, raw: Sequence[bytes]) -> None:
    """Assert that the agent receives exactly these frames next, byte for byte."""
    await _assert_received(call, raw)


async def assert_caller_heard(caller: Caller, raw: Sequence[bytes]) -> None:
    """Assert that the caller receives exactly these frames next, byte for byte."""
    await _assert_received(caller, raw)


async def _assert_received(peer: WebSocketPeer, raw: Sequence[bytes]) -> None:
    for expected in raw:
        frame = await peer.next()
        assert frame is not None, "the socket ended"
        assert frame.raw == expected


async def assert_both_hear(call: Call) -> None:
    """Assert that both sides of a Twilio call receive each other's messages."""
    await assert_agent_heard(call.agent, [call.caller.say(message) for message in talk("twilio")])
    await assert_caller_heard(call.caller, [call.agent.say(message) for message in replies("twilio")])


async def assert_ended(gateway: Gateway, session: str, reason: str, side: str) -> dict[str, Any]:
    """Assert that the session ended with this reason, in the store and in one log line; return its record."""

    def record() -> dict[str, Any] | None:
        records = [one for one in gateway.sessions(session) if one["ended_at"] is not None]
        return records[0] if records else None

    ended: dict[str, Any] = await eventually(record, f"{session} ends ({reason})")
    assert (ended["reason"], ended["side"]) == (reason, side), ended

    def end_lines() -> list[dict[str, Any]]:
        return [line for line in gateway.ends() if line["session"] == session]

    lines = await eventually(end_lines, f"the end of {session} is logged")
    assert [(line["reason"], line["side"]) for line in lines] == [(reason, side)]
    assert lines[0]["words"] == ended["detail"] != ""
    return ended


async def assert_end_logged(gateway: Gateway, before: int, reason: str) -> dict[str, Any]:
    """Assert that one call has ended since `before` ends, with this reason; return the log line."""
    lines = await eventually(lambda: gateway.ends()[before:], f"an end is logged ({reason})")
    assert [line["reason"] for line in lines] == [reason], lines
    assert lines[0]["words"]
    assert lines[0]["side"]
    line: dict[str, Any] = lines[0]
    return line


async def assert_refused(gateway: Gateway, before: int, reason: str) -> dict[str, Any]:
    """Assert what `assert_end_logged` does, and that the refused call has no session; return the line."""
    line = await assert_end_logged(gateway, before, reason)
    assert line["event"] == "call refused"
    assert gateway.sessions(line["session"]) == []
    return line


async def assert_no_slots_taken(gateway: Gateway) -> None:
    """Assert that every call is over and has released its slot."""

    def free() -> bool:
        try:
            code, status = gateway.get("/status")
        except OSError:
            return False
        # With narrow connection limits this is refused too, while earlier connections close.
        return bool(code == 200 and status["sessions"]["active"] == status["calls"] == 0)

    await eventually(free, "all slots are free")


async def assert_each_end_logged(gateway: Gateway) -> None:
    """Assert that the log has as many ends as there were calls."""

    def calls() -> int:
        return gateway.upgrades - gateway.continued

    await eventually(lambda: len(gateway.ends()) >= calls(), "the end of each call is logged")
    assert len(gateway.ends()) == calls()


async def assert_next_call_works(
    gateway: Gateway, agent: Agent, target: str = "/ws/twilio/support.acme"
) -> None:
    """Assert that a caller reaches the agent, that both receive each other, and that the call ends well."""
    call = await connect(gateway, agent, target)
    await assert_agent_heard(call.agent, [call.caller.say(talk("twilio")[0])])
    await assert_caller_heard(call.caller, [call.agent.say(replies("twilio")[0])])
    await hang_up(call)
    await assert_ended(gateway, call.session, "caller_hangup", "caller")


async def hang_up(call: Call, code: int = 1000, reason: str = "") -> None:
    """Hang up as the caller does; assert that the agent gets the close, and that both sockets end."""
    call.caller.send(call.caller.close_frame(code, reason))
    assert await call.agent.closed() == (code, reason)
    assert await call.caller.closed() == (code, "")
    await call.caller.ended()
    await call.agent.ended()
