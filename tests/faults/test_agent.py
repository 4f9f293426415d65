# SPDX-License-Identifier: BSD-2-Clause
"""Faults of the agent: the call ends with a reason or continues, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gateway.simulator.waiting import eventually
from tests.faults import agent_process
from tests.faults.case import Case
from tests.faults.conversation import FRAME_S, REPLY, Recorder, speak
from tests.faults.launcher import Launcher
from tests.faults.suite_settings import LIMITS, agents_at, warmed
from tests.harness.agent import Agent, AgentCall, AgentPort, Answer, accepts, answers, hangs, resets
from tests.harness.frames import CLOSE, CONTINUATION, PING, TEXT
from tests.harness.gateway import Gateway

Cases = Callable[..., Case]

MESSAGE_BYTES = 1 << 20
FLOOD_FRAMES = 20_000
FRAME_OF_DEATH = 12
PATIENCE_FRAMES = 60
"""After so many frames of silence, 1.2 s, the caller hangs up."""

SILENCE_S = 1.0
TURN_FRAMES = 10
"""Frames after which an agent is seen to be heard."""


@pytest.fixture
def process_at(support_port: AgentPort) -> Iterator[Callable[..., Any]]:
    """Start an agent in a process of its own, and ends it after the test."""
    running = []

    def start(frame: int, sig: int) -> Any:
        running.append(agent_process.start(support_port, frame, sig))
        return running[-1]

    yield start
    for one in running:
        one.kill()
        one.wait()


async def is_gone(process: Any) -> None:
    """Kill a process, and wait until its port is free: one that dies still takes connections."""
    process.kill()
    await asyncio.to_thread(process.wait)


# Before the call has begun


async def test_refuses(case: Cases, agent_at: Any, support_port: AgentPort) -> None:
    async with case("refuses the connection") as fault:
        fault.strike()
        _, recorder = await fault.caller()
        await fault.ends(recorder, 1011, "agent_unreachable", "agent")
        fault.agent = await agent_at(support_port)


@contextlib.contextmanager
def full_queue(port: AgentPort) -> Iterator[None]:
    """Let connections to this port wait: fill its accept queue (listen(2))."""
    with contextlib.ExitStack() as sockets:
        listening = sockets.enter_context(port.listen())
        listening.listen(0)
        for _ in range(4):
            one = sockets.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port.number))
        yield


async def test_hangs_in_connect(case: Cases, agent_at: Any, support_port: AgentPort) -> None:
    async with case("hangs in connect") as fault:
        with full_queue(support_port):
            fault.strike()
            _, recorder = await fault.caller()
            await fault.ends(recorder, 1011, "agent_start_timeout", "agent")
        fault.agent = await agent_at(support_port)


BAD_ANSWERS: dict[str, tuple[Answer, str]] = {
    "takes the connection and says nothing": (hangs, "agent_start_timeout"),
    "answers 500": (
        answers(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"),
        "agent_unreachable",
    ),
    "takes the connection and resets it": (resets, "agent_unreachable"),
    "sends garbage instead of HTTP": (answers(bytes(range(256)) + b"\r\n\r\n"), "agent_unreachable"),
}


ACCEPT = b"Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n"
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
BAD_ANSWERS |= {
    "answers 101 with another's key": (answers(SWITCHING + ACCEPT + b"\r\n"), "agent_unreachable"),
    "answers 101 without a key": (answers(SWITCHING + b"\r\n"), "agent_unreachable"),
    "answers 302, to another host": (
        answers(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/ws\r\nContent-Length: 0\r\n\r\n"),
        "agent_unreachable",
    ),
    "answers with a head of 100,000 bytes": (
        answers(b"HTTP/1.1 101 Switching Protocols\r\nX: " + b"x" * 100_000),
        "agent_unreachable",
    ),
    "answers half a head, and no more": (answers(SWITCHING), "agent_start_timeout"),
    "answers half a head, and closes": (answers(SWITCHING, then="close"), "agent_unreachable"),
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
async def test_a_bad_answer(case: Cases, support: Agent, name: str) -> None:
    support.answer, reason = BAD_ANSWERS[name]
    async with case(name) as fault:
        fault.agent = support
        fault.strike()
        _, recorder = await fault.caller()
        await fault.ends(recorder, 1011, reason, "agent")


async def test_readyz_says_yes_and_the_socket_no(
    case: Cases, support: Agent, support_port: AgentPort, gateway: Gateway
) -> None:
    async with case("readyz lies: ready, but takes no call") as fault:
        await eventually(lambda: readiness(gateway, support_port) == "ready", "the instance is seen as ready")
        support.answer = answers(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        fault.agent = support
        fault.strike()
        _, recorder = await fault.caller()
        await fault.ends(recorder, 1011, "agent_unreachable", "agent")


async def test_readyz_says_no_for_ever(
    case: Cases, support: Agent, support_port: AgentPort, gateway: Gateway
) -> None:
    async with case("readyz lies: never ready") as fault:
        support.ready = 503
        await eventually(
            lambda: readiness(gateway, support_port) == "starting", "the instance is seen as starting"
        )
        fault.agent = support
        fault.strike()
        _, recorder = await fault.caller()
        await fault.ends(recorder, 1011, "agent_start_timeout", "agent")
        support.ready = 200


def readiness(gateway: Gateway, port: AgentPort) -> str:
    """Return the latest health of the instance at this port."""
    told = [line for line in gateway.log_lines() if line["event"] == "instance"]
    said: list[str] = [line["readiness"] for line in told if line["instance"] == port.url]
    return said[-1] if said else ""


# In the middle of the call


async def not_yet(agent: Agent, call: AgentCall) -> None:
    """Takes the call once the agent's answer is another."""
    agent.other_calls.put_nowait(call)
    await eventually(lambda: agent.answer is not not_yet, "it may take the call")
    await agent.answer(agent, call)


async def takes_over(fault: Case, recorder: Recorder, other: Agent) -> None:
    """Another agent takes its time. Then it has the session, is told so, and is heard; the caller leaves."""
    await other.next_other_call()
    await eventually(lambda: recorder.hold_frames, "the caller hears something meanwhile")
    other.answer = accepts
    call = await other.call()
    assert call.headers["x-patchbay-resumed"] == "1"
    before = recorder.audio_frames
    speaking = asyncio.create_task(speak(call, REPLY))
    await recorder.until(before + TURN_FRAMES)
    speaking.cancel()
    fault.note_received(recorder, with_close=False)
    fault.heard = "sound, holding sound, then the other agent"
    await fault.hangs_up(recorder)
    line = await fault.over("caller_hangup", "caller")
    assert line["session"] == call.session


async def test_takes_the_call_and_resets(case: Cases, support: Agent) -> None:
    async def resets_at_once(agent: Agent, call: AgentCall) -> None:
        await accepts(agent, call)
        await call.next()
        call.reset()

    support.answer = resets_at_once
    async with case("takes the call and resets it, again and again") as fault:
        fault.agent = support
        fault.strike()
        _, recorder = await fault.caller()
        await fault.ends(recorder, 1011, "agent_lost", "agent")


async def test_leaves_without_a_close_frame(case: Cases, support: Agent) -> None:
    """As a handler that returns or raises; servers close the connection for it."""
    async with case("its handler returns without closing the socket") as fault:
        talk = await fault.talk(support)
        talk.silence()
        fault.strike()
        talk.agent.half_close()
        await fault.ends(talk.recorder, 1000, "agent_ended", "agent")
        assert support.calls.empty(), "it is not run again"


async def test_dies_at_a_frame(case: Cases, process_at: Any, agent_at: Any, support_port: AgentPort) -> None:
    async with case(f"its process is killed at frame {FRAME_OF_DEATH}, and there is no other") as fault:
        process_at(FRAME_OF_DEATH, signal.SIGKILL)
        _, recorder = await fault.caller()
        await recorder.until(FRAME_OF_DEATH)
        fault.strike()
        await fault.ends(recorder, 1011, "agent_lost", "agent")
        assert recorder.audio_frames == FRAME_OF_DEATH
        fault.agent = await agent_at(support_port)


@pytest.fixture(scope="module")
def other_port() -> Iterator[AgentPort]:
    port = AgentPort()
    yield port
    port.free()


@pytest.fixture(scope="module")
def with_two(
    start_gateway: Callable[..., Gateway], support_port: AgentPort, other_port: AgentPort
) -> Gateway:
    """A gateway whose twins.acme has two instances, and whose callers hear something while they wait."""
    twins = {"name": "twins", "organization": "acme", "instances": [support_port.url, other_port.url]}
    return start_gateway(
        agents=[*agents_at(support_port.url), twins | {"hold": "ringback"}],
        limits=LIMITS | {"agent_silence": SILENCE_S},
    )


TWO = {
    "its process is killed, another takes over": signal.SIGKILL,
    f"its process freezes (`agent_silence` {SILENCE_S:g} s), another takes over": signal.SIGSTOP,
}


@pytest.mark.parametrize("name", TWO)
async def test_another_takes_over(
    case: Cases,
    with_two: Gateway,
    bases: dict[int, int],
    process_at: Any,
    agent_at: Any,
    support_port: AgentPort,
    other_port: AgentPort,
    name: str,
) -> None:
    before = await warmed(with_two, bases, support_port)
    async with case(name, of=with_two, before=before) as fault:
        lost = process_at(FRAME_OF_DEATH, TWO[name])
        await eventually(lambda: readiness(with_two, support_port) == "ready", "the first instance is ready")
        _, recorder = await fault.caller("/ws/twilio/twins.acme")
        await recorder.until(1)
        other = await agent_at(other_port, not_yet)
        await recorder.until(FRAME_OF_DEATH)
        fault.strike()
        await takes_over(fault, recorder, other)
        await is_gone(lost)
        fault.agent = await agent_at(support_port)


async def test_freezes(case: Cases, process_at: Any, agent_at: Any, support_port: AgentPort) -> None:
    async with case("its process freezes") as fault:
        frozen = process_at(FRAME_OF_DEATH, signal.SIGSTOP)
        caller, recorder = await fault.caller()
        await recorder.until(FRAME_OF_DEATH)
        await asyncio.to_thread(os.waitid, os.P_PID, frozen.pid, os.WSTOPPED | os.WNOWAIT)
        fault.strike()
        for _ in range(PATIENCE_FRAMES):  # the caller goes on talking
            caller.say(REPLY)
            await asyncio.sleep(FRAME_S)
        await fault.hangs_up(recorder)
        fault.note_received(recorder)
        await fault.over("caller_hangup", "caller")
        fault.heard = "sound, then nothing until it hung up"
        await is_gone(frozen)
        fault.agent = await agent_at(support_port)


async def test_stops_reading(case: Cases, agent_at: Any, support_port: AgentPort) -> None:
    support = await agent_at(support_port, receive_buffer=4096, read_ahead=4096)
    async with case("stops reading while the carrier floods") as fault:
        fault.agent = support
        caller, recorder = await fault.caller()
        await support.call()
        fault.strike()
        pouring = asyncio.create_task(caller.pour_on(caller.frame(TEXT, REPLY.encode()) * 100))
        await fault.ends(recorder, 1011, "agent_stalled", "agent")
        pouring.cancel()
        assert fault.grown <= MESSAGE_BYTES * 16, "what is not read is not kept"


async def test_floods(case: Cases, support: Agent) -> None:
    async with case(f"floods: {FLOOD_FRAMES} frames at once") as fault:
        talk = await fault.talk(support, agent_speaks=False)
        fault.strike()
        piece = talk.agent.frame(TEXT, REPLY.encode()) * 100
        for _ in range(FLOOD_FRAMES // 100):
            await talk.agent.pour(piece)
        await talk.recorder.until(FLOOD_FRAMES)
        talk.agent.send(talk.agent.close_frame(1000))
        await fault.ends(talk.recorder, 1000, "agent_ended", "agent")
        fault.heard = "all of it, then 1000"


async def test_sends_garbage(case: Cases, support: Agent) -> None:
    async with case("sends bytes that are no frames") as fault:
        talk = await fault.talk(support)
        talk.silence()
        fault.strike()
        talk.agent.send(b"\xff\xfe\xfd garbage")
        await fault.ends(talk.recorder, 1011, "agent_protocol_error", "agent")


WRONG_FRAMES: dict[str, Callable[[AgentCall], bytes]] = {
    "a frame that is masked": lambda peer: peer.frame(TEXT, b"{}", key=b"1234"),
    "a frame with a reserved opcode": lambda peer: peer.frame(0x3, b"x"),
    "a frame with a reserved bit": lambda peer: peer.frame(TEXT, b"{}", reserved=0x40),
    "a ping of 126 bytes": lambda peer: peer.frame(PING, bytes(126)),
    "a ping in two parts": lambda peer: peer.frame(PING, b"x", fin=False),
    "a continuation of nothing": lambda peer: peer.frame(CONTINUATION, b"x"),
    "a message within a message": lambda peer: peer.frame(TEXT, b"x", fin=False) + peer.frame(TEXT, b"x"),
    "a length of 2⁶³": lambda peer: b"\x81\x7f\x80" + bytes(7),
    "a close frame of one byte": lambda peer: peer.frame(CLOSE, b"x"),
}


@pytest.mark.parametrize("name", WRONG_FRAMES)
async def test_sends_wrong_frames(case: Cases, support: Agent, name: str) -> None:
    async with case(f"sends {name}") as fault:
        talk = await fault.talk(support)
        talk.silence()
        fault.strike()
        talk.agent.send(WRONG_FRAMES[name](talk.agent))
        await fault.ends(talk.recorder, 1011, "agent_protocol_error", "agent")


async def test_floods_with_pings(case: Cases, support: Agent) -> None:
    async with case("floods with 2,000 pings") as fault:
        talk = await fault.talk(support)
        fault.strike()
        await talk.agent.pour(talk.agent.frame(PING, b"there?") * 2000)
        await talk.recorder.until(talk.recorder.audio_frames + TURN_FRAMES)
        fault.note_received(talk.recorder, with_close=False)
        fault.heard = "sound"
        await talk.hang_up()
        await fault.over("caller_hangup", "caller")


async def test_is_lost_within_a_message(case: Cases, support: Agent) -> None:
    async with case("is lost within a message, and takes no other call") as fault:
        talk = await fault.talk(support)
        talk.silence()
        support.answer = resets
        fault.strike()
        talk.agent.send(talk.agent.frame(TEXT, REPLY.encode()[:10], fin=False))
        talk.agent.reset()
        await fault.ends(talk.recorder, 1011, "agent_lost", "agent")


async def test_sends_text_that_is_no_message(case: Cases, support: Agent) -> None:
    """Carriers put up with it or close; what must not pass is kept back by the coupling through messages."""
    async with case('sends text that is no message (`media = "messages"`)') as fault:
        talk = await fault.talk(support, "/ws/twilio/reader.acme")
        fault.strike()
        for garbage in (b"hello", b"{}", b"[" * 100_000, b'{"event":"\xff"}'):
            talk.agent.send(talk.agent.frame(TEXT, garbage))
        await talk.recorder.until(talk.recorder.audio_frames + 10)
        assert set(talk.recorder.texts) == {REPLY.encode()}
        fault.note_received(talk.recorder, with_close=False)
        fault.heard = "its sound, and nothing of the garbage"
        await talk.hang_up()
        await fault.over("caller_hangup", "caller")


async def test_sends_large_frames(case: Cases, support: Agent) -> None:
    async with case("sends frames of 1 MiB") as fault:
        talk = await fault.talk(support, agent_speaks=False)
        fault.strike()
        for _ in range(5):
            await talk.agent.pour(talk.agent.frame(TEXT, b"x" * MESSAGE_BYTES))
        await talk.recorder.until(5)
        talk.agent.send(talk.agent.close_frame(1000))
        await fault.ends(talk.recorder, 1000, "agent_ended", "agent")
        fault.heard = "all of them, then 1000"


async def test_sends_too_large_a_frame(case: Cases, support: Agent) -> None:
    async with case("sends a frame of 1 MiB and a byte") as fault:
        talk = await fault.talk(support)
        talk.silence()
        fault.strike()
        talk.agent.send(talk.agent.frame(TEXT, b"x" * (MESSAGE_BYTES + 1)))
        await fault.ends(talk.recorder, 1011, "agent_protocol_error", "agent")


CLEAN = (1000, 1001)
CODES = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4003, 4999)


@pytest.mark.parametrize("code", CODES)
async def test_closes(case: Cases, support: Agent, code: int) -> None:
    async with case(f"closes with {code}") as fault:
        talk = await fault.talk(support)
        talk.silence()
        fault.strike()
        talk.agent.send(talk.agent.close_frame(code))
        reason = "agent_ended" if code in CLEAN else "agent_failed"
        await fault.ends(talk.recorder, code, reason, "agent")


async def test_closes_without_a_code(case: Cases, support: Agent) -> None:
    async with case("closes without a code") as fault:
        talk = await fault.talk(support)
        talk.silence()
        fault.strike()
        talk.agent.send(talk.agent.frame(CLOSE))
        await fault.ends(talk.recorder, 1005, "agent_ended", "agent")


@pytest.mark.parametrize("code", [999, 1004, 1005, 1006, 1015, 2999, 5000])
async def test_closes_with_a_code_that_nobody_may_send(case: Cases, support: Agent, code: int) -> None:
    async with case(f"closes with {code}, which nobody may send") as fault:
        talk = await fault.talk(support)
        talk.silence()
        fault.strike()
        talk.agent.send(talk.agent.close_frame(code))
        await fault.ends(talk.recorder, 1011, "agent_protocol_error", "agent")


# Its name


@pytest.fixture
def named(launcher: Launcher, support_port: AgentPort) -> tuple[Gateway, Callable[[str | None], None]]:
    """A gateway whose instance is known by a name, and what sets the name's address; None takes it away."""
    gateway, hosts = launcher.with_names(
        agents=agents_at(f"http://agent.test:{support_port.number}"), limits=LIMITS
    )

    def resolves_to(address: str | None) -> None:
        hosts.write_text("127.0.0.1 localhost\n" + (f"{address} agent.test\n" if address else ""))

    resolves_to("127.0.0.1")
    return gateway, resolves_to


async def test_its_name_resolves_no_more(
    case: Cases, named: Any, bases: dict[int, int], support_port: AgentPort, agent_at: Any
) -> None:
    gateway, resolves_to = named
    before = await warmed(gateway, bases, support_port)
    support = await agent_at(support_port)
    async with case("its name resolves no more", of=gateway, before=before) as fault:
        fault.agent = support
        resolves_to(None)
        fault.strike()
        _, recorder = await fault.caller()
        await fault.ends(recorder, 1011, "agent_unreachable", "agent")
        resolves_to("127.0.0.1")


async def test_its_name_changes(
    case: Cases, named: Any, bases: dict[int, int], support_port: AgentPort, agent_at: Any
) -> None:
    """The call that runs stays where it is; the next goes to the new address."""
    gateway, resolves_to = named
    before = await warmed(gateway, bases, support_port)
    old, new = await agent_at(support_port), await agent_at(AgentPort(support_port.number, "127.0.0.2"))
    async with case("its name changes to another address", of=gateway, before=before) as fault:
        talk = await fault.talk(old)
        resolves_to("127.0.0.2")
        fault.strike()
        await talk.recorder.until(talk.recorder.audio_frames + 10)
        fault.note_received(talk.recorder, with_close=False)
        fault.heard = "sound, from where it was"
        await talk.hang_up()
        await fault.over("caller_hangup", "caller")
        fault.agent = new
        fault.next_call = "works, at the new address"
