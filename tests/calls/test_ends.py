# SPDX-License-Identifier: BSD-2-Clause
"""Ends of calls: each call ends once, with one reason, in the store and in the log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.simulator.waiting import eventually
from tests.harness.accelerator_modes import accelerator  # noqa: F401 - a fixture
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import (
    assert_agent_heard,
    assert_caller_heard,
    assert_ended,
    assert_next_call_works,
    connect,
    hang_up,
)
from tests.harness.frames import CLOSE, PING, TEXT, frame
from tests.harness.gateway import Gateway
from tests.harness.transcripts import CARRIERS, stop, talk


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    """A far end that is only late, on a busy machine, is waited for, and its own close is passed on."""
    return {"limits": {"close_timeout": 60}, "support": {"max_resumes": 0}}


@pytest.fixture(scope="module")
def hasty(start_gateway: Callable[..., Gateway], support_port: AgentPort, accelerator: str) -> Gateway:
    """The same for far ends that do not answer a close at all, or cannot be sent one."""
    support = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    return start_gateway(
        accelerator=accelerator,
        agents=[support | {"max_agents": 1, "max_resumes": 0}],
        limits={"close_timeout": 0.3},
    )


async def record_of(gateway: Gateway, session: str) -> dict[str, Any]:
    """The record of a session once it has ended, whatever the reason."""
    matching = await eventually(
        lambda: [one for one in gateway.sessions(session) if one["reason"]], "the call ends"
    )
    record: dict[str, Any] = matching[0]
    return record


# Somebody closes


@pytest.mark.parametrize(
    ("code", "reason", "why", "side", "state"),
    [
        (1000, "goodbye", "caller_hangup", "caller", "ended"),
        (1001, "", "caller_hangup", "caller", "ended"),
        (1011, "out of tape", "carrier_lost", "carrier", "failed"),
        (4000, "die Leitung ist gestört", "carrier_lost", "carrier", "failed"),
    ],
)
async def test_the_carrier_closes(
    gateway: Gateway, support: Agent, code: int, reason: str, why: str, side: str, state: str
) -> None:
    call = await connect(gateway, support)
    await hang_up(call, code, reason)
    record = await assert_ended(gateway, call.session, why, side)
    assert record["state"] == state
    assert record["detail"] == f"closed with {code}" + (f": {reason}" if reason else "")


async def test_the_carrier_closes_without_a_code(gateway: Gateway, support: Agent) -> None:
    call = await connect(gateway, support)
    call.caller.send(call.caller.frame(CLOSE))
    assert await call.agent.closed() == (1005, "")
    assert await call.caller.closed() == (1005, "")
    record = await assert_ended(gateway, call.session, "caller_hangup", "caller")
    assert record["detail"] == "closed without a code"


@pytest.mark.parametrize(
    ("code", "reason", "why", "state"),
    [
        (1000, "", "agent_ended", "ended"),
        (1001, "deploying", "agent_ended", "ended"),
        (1011, "the pipeline broke", "agent_failed", "failed"),
        (4000, "x" * 123, "agent_failed", "failed"),
    ],
)
async def test_the_agent_closes(
    gateway: Gateway, support: Agent, code: int, reason: str, why: str, state: str
) -> None:
    call = await connect(gateway, support)
    call.agent.send(call.agent.close_frame(code, reason))
    assert await call.caller.closed() == (code, reason)
    assert await call.agent.closed() == (code, "")
    record = await assert_ended(gateway, call.session, why, "agent")
    assert record["state"] == state
    assert (reason in record["detail"], str(code) in record["detail"]) == (True, True)


async def test_what_was_sent_before_the_close_arrives(gateway: Gateway, support: Agent) -> None:
    call = await connect(gateway, support)
    last = [call.agent.frame(TEXT, message.encode()) for message in talk("twilio")]
    call.agent.send(b"".join(last) + call.agent.close_frame(1000) + call.agent.frame(TEXT, b"void"))
    await assert_caller_heard(call.caller, last)
    assert await call.caller.closed() == (1000, "")
    assert await call.caller.next() is None, "what follows a close is void (RFC 6455 §5.5.1)"
    await assert_ended(gateway, call.session, "agent_ended", "agent")


async def test_the_other_side_may_finish_its_message(gateway: Gateway, support: Agent) -> None:
    """Between a close and its answer the other side's frames still pass."""
    call = await connect(gateway, support)
    call.agent.send(call.agent.close_frame(1000))
    received = await call.caller.next()
    assert received is not None
    assert received.opcode == CLOSE
    last = call.caller.say(talk("twilio")[0])
    call.caller.send(call.caller.close_frame(1000))
    await assert_agent_heard(call.agent, [last])
    assert await call.agent.closed() == (1000, "")
    await assert_ended(gateway, call.session, "agent_ended", "agent")


async def test_a_close_that_is_not_answered(hasty: Gateway, support: Agent) -> None:
    """The far end has close_timeout to answer; then both sockets end all the same."""
    call = await connect(hasty, support)
    call.caller.send(call.caller.close_frame(1000))
    await call.agent.ended()  # hears the close, answers nothing
    assert await call.caller.closed() == (1000, "")
    await assert_ended(hasty, call.session, "caller_hangup", "caller")
    await assert_next_call_works(hasty, support)


async def test_both_close_at_the_same_time(gateway: Gateway, support: Agent) -> None:
    for _ in range(10):
        call = await connect(gateway, support)
        call.caller.send(call.caller.close_frame(1000))
        call.agent.send(call.agent.close_frame(1000))
        assert await call.caller.closed() == (1000, "")
        assert await call.agent.closed() == (1000, "")
        record = await record_of(gateway, call.session)
        side = {"caller_hangup": "caller", "agent_ended": "agent"}[record["reason"]]
        await assert_ended(gateway, call.session, record["reason"], side)


@pytest.mark.parametrize(
    "payload",
    [
        *(code.to_bytes(2, "big") for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)),
        b"\x03",
    ],
)
@pytest.mark.parametrize("side", ["carrier", "agent"])
async def test_an_illegal_close_code(gateway: Gateway, support: Agent, side: str, payload: bytes) -> None:
    call = await connect(gateway, support)
    guilty, other = (call.caller, call.agent) if side == "carrier" else (call.agent, call.caller)
    guilty.send(guilty.frame(CLOSE, payload))
    assert (await guilty.closed())[0] == 1002
    assert (await other.closed())[0] == 1011
    await assert_ended(gateway, call.session, f"{side}_protocol_error", side)


async def test_a_close_reason_that_is_not_utf_8(gateway: Gateway, support: Agent) -> None:
    call = await connect(gateway, support)
    call.caller.send(call.caller.frame(CLOSE, b"\x03\xe8\xff\xfe"))
    assert (await call.caller.closed())[0] == 1007
    assert (await call.agent.closed())[0] == 1011
    await assert_ended(gateway, call.session, "carrier_protocol_error", "carrier")


# Stop


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_stop_and_close(gateway: Gateway, support: Agent, carrier: str) -> None:
    call = await connect(gateway, support, f"/ws/{carrier}/support.acme")
    await assert_agent_heard(call.agent, [call.caller.say(stop(carrier))])
    await hang_up(call)
    await assert_ended(gateway, call.session, "caller_hangup", "caller")


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_stop_without_a_close(hasty: Gateway, support: Agent, carrier: str) -> None:
    """The agent ends only with its socket (docs/reference/carriers.md §8.2), so it is closed for it."""
    call = await connect(hasty, support, f"/ws/{carrier}/support.acme")
    await assert_agent_heard(call.agent, [call.caller.say(stop(carrier))])
    assert await call.agent.closed() == (1000, "the stream was stopped")
    assert await call.caller.closed() == (1000, "the stream was stopped")
    await assert_ended(hasty, call.session, "caller_hangup", "caller")


async def test_stop_and_a_lost_connection(gateway: Gateway, support: Agent) -> None:
    call = await connect(gateway, support)
    await assert_agent_heard(call.agent, [call.caller.say(stop("twilio"))])
    call.caller.reset()
    assert (await call.agent.closed())[0] == 1000
    record = await assert_ended(gateway, call.session, "caller_hangup", "caller")
    assert record["state"] == "ended"


async def test_a_generic_clients_stop_message_has_no_meaning(gateway: Gateway, support: Agent) -> None:
    call = await connect(gateway, support, "/ws/generic/support.acme")
    await assert_agent_heard(call.agent, [call.caller.say(stop("twilio"))])
    call.agent.send(frame(PING, b"still there"))
    await call.caller.answer_ping()
    await call.agent.hear()
    await hang_up(call)


# The connection is lost


@pytest.mark.parametrize("how", ["reset", "half_close"])
async def test_the_carrier_is_lost(gateway: Gateway, support: Agent, how: str) -> None:
    call = await connect(gateway, support)
    getattr(call.caller, how)()
    assert await call.agent.closed() == (1011, "the carrier's socket was lost without a close")
    record = await assert_ended(gateway, call.session, "carrier_lost", "carrier")
    assert record["state"] == "failed"
    await assert_next_call_works(gateway, support)


async def test_the_agent_is_lost(gateway: Gateway, support: Agent) -> None:
    call = await connect(gateway, support)
    call.agent.reset()
    assert await call.caller.closed() == (1011, "the agent's socket was lost without a close")
    record = await assert_ended(gateway, call.session, "agent_lost", "agent")
    assert record["state"] == "failed"
    await assert_next_call_works(gateway, support)


async def test_a_connection_lost_inside_a_frame(hasty: Gateway, support: Agent) -> None:
    """No close frame of ours may stand inside the agent's half-sent frame: the caller's socket just ends."""
    call = await connect(hasty, support)
    half = call.agent.frame(TEXT, b"x" * 50_000)[:30_000]
    first = call.agent.say(talk("twilio")[0])  # its sound, so that long frames pass as they come
    await assert_caller_heard(call.caller, [first])
    await call.agent.pour(half)
    assert await call.caller.hear_bytes(len(first) + 30_000) == first + half
    call.agent.reset()
    assert await call.caller.ended() == first + half
    await assert_ended(hasty, call.session, "agent_lost", "agent")


async def test_both_are_lost_at_once(gateway: Gateway, support: Agent) -> None:
    for _ in range(10):
        call = await connect(gateway, support)
        call.caller.reset()
        call.agent.reset()
        record = await record_of(gateway, call.session)
        assert record["reason"] in ("carrier_lost", "agent_lost")
        await assert_ended(gateway, call.session, record["reason"], record["reason"].removesuffix("_lost"))
