# SPDX-License-Identifier: BSD-2-Clause
"""A detached socket, and the pump of another that writes to it."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from gateway.fastpath import accelerator, pump
from gateway.media import direct_transport
from gateway.media.direct_transport import DirectTransport
from gateway.simulator.waiting import eventually
from gateway.websocket import frames
from gateway.websocket.frames import FrameScanner

MEDIA = frames.build(frames.TEXT, bytes(300), masked=True)


class Recorder(asyncio.Protocol):
    """Records what it receives."""

    def __init__(self) -> None:
        self.received = b""
        self.lost = False

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


@pytest.fixture(params=["c", "python"], autouse=True)
def language(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both pumps."""
    if request.param == "c":
        assert accelerator.ACTIVE, "the accelerator was not built: a compiler and Python's headers are needed"
    else:
        monkeypatch.setattr(direct_transport, "Pump", pump.Pump)
        monkeypatch.setattr(direct_transport, "EpollSet", pump.EpollSet)


async def test_a_closed_socket_is_not_written_to_by_the_pump_of_another() -> None:
    """The kernel gives its number to the next call, which must not receive what was sent to the last one."""
    loop = asyncio.get_running_loop()
    pairs = [socket.socketpair() for _ in range(2)]
    for near, _ in pairs:
        near.setblocking(False)
    (caller_near, caller), (agent_near, agent) = pairs
    carrier_side, agent_side = DirectTransport(loop, caller_near), DirectTransport(loop, agent_near)
    carrier, agent_protocol = Recorder(), Recorder()
    carrier_side.set_protocol(carrier)
    agent_side.set_protocol(agent_protocol)
    carrier_side.pump_to(agent_side, FrameScanner(masked=True, max_payload=1 << 20))
    carrier_side.resume_reading()
    agent.setblocking(False)
    caller.send(MEDIA)
    assert await loop.sock_recv(agent, 65536) == MEDIA

    number = agent_near.fileno()
    agent_side.abort()
    await eventually(lambda: agent_protocol.lost, "it is closed")
    next_near, next_agent = socket.socketpair()
    assert number in (next_near.fileno(), next_agent.fileno())
    caller.send(MEDIA)
    await eventually(lambda: carrier.received, "the protocol receives it")
    assert carrier.received == MEDIA
    for new in (next_near, next_agent):
        new.setblocking(False)
        with pytest.raises(BlockingIOError):
            new.recv(65536)
    carrier_side.abort()
    await eventually(lambda: carrier.lost, "all is closed")
    for far_end in (caller, agent, next_near, next_agent):
        far_end.close()


async def test_a_pump_does_not_overtake_bytes_that_an_earlier_relay_left_unsent() -> None:
    loop = asyncio.get_running_loop()
    (caller_near, caller), (agent_near, agent) = [socket.socketpair() for _ in range(2)]
    for near in (caller_near, agent_near, agent):
        near.setblocking(False)
    carrier_side, agent_side = DirectTransport(loop, caller_near), DirectTransport(loop, agent_near)
    carrier, agent_protocol = Recorder(), Recorder()
    carrier_side.set_protocol(carrier)
    agent_side.set_protocol(agent_protocol)
    unsent = b""
    while not agent_side.get_write_buffer_size():
        unsent += MEDIA
        agent_side.write(MEDIA)
    received = await loop.sock_recv(agent, 1 << 20)  # makes room of which the loop does not know yet

    carrier_side.pump_to(agent_side, FrameScanner(masked=True, max_payload=1 << 20))
    carrier_side.resume_reading()
    caller.send(MEDIA)
    direct_transport.epoll_set_of(loop).ready()
    assert carrier.received == MEDIA, "the protocol has it, and writes it behind the unsent bytes"
    while len(received) < len(unsent):
        received += await loop.sock_recv(agent, 1 << 20)
    assert received == unsent
    await eventually(lambda: not agent_side.get_write_buffer_size(), "all is sent")
    caller.send(MEDIA)
    assert await loop.sock_recv(agent, 65536) == MEDIA, "the pump writes it again"
    for side in (carrier_side, agent_side):
        side.abort()
    await eventually(lambda: carrier.lost and agent_protocol.lost, "all is closed")
    for far_end in (caller, agent):
        far_end.close()


class LossRecorder(Recorder):
    """Records how the connection was lost."""

    how: list[Exception | None]

    def __init__(self) -> None:
        super().__init__()
        self.how = []

    def connection_lost(self, exc: Exception | None) -> None:
        self.how.append(exc)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a TCP connection, the first one not blocking."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        far = socket.create_connection(server.getsockname())
        near, _ = server.accept()
    near.setblocking(False)
    return near, far


@pytest.mark.parametrize("ends", ["a reset", "an end", "an end, and a reset of what follows"])
@pytest.mark.parametrize("written", ["nothing", "a frame by the pump", "a frame of the gateway's own"])
async def test_a_reset_is_told_from_an_end_whoever_notices_it_first(ends: str, written: str) -> None:
    """A write that finds the socket reset leaves the read with a plain end."""
    loop = asyncio.get_running_loop()
    (carrier_near, carrier), (agent_near, agent) = tcp_pair(), tcp_pair()
    carrier_side, agent_side = DirectTransport(loop, carrier_near), DirectTransport(loop, agent_near)
    recorder = LossRecorder()
    carrier_side.set_protocol(Recorder())
    agent_side.set_protocol(recorder)
    carrier_side.pump_to(agent_side, FrameScanner(masked=True, max_payload=1 << 20))
    agent_side.pump_to(carrier_side, FrameScanner(masked=False, max_payload=1 << 20))
    if ends == "a reset":
        agent.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        agent.close()
    elif ends == "an end":
        agent.shutdown(socket.SHUT_WR)
    else:
        agent.close()
    if written == "a frame by the pump":
        carrier.send(MEDIA)
        carrier_side.resume_reading()
        await eventually(lambda: carrier_side._pump is None or not _unread(carrier_near), "it is passed on")
    elif written == "a frame of the gateway's own":
        agent_side.write(MEDIA)
    agent_side.resume_reading()
    await eventually(lambda: recorder.how, "it is noticed")
    assert [type(exc) for exc in recorder.how] == [ConnectionResetError if ends == "a reset" else type(None)]
    carrier_side.abort()
    await asyncio.sleep(0)
    carrier.close()
    agent.close()


def _unread(near: socket.socket) -> bool:
    """Return True if something that has come is not read yet."""
    try:
        return bool(near.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return False
