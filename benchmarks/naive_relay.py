# SPDX-License-Identifier: BSD-2-Clause
"""The relay everybody writes first: Starlette in front, `websockets` behind, two tasks that copy messages.

    python -m benchmarks.naive_relay PORT AGENT_PORT

It is measured beside the gateway to show what is saved by passing bytes on. uvloop, no compression, no log
of requests: it is given every advantage that does not change its nature.
"""

from __future__ import annotations

import asyncio
import sys

import uvicorn
import websockets
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection, connect


async def to_agent(carrier: WebSocket, agent: ClientConnection) -> None:
    """Copy the carrier's messages until it hangs up."""
    while True:
        await agent.send(await carrier.receive_text())


async def to_carrier(agent: ClientConnection, carrier: WebSocket) -> None:
    """Copy the agent's messages until it closes."""
    async for message in agent:
        assert isinstance(message, str)
        await carrier.send_text(message)


def relay_to(agent_url: str) -> Starlette:
    """An application that joins every call on /ws with a connection to `agent_url`."""

    async def call(carrier: WebSocket) -> None:
        await carrier.accept()
        async with connect(agent_url, compression=None, ping_interval=None) as agent:
            copying = [
                asyncio.create_task(to_agent(carrier, agent)),
                asyncio.create_task(to_carrier(agent, carrier)),
            ]
            done, others = await asyncio.wait(copying, return_when=asyncio.FIRST_COMPLETED)
            for task in others:
                task.cancel()
            for result in await asyncio.gather(*done, *others, return_exceptions=True):
                ended = WebSocketDisconnect | websockets.ConnectionClosed | asyncio.CancelledError | None
                if not isinstance(result, ended):
                    raise result

    return Starlette(routes=[WebSocketRoute("/ws", call)])


def main() -> None:
    """Serve until it is told to stop."""
    port, agent_port = map(int, sys.argv[1:])
    uvicorn.run(
        relay_to(f"ws://127.0.0.1:{agent_port}/ws"),
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        ws_ping_interval=None,
        backlog=4096,
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
