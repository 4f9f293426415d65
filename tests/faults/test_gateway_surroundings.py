# SPDX-License-Identifier: BSD-2-Clause
"""What the gateway stands on is taken from it: names, the file of its store."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from typing import Any

from gateway.simulator.waiting import eventually
from tests.faults.case import Case
from tests.faults.launcher import Launcher
from tests.faults.many_calls import CROWD, WELL, go_on, hang_up_all
from tests.faults.suite_settings import LIMITS, agents_at, warmed
from tests.harness.agent import Agent, AgentPort
from tests.harness.gateway import Gateway
from tests.harness.transcripts import opening

Cases = Callable[..., Case]

SILENT = 6
"""More names than the event loop has threads for names."""


async def test_the_names_of_other_agents_are_not_answered(
    case: Cases, launcher: Launcher, bases: dict[int, int], support_port: AgentPort, agent_at: Any
) -> None:
    """Agents that nobody calls have instances under names whose name server is away."""
    silent = [
        {
            "name": f"uncalled{number}",
            "organization": "other",
            "instances": [f"http://silent{number}.test:8080"],
        }
        for number in range(SILENT)
    ]
    gateway = launcher.with_silent_names(
        agents=[*silent, *agents_at(f"http://agent.here.test:{support_port.number}")], limits=LIMITS
    )
    before = await warmed(gateway, bases, support_port)
    support = await agent_at(support_port)
    async with case("the names of other agents are not answered", of=gateway, before=before) as fault:
        fault.strike()
        talk = await fault.talk(support)
        await talk.recorder.until(talk.recorder.audio_frames + 10)
        fault.note_received(talk.recorder, with_close=False)
        await talk.hang_up()
        await fault.over("caller_hangup", "caller")


async def test_the_stores_file_is_taken_away(case: Cases, gateway: Gateway, support: Agent) -> None:
    """No second store is made: new calls are refused until the file is back, and the running one goes on."""
    elsewhere = gateway.store.with_name("elsewhere.db")
    async with case("the store's file is taken away while it is open, and put back") as fault:
        talk = await fault.talk(support, CROWD)
        gateway.store.rename(elsewhere)
        fault.strike()
        # Each worker looks at a heartbeat, every few seconds, and before a call.
        await eventually(lambda: "session_store_failed" in events(gateway), "it is noticed")
        caller = await gateway.dial(CROWD)
        assert caller.status == 101
        for message in opening("twilio"):
            caller.say(message)
        assert (await caller.closed())[0] == 1013
        assert not gateway.store.exists()
        elsewhere.rename(gateway.store)
        await eventually(lambda: "session_store_recovered" in events(gateway), "it is used again")
        await go_on([talk])
        await hang_up_all(fault, gateway, [talk], "sound; a new caller 1013 meanwhile")
        fault.ended = WELL


async def test_the_stores_mapped_file_is_shortened(case: Cases, gateway: Gateway, support: Agent) -> None:
    """Its worker lives: nobody touches the memory behind the file's end. Whoever opens the store mends it."""
    async with case("the store's `-shm` is shortened while it is open, and made anew") as fault:
        before = events(gateway)
        talk = await fault.talk(support, CROWD)
        os.truncate(f"{gateway.store}-shm", 0)
        fault.strike()
        caller = await gateway.dial(CROWD)
        assert caller.status == 101
        for message in opening("twilio"):
            caller.say(message)
        assert (await caller.closed())[0] == 1013
        with contextlib.closing(sqlite3.connect(gateway.store)) as another:
            another.execute("SELECT count(*) FROM session").fetchone()
        recovered = before.count("session_store_recovered") + 1
        await eventually(
            lambda: events(gateway).count("session_store_recovered") == recovered, "it is used again"
        )
        await go_on([talk])
        await hang_up_all(fault, gateway, [talk], "sound; a new caller 1013 meanwhile")
        fault.ended = WELL


def events(gateway: Gateway) -> list[str]:
    return [line["event"] for line in gateway.log_lines()]
