# SPDX-License-Identifier: BSD-2-Clause
"""The tests' own servers leave no socket behind, whoever comes in while they stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections.abc import Callable

import pytest

from tests.harness.agent import Agent, AgentPort
from tests.harness.listening import TURNS


@pytest.mark.parametrize("turns", range(2 * TURNS))
def test_who_comes_in_while_it_stops(agent_port: Callable[[], AgentPort], turns: int) -> None:
    """In each turn of the loop between the kernel's word of a connection and its handler's first step."""
    port = agent_port()

    async def comes_in() -> None:
        agent = await Agent(port).start()
        with socket.socket() as client:
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(("127.0.0.1", port.number))
            for _ in range(turns):
                await asyncio.sleep(0)
            await agent.stop()

    asyncio.run(comes_in())
    gc.collect()  # a socket that nobody closed says so here
