# SPDX-License-Identifier: BSD-2-Clause
"""Many sockets that are readable together: each far end receives what was sent to it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from gateway.fastpath import accelerator, pump
from gateway.media import direct_transport
from gateway.media.direct_transport import DirectTransport
from gateway.simulator.waiting import eventually
from gateway.websocket import frames
from gateway.websocket.frames import FrameScanner

MEDIA = frames.build(frames.TEXT, bytes(300), masked=True)
PING = frames.build(frames.PING, b"?", masked=True)
SMALL_BUFFER = 4096


@pytest.fixture(params=["c", "python"], autouse=True)
def language(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both pumps."""
    if request.param == "c":
        assert accelerator.ACTIVE, "the accelerator was not built: a compiler and Python's headers are needed"
    else:
        monkeypatch.setattr(direct_transport, "Pump", pump.Pump)
        monkeypatch.setattr(direct_transport, "EpollSet", pump.EpollSet)


class Recorder(asyncio.Protocol):
    """Passes on what it receives, as a RelaySide does, after calling `on_data`."""

    def __init__(
        self, scanner: FrameScanner, sink: DirectTransport, on_data: Callable[[bytes], None] | None
    ) -> None:
        self.received = b""
        self.lost = False
        self._scanner = scanner
        self._sink = sink
        self._on_data = on_data

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self._on_data is not None:
            self._on_data(data)
        self._sink.write(self._scanner.feed(data))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


class OneWay:
    """One direction of a relay, from a caller to an agent."""

    def __init__(self, on_data: Callable[[bytes], None] | None = None) -> None:
        loop = asyncio.get_running_loop()
        own_caller, self.caller = socket.socketpair()
        own_agent, self.agent = socket.socketpair()
        for one in (own_caller, own_agent, self.caller, self.agent):
            one.setblocking(False)
        own_agent.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
        self.carrier_side, self.agent_side = (
            DirectTransport(loop, own_caller),
            DirectTransport(loop, own_agent),
        )
        self.scanner = FrameScanner(masked=True, max_payload=1 << 20)
        self.protocol = Recorder(self.scanner, self.agent_side, on_data)
        self.carrier_side.set_protocol(self.protocol)
        self.carrier_side.pump_to(self.agent_side, self.scanner)
        self.carrier_side.resume_reading()

    async def receive(self, count: int) -> bytes:
        """What the agent is sent, until it is so much."""
        received = b""
        while len(received) < count:
            async with asyncio.timeout(60):
                received += await asyncio.get_running_loop().sock_recv(self.agent, 65536)
        return received

    def hang_up(self) -> None:
        """Both sockets of the gateway are closed; may be called again."""
        self.agent_side.abort()
        self.carrier_side.abort()

    def has_more(self) -> bool:
        """Whether there is anything more for the agent."""
        try:
            return bool(self.agent.recv(1))
        except BlockingIOError:
            return False


@pytest.fixture
async def calls() -> AsyncIterator[Callable[..., list[OneWay]]]:
    """Make calls, and end them after the test."""
    made: list[OneWay] = []

    def make(*of: Callable[[bytes], None] | None) -> list[OneWay]:
        made.extend(OneWay(on_data) for on_data in of)
        return made[-len(of) :]

    yield make
    for call in made:
        call.hang_up()
    await eventually(lambda: all(call.protocol.lost for call in made), "all is closed")
    for call in made:
        call.caller.close()
        call.agent.close()


async def test_each_agent_receives_its_own_caller(calls: Callable[..., list[OneWay]]) -> None:
    """More calls than are read together, each with media of its own."""
    many = calls(*[None] * 80)
    sent = [frames.build(frames.TEXT, bytes([n]) * 300, masked=True) for n in range(len(many))]
    for call, sound in zip(many, sent, strict=True):
        call.caller.send(sound)
    assert [await call.receive(len(MEDIA)) for call in many] == sent
    assert [call.scanner.frames for call in many] == [1] * len(many)


async def test_more_than_the_shared_buffer_holds_passes_whole_and_in_order(
    calls: Callable[..., list[OneWay]],
) -> None:
    """Much is waiting on each socket; what a sink does not take at once follows."""
    many = calls(*[None] * 20)
    sent = b"".join(frames.build(frames.TEXT, bytes([n]) * 500, masked=True) for n in range(200))
    for call in many:
        call.caller.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * len(sent))
        assert call.caller.send(sent) == len(sent)
    received = await asyncio.gather(*(call.receive(len(sent)) for call in many))
    assert [each == sent for each in received] == [True] * len(many)
    assert not any(call.has_more() for call in many)
    assert {call.scanner.bytes for call in many} == {len(sent)}


async def test_media_that_was_read_before_is_sent_before_a_callback_runs(
    calls: Callable[..., list[OneWay]],
) -> None:
    """A callback may close any pump; the media that was read before is on its way by then."""
    was_sent: list[bytes] = []
    first, last = calls(None, lambda _: was_sent.append(first.agent.recv(65536)))
    first.caller.send(MEDIA)
    last.caller.send(PING)
    await eventually(lambda: was_sent, "the callback has run")
    assert was_sent == [MEDIA]


async def test_the_callback_of_one_call_may_end_others(calls: Callable[..., list[OneWay]]) -> None:
    """A call that another one ends in the same iteration is not read any more."""
    ends: list[OneWay] = []

    def end_both(_: bytes) -> None:
        for call in ends:
            call.hang_up()

    before, pinging, after = calls(None, end_both, None)
    ends += [before, after]
    before.caller.send(MEDIA)
    pinging.caller.send(PING)
    after.caller.send(MEDIA)
    await eventually(lambda: pinging.protocol.received, "the callback has run")
    assert await before.receive(len(MEDIA)) == MEDIA
    assert await asyncio.get_running_loop().sock_recv(after.agent, 65536) == b""
    assert (before.protocol.received, after.protocol.received) == (b"", b"")


async def test_a_broken_sink_stops_no_other_call(calls: Callable[..., list[OneWay]]) -> None:
    """The agent of the middle one of three calls has left."""
    three = calls(None, None, None)
    three[1].agent.close()
    for call in three:
        call.caller.send(MEDIA)
    assert [await call.receive(len(MEDIA)) for call in (three[0], three[2])] == [MEDIA, MEDIA]


async def test_an_exception_of_one_call_stops_no_other(
    calls: Callable[..., list[OneWay]],
) -> None:
    """It is reported, and the others are read."""

    def fail(_: bytes) -> None:
        raise ValueError("a defect")

    reported: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(str(context.get("exception"))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.unraisablehook", lambda raised: reported.append(str(raised.exc_value)))
        three = calls(None, fail, None)
        for call, pinging in zip(three, (MEDIA, PING, MEDIA), strict=True):
            call.caller.send(pinging)
        assert [await call.receive(len(MEDIA)) for call in (three[0], three[2])] == [MEDIA, MEDIA]
    assert reported == ["a defect"]
