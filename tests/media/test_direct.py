# SPDX-License-Identifier: BSD-2-Clause
"""A socket out of its transport, fed by another's pump."""

from __future__ import annotations

import asyncio
import socket

import pytest

from gateway.fastpath import accelerator, pump
from gateway.media import direct_transport
from gateway.media.direct_transport import DirectTransport
from gateway.simulator.waiting import eventually
from gateway.websocket import frames
from gateway.websocket.frames import FrameScanner

SOUND = frames.build(frames.TEXT, bytes(300), masked=True)


class Listening(asyncio.Protocol):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.heard = b""
        self.lost = False

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


@pytest.mark.parametrize("language", ["c", "python"])
async def test_when_one_is_closed_its_descriptor_is_nobody_elses_sink(
    language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel gives the number to the next call, which must not hear what was said to the last one."""
    if language == "c":
        assert accelerator.ACTIVE, "the accelerator was not built: a compiler and Python's headers are needed"
    else:
        monkeypatch.setattr(direct_transport, "Pump", pump.Pump)
        monkeypatch.setattr(direct_transport, "EpollSet", pump.EpollSet)
    loop = asyncio.get_running_loop()
    pairs = [socket.socketpair() for _ in range(2)]
    for near, _ in pairs:
        near.setblocking(False)
    (caller_near, caller), (agent_near, agent) = pairs
    carrier_side, agent_side = DirectTransport(loop, caller_near), DirectTransport(loop, agent_near)
    carrier, gone = Listening(), Listening()
    carrier_side.set_protocol(carrier)
    agent_side.set_protocol(gone)
    carrier_side.pump_to(agent_side, FrameScanner(masked=True, max_payload=1 << 20))
    carrier_side.resume_reading()
    agent.setblocking(False)
    caller.send(SOUND)
    assert await loop.sock_recv(agent, 65536) == SOUND

    number = agent_near.fileno()
    agent_side.abort()
    await eventually(lambda: gone.lost, "it is closed")
    next_near, next_agent = socket.socketpair()
    assert number in (next_near.fileno(), next_agent.fileno())
    caller.send(SOUND)
    await eventually(lambda: carrier.heard, "who fed it is told")
    assert carrier.heard == SOUND
    for one in (next_near, next_agent):
        one.setblocking(False)
        with pytest.raises(BlockingIOError):
            one.recv(65536)
    carrier_side.abort()
    await eventually(lambda: carrier.lost, "all is closed")
    for one in (caller, agent, next_near, next_agent):
        one.close()
