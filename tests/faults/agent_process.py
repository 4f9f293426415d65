# SPDX-License-Identifier: BSD-2-Clause
"""An agent in a process of its own: `python -m tests.faults.agent_process PORT FRAME SIGNAL`.

It sends a frame every 20 ms. After FRAME frames it sends itself SIGNAL.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from tests.faults.conversation import FRAME_S, REPLY
from tests.harness.agent import Agent, AgentCall, AgentPort, accepts

ROOT = Path(__file__).parents[2]


def start(port: AgentPort, frame: int, signal: int) -> subprocess.Popen[bytes]:
    """Start an agent process; return once it listens."""
    command = [
        sys.executable,
        "-m",
        "tests.faults.agent_process",
        str(port.number),
        str(frame),
        str(int(signal)),
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"listening\n"
    return process


async def _main(port: int, frame: int, signal: int) -> None:
    async def dies(agent: Agent, call: AgentCall) -> None:
        await accepts(agent, call)
        for _ in range(frame):
            call.say(REPLY)
            await asyncio.sleep(FRAME_S)
        os.kill(os.getpid(), signal)

    await Agent(AgentPort(port), dies).start()
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(*map(int, sys.argv[1:])))
