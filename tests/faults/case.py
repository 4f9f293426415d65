# SPDX-License-Identifier: BSD-2-Clause
"""One case of the suite: a call, a fault, the end of the call, and a gateway that is as it was before."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

from gateway.simulator.waiting import eventually
from tests.faults.conversation import Conversation, Recorder
from tests.faults.report_page import Row
from tests.harness.agent import Agent, accepts
from tests.harness.call_assertions import (
    Call,
    assert_end_logged,
    assert_ended,
    assert_next_call_works,
    assert_no_slots_taken,
    connect,
)
from tests.harness.caller import Caller
from tests.harness.gateway import Gateway
from tests.harness.transcripts import opening

TWILIO = "/ws/twilio/support.acme"
MEMORY_MIB = 16
"""Mebibytes by which the gateway's memory may have grown: its heap fragments."""


def resident(gateway: Gateway) -> int:
    """Return the resident memory of all processes of a gateway, in bytes."""
    processes = {gateway.process.pid, *(worker["pid"] for worker in gateway.workers())}
    pages = 0
    for process in processes:
        with contextlib.suppress(OSError):  # one that has just died
            pages += int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


class Case:
    """One case, which makes a row. `async with` asserts at its end that everything is as before."""

    def __init__(self, group: str, fault: str, gateway: Gateway, base: int) -> None:
        """`base`: the gateway's resident memory before, in bytes."""
        self.gateway = gateway
        self.agent: Agent | None = None
        """The agent that accepts the next call."""
        self.heard = ""
        self.ended = ""
        self.deficit = ""
        """A sentence for the page about a result that should become better."""
        self.memory = "back"
        self.next_call = "works"
        self.gap_ms: float | None = None
        self.row: Row | None = None
        self._names = group, fault
        self._base = base
        self._before = len(gateway.ends())
        self._struck_at = 0.0
        self._lines: list[Conversation | Recorder] = []

    # The call

    async def caller(
        self, target: str = TWILIO, messages: list[str] | None = None
    ) -> tuple[Caller, Recorder]:
        """Dial and send an opening. No agent needs to have accepted the call yet."""
        caller = await self.gateway.dial(target)
        assert caller.status == 101, caller.body
        for message in messages if messages is not None else opening("twilio"):
            caller.say(message)
        recorder = Recorder(caller)
        self._lines.append(recorder)
        return caller, recorder

    async def talk(self, agent: Agent, target: str = TWILIO, **speaks: bool) -> Conversation:
        """Place a call in which both sides speak."""
        return await self.talks(agent, await connect(self.gateway, agent, target), **speaks)

    async def talks(self, agent: Agent, call: Call, **speaks: bool) -> Conversation:
        """Let both sides of a connected call speak."""
        self.agent = agent
        talk = Conversation(call)
        self._lines.append(talk)
        return await talk.begin(**speaks)

    # The fault

    def strike(self) -> None:
        """Note the time of the fault."""
        self._struck_at = asyncio.get_running_loop().time()

    def note_received(self, recorder: Recorder, *, with_close: bool = True) -> None:
        """Note what the caller received: gap, kinds of audio and, if `with_close`, the close code."""
        self.gap_ms = max(self.gap_ms or 0, recorder.gap_ms(self._struck_at))
        kinds = [
            name
            for name, some in (("holding sound", recorder.hold_frames), ("sound", recorder.audio_frames))
            if some
        ]
        self.heard = " and ".join(kinds) or "nothing"
        if with_close:
            assert recorder.close is not None
            self.heard += f", then {recorder.close[0]}"

    async def ends(self, recorder: Recorder, code: int | None, reason: str, side: str) -> dict[str, Any]:
        """Assert that the caller gets this close code (None: any), and that the call ended so."""
        closed = await recorder.closed()
        assert code in (None, closed[0]), closed
        self.note_received(recorder)
        return await self.over(reason, side)

    async def hangs_up(self, recorder: Recorder) -> None:
        """Hang up as the caller does; assert that the close is answered."""
        recorder.hang_up()
        assert (await recorder.closed())[0] == 1000

    async def over(self, reason: str, side: str) -> dict[str, Any]:
        """Assert that the one call of the case ended with this reason, in the log and in the store."""
        line = await assert_end_logged(self.gateway, self._before, reason)
        assert line["side"] == side
        self.ended = f"`{reason}` ({side})"
        if line["event"] != "call refused":
            await assert_ended(self.gateway, line["session"], reason, side)
        return line

    async def all_over(self, calls: int) -> list[dict[str, Any]]:
        """Wait for the ends of `calls` calls in the log; return them in order."""
        ends: list[dict[str, Any]] = await eventually(
            lambda: len(ends) >= calls and ends if (ends := self.gateway.ends()[self._before :]) else None,
            f"{calls} calls end",
        )
        assert len(ends) == calls, ends
        return ends

    @property
    def grown(self) -> int:
        """Bytes by which the gateway's memory has grown."""
        return resident(self.gateway) - self._base

    async def served(self, caller: Caller) -> None:
        """If the caller was accepted, assert that it is served; hang up."""
        if caller.status == 101:
            assert self.agent is not None
            for message in opening("twilio"):
                caller.say(message)
            call = await self.agent.call()
            caller.send(caller.close_frame(1000))
            assert await call.closed() == (1000, "")
            assert await caller.closed() == (1000, "")
            await assert_ended(self.gateway, call.session, "caller_hangup", "caller")

    # Afterwards

    async def __aenter__(self) -> Case:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for line in self._lines:
            await line.stop()
        await self.gateway.callers_leave()
        if kind is None:
            await self.settle()

    async def settle(self) -> None:
        """Assert that no slot is taken, the memory is back and the next call works; make the row."""
        if self.gateway.process.poll() is not None:
            self.memory = "gone with it"
        else:
            await assert_no_slots_taken(self.gateway)
            await eventually(lambda: self.grown <= MEMORY_MIB << 20, "the memory is back")
            if self.agent is not None:
                self.agent.answer = accepts
                while not self.agent.calls.empty():
                    self.agent.calls.get_nowait()
                await assert_next_call_works(self.gateway, self.agent)
            await self.gateway.callers_leave()
        group, fault = self._names
        slots = sum(record["ended_at"] is None for record in self.gateway.sessions())
        assert slots == 0
        self.row = Row(
            group,
            fault,
            self.heard,
            self.gap_ms,
            self.ended,
            slots,
            self.memory,
            self.next_call,
            self.deficit,
        )
