# SPDX-License-Identifier: BSD-2-Clause
"""Many sockets that are ready at once: what is read of them together is what each one's far end is sent."""

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

SOUND = frames.build(frames.TEXT, bytes(300), masked=True)
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


class Telling(asyncio.Protocol):
    """Passes on what it is told, as a `Side` does, after it has told."""

    def __init__(
        self, scanner: FrameScanner, sink: DirectTransport, on_data: Callable[[bytes], None] | None
    ) -> None:
        self.heard = b""
        self.lost = False
        self._scanner = scanner
        self._sink = sink
        self._on_data = on_data

    def data_received(self, data: bytes) -> None:
        self.heard += data
        if self._on_data is not None:
            self._on_data(data)
        self._sink.write(self._scanner.feed(data))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


class OneWay:
    """A caller who is coupled to an agent, in one direction."""

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
        self.told = Telling(self.scanner, self.agent_side, on_data)
        self.carrier_side.set_protocol(self.told)
        self.carrier_side.pump_to(self.agent_side, self.scanner)
        self.carrier_side.resume_reading()

    async def hears(self, count: int) -> bytes:
        """What the agent is sent, until it is so much."""
        heard = b""
        while len(heard) < count:
            async with asyncio.timeout(5):
                heard += await asyncio.get_running_loop().sock_recv(self.agent, 65536)
        return heard

    def hang_up(self) -> None:
        """Both sockets of the gateway are closed; may be called again."""
        self.agent_side.abort()
        self.carrier_side.abort()

    def heard_more(self) -> bool:
        """Whether there is anything more for the agent."""
        try:
            return bool(self.agent.recv(1))
        except BlockingIOError:
            return False


@pytest.fixture
async def calls() -> AsyncIterator[Callable[..., list[OneWay]]]:
    """Makes calls, and ends them."""
    made: list[OneWay] = []

    def make(*of: Callable[[bytes], None] | None) -> list[OneWay]:
        made.extend(OneWay(on_data) for on_data in of)
        return made[-len(of) :]

    yield make
    for call in made:
        call.hang_up()
    await eventually(lambda: all(call.told.lost for call in made), "all is closed")
    for call in made:
        call.caller.close()
        call.agent.close()


async def test_each_agent_hears_its_own_caller(calls: Callable[..., list[OneWay]]) -> None:
    """More than are read together, and each something of its own."""
    many = calls(*[None] * 80)
    said = [frames.build(frames.TEXT, bytes([n]) * 300, masked=True) for n in range(len(many))]
    for call, sound in zip(many, said, strict=True):
        call.caller.send(sound)
    assert [await call.hears(len(SOUND)) for call in many] == said
    assert [call.scanner.frames for call in many] == [1] * len(many)


async def test_more_than_there_is_room_for(calls: Callable[..., list[OneWay]]) -> None:
    """Much is waiting of each: it passes whole and in its order, and what a socket does not take follows."""
    many = calls(*[None] * 20)
    said = b"".join(frames.build(frames.TEXT, bytes([n]) * 500, masked=True) for n in range(200))
    for call in many:
        call.caller.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * len(said))
        assert call.caller.send(said) == len(said)
    heard = await asyncio.gather(*(call.hears(len(said)) for call in many))
    assert [one == said for one in heard] == [True] * len(many)
    assert not any(call.heard_more() for call in many)
    assert {call.scanner.bytes for call in many} == {len(said)}


async def test_what_was_read_before_is_sent_before_anybody_is_told(
    calls: Callable[..., list[OneWay]],
) -> None:
    """Whoever is told of a ping may do anything; by then the sound that was read before it is on its way."""
    was_sent: list[bytes] = []
    first, last = calls(None, lambda _: was_sent.append(first.agent.recv(65536)))
    first.caller.send(SOUND)
    last.caller.send(PING)
    await eventually(lambda: was_sent, "it is told")
    assert was_sent == [SOUND]


async def test_one_end_may_be_anothers(calls: Callable[..., list[OneWay]]) -> None:
    """A call that another's words end in the same turn is read no more, and nobody is told anything of it."""
    ends: list[OneWay] = []

    def end_both(_: bytes) -> None:
        for call in ends:
            call.hang_up()

    before, detail, after = calls(None, end_both, None)
    ends += [before, after]
    before.caller.send(SOUND)
    detail.caller.send(PING)
    after.caller.send(SOUND)
    await eventually(lambda: detail.told.heard, "it is told")
    assert await before.hears(len(SOUND)) == SOUND
    assert await asyncio.get_running_loop().sock_recv(after.agent, 65536) == b""
    assert (before.told.heard, after.told.heard) == (b"", b"")


async def test_a_broken_sink_stops_nobody_else(calls: Callable[..., list[OneWay]]) -> None:
    """Of three that are ready at once the middle one's agent is gone."""
    three = calls(None, None, None)
    three[1].agent.close()
    for call in three:
        call.caller.send(SOUND)
    assert [await call.hears(len(SOUND)) for call in (three[0], three[2])] == [SOUND, SOUND]


async def test_an_error_of_one_stops_nobody_else(
    calls: Callable[..., list[OneWay]],
) -> None:
    """Whoever is told raises: it is reported, and the others are read all the same."""

    def fail(_: bytes) -> None:
        raise ValueError("a defect")

    reported: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(str(context.get("exception"))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.unraisablehook", lambda raised: reported.append(str(raised.exc_value)))
        three = calls(None, fail, None)
        for call, detail in zip(three, (SOUND, PING, SOUND), strict=True):
            call.caller.send(detail)
        assert [await call.hears(len(SOUND)) for call in (three[0], three[2])] == [SOUND, SOUND]
    assert reported == ["a defect"]
