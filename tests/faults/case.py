# SPDX-License-Identifier: BSD-2-Clause
"""One case: the fault strikes, the call ends or goes on, and afterwards everything is as it was."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

from gateway.simulator.waiting import eventually
from tests.faults.line import Ear, Talk
from tests.faults.table import Row
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
"""What the gateway may keep: pieces of its heap that are free, but not whole."""


def resident(gateway: Gateway) -> int:
    """The memory of all processes of a gateway, in bytes."""
    processes = {gateway.process.pid, *(worker["pid"] for worker in gateway.workers())}
    pages = 0
    for process in processes:
        with contextlib.suppress(OSError):  # one that has just died
            pages += int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


class Case:
    """Gathers what its row tells. Used as `async with`: leaving it sees that everything is as before."""

    def __init__(self, group: str, fault: str, gateway: Gateway, base: int) -> None:
        """`base`: the gateway's resident memory before, in bytes."""
        self.gateway = gateway
        self.agent: Agent | None = None
        """Who takes the next call."""
        self.heard = ""
        self.ended = ""
        self.asked = ""
        """What should become better, where it showed."""
        self.memory = "back"
        self.next_call = "works"
        self.gap_ms: float | None = None
        self.row: Row | None = None
        self._names = group, fault
        self._base = base
        self._before = len(gateway.ends())
        self._struck_at = 0.0
        self._lines: list[Talk | Ear] = []

    # The call

    async def caller(self, target: str = TWILIO, messages: list[str] | None = None) -> tuple[Caller, Ear]:
        """A caller whose opening is said; nobody may have taken the call yet."""
        caller = await self.gateway.dial(target)
        assert caller.status == 101, caller.body
        for message in messages if messages is not None else opening("twilio"):
            caller.say(message)
        ear = Ear(caller)
        self._lines.append(ear)
        return caller, ear

    async def talk(self, agent: Agent, target: str = TWILIO, **speaks: bool) -> Talk:
        """A call in which both sides speak."""
        return await self.talks(agent, await connect(self.gateway, agent, target), **speaks)

    async def talks(self, agent: Agent, call: Call, **speaks: bool) -> Talk:
        """The same, of a call that came another way."""
        self.agent = agent
        talk = Talk(call)
        self._lines.append(talk)
        return await talk.begin(**speaks)

    # The fault

    def strike(self) -> None:
        """Now."""
        self._struck_at = asyncio.get_running_loop().time()

    def hears(self, ear: Ear, *, told: bool = True) -> None:
        """Keeps what this ear heard: its gap, and how it was told the end (`told`: that is in the row)."""
        self.gap_ms = max(self.gap_ms or 0, ear.gap_ms(self._struck_at))
        kinds = [name for name, some in (("holding sound", ear.holding), ("sound", ear.sounds)) if some]
        self.heard = " and ".join(kinds) or "nothing"
        if told:
            assert ear.close is not None
            self.heard += f", then {ear.close[0]}"

    async def ends(self, ear: Ear, code: int | None, reason: str, side: str) -> dict[str, Any]:
        """The caller is told the end with this code (None: any), and the session ended so."""
        closed = await ear.closed()
        assert code in (None, closed[0]), closed
        self.hears(ear)
        return await self.over(reason, side)

    async def hangs_up(self, ear: Ear) -> None:
        """The caller whose ear this is hangs up as one does."""
        ear.hang_up()
        assert (await ear.closed())[0] == 1000

    async def over(self, reason: str, side: str) -> dict[str, Any]:
        """The one call of the case ended so, in the log and, if it was a session, in the store."""
        line = await assert_end_logged(self.gateway, self._before, reason)
        assert line["side"] == side
        self.ended = f"`{reason}` ({side})"
        if line["event"] != "call refused":
            await assert_ended(self.gateway, line["session"], reason, side)
        return line

    async def all_over(self, calls: int) -> list[dict[str, Any]]:
        """The ends of so many calls, as the log tells them, the first first."""
        ends: list[dict[str, Any]] = await eventually(
            lambda: len(told) >= calls and told if (told := self.gateway.ends()[self._before :]) else None,
            f"{calls} calls end",
        )
        assert len(ends) == calls, ends
        return ends

    @property
    def grown(self) -> int:
        """Bytes of memory more than before."""
        return resident(self.gateway) - self._base

    async def served(self, caller: Caller) -> None:
        """A caller of whom it does not matter when it was answered is served, if at all, and leaves."""
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
        """No place is taken, the memory is back, the next call works; makes the row."""
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
        places = sum(one["ended_at"] is None for one in self.gateway.sessions())
        assert places == 0
        self.row = Row(
            group,
            fault,
            self.heard,
            self.gap_ms,
            self.ended,
            places,
            self.memory,
            self.next_call,
            self.asked,
        )
