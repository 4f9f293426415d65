# SPDX-License-Identifier: BSD-2-Clause
"""A worker dies, and its calls come back: their document said what to do when the stream is over."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from gateway.simulator.waiting import eventually
from tests.faults.case import Case
from tests.faults.conversation import Conversation
from tests.faults.many_calls import WELL, over, owner_of, warm_with
from tests.faults.suite_settings import LIMITS, agents_at
from tests.harness import rest_twilio
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import Call, assert_ended, assert_no_slots_taken
from tests.harness.document_calls import DocumentCalls
from tests.harness.gateway import Gateway
from tests.harness.rest_server import Placed
from tests.harness.websocket_peer import ABNORMAL_CLOSE

DOCUMENT = "/xml/twilio?agent=desk&org=bolt"
TURN_FRAMES = 10
"""Frames after which both are seen to hear each other."""


async def test_its_calls_come_back(
    case: Callable[..., Case],
    start_gateway: Callable[..., Gateway],
    bases: dict[int, int],
    support: Agent,
    support_port: AgentPort,
    agent_port: Callable[[], AgentPort],
) -> None:
    """Twilio's, and one for whom there is one place: that of the call that died with its worker."""
    account = {"carrier": "twilio", "account": rest_twilio.ACCOUNT, "auth_tokens": [rest_twilio.AUTH_TOKEN]}
    desk = {"name": "desk", "organization": "bolt", "instances": [support_port.url], "max_agents": 1}
    gateway = start_gateway(
        server={"workers": 2, "public_url": "https://voice.example.com"},
        organizations=[{"name": "acme"}, {"name": "bolt", "carriers": [account]}],
        agents=[*agents_at(support_port.url), desk | {"after": "redirect"}],
        limits=LIMITS,
    )
    before = await warm_with(support, gateway, bases, support_port)
    twilio = rest_twilio.TwilioServer(agent_port())
    twilio.via = f"http://127.0.0.1:{gateway.port}"
    line = DocumentCalls(gateway, twilio, "twilio")
    name = "a worker is killed: its call comes back by `redirect`"
    async with case(name, of=gateway, before=before) as fault, contextlib.AsyncExitStack() as ends:
        ends.push_async_callback(twilio.stop)
        await twilio.start()
        placed = await line.place(DOCUMENT)
        first = await streams(fault, line, placed, support)
        victim = owner_of(gateway, first.session)
        pid = next(worker["pid"] for worker in gateway.workers() if worker["id"] == victim)
        await twilio.stop()  # its connection may be to the one that dies
        await twilio.start()
        fault.strike()
        os.kill(pid, signal.SIGKILL)
        gateway.upgrades -= 1  # it does not live to tell its call's end
        assert await first.recorder.closed() == ABNORMAL_CLOSE
        assert await first.agent_recorder.closed() == ABNORMAL_CLOSE, (
            "nor is the agent left talking to nobody"
        )
        process = Path(f"/proc/{pid}")
        await eventually(lambda: not process.exists(), "the last of its threads is gone, its port with it")

        again = await line.place(returns_to(placed), CallSid=placed.call_id)
        second = await streams(fault, line, again, support)
        assert second.session != first.session
        assert owner_of(gateway, second.session) != victim
        fault.gap_ms = (second.recorder.first - first.recorder.last_sound) * 1000
        await second.recorder.until(second.recorder.audio_frames + TURN_FRAMES)
        await second.agent_recorder.until(second.agent_recorder.audio_frames + TURN_FRAMES)
        record = await eventually(partial(over, gateway, first.session), "the first session is closed")
        assert (record["reason"], record["side"]) == ("gateway_lost", "gateway")
        await second.hang_up()
        await assert_ended(gateway, second.session, "caller_hangup", "caller")
        await assert_no_slots_taken(gateway)
        fault.heard = "sound, then 1006; the document again, its stream, and sound"
        fault.ended = f"`gateway_lost` (gateway), then {WELL}"
        await eventually(lambda: len(gateway.workers()) == 2, "a worker is started again")


async def streams(fault: Case, line: DocumentCalls, placed: Placed, agent: Agent) -> Conversation:
    """Twilio opens the document's stream, and both speak."""
    caller, taken = await line.stream(placed, agent, **placed.document.parameters)
    return await fault.talks(agent, Call(caller, taken, []))


def returns_to(placed: Placed) -> str:
    """Where Twilio asks again when the stream is over, without the host."""
    assert placed.document is not None
    (redirect,) = [verb for verb in placed.document.after if verb.tag == "Redirect"]
    parts = urlsplit(redirect.text or "")
    assert "return=1" in parts.query
    return f"{parts.path}?{parts.query}"
