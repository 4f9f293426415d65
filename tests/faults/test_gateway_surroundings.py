# SPDX-License-Identifier: BSD-2-Clause
"""What the gateway stands on is taken from it: names, the file of its store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.faults.case import Case
from tests.faults.launcher import Launcher
from tests.faults.suite_settings import LIMITS, agents_at, warmed
from tests.harness.agent import AgentPort

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
