# SPDX-License-Identifier: BSD-2-Clause
"""What the relay does once per chunk of sound: nothing that it could leave out. Nothing here is timed."""

from __future__ import annotations

import asyncio
import base64
import socket
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.fastpath import accelerator, pump
from gateway.media import direct_transport
from gateway.media.direct_transport import DirectTransport, epoll_set_of
from gateway.media.loop_batcher import LoopBatcher
from gateway.media.relay import Relay
from gateway.media.relay_options import RelayLimits, RelayOptions
from gateway.model.reasons import CallEnded, Reasons
from gateway.websocket import frames
from gateway.websocket.frames import FrameScanner
from serializers.registry import DIALECTS
from tests.media.relays import close_relay, open_leg

FRAMES = 10_000
LIMITS = RelayLimits(max_duration_s=60, idle_s=60, stall_s=10, close_s=1, max_message_bytes=1 << 20)
MOST_BYTES_KEPT = 4096
"""Of all the frames together: a few grown lists and cached integers, and nothing per frame."""

MEDIA = (
    b'{"event":"media","sequenceNumber":"4","media":{"track":"inbound","chunk":"2","timestamp":"5","payload":"%s"},'
    b'"streamSid":"MZ00000000000000000000000000000001"}'
) % base64.b64encode(bytes(160))
SOUND = {masked: frames.build(frames.TEXT, MEDIA, masked=masked) for masked in (True, False)}


class Unread:
    """A dialect that must not be asked anything."""

    agent_media_events = frozenset({"media"})

    def event_of(self, payload: bytes) -> str | None:
        raise AssertionError(f"sound was looked into: {payload[:40]!r}")


class Sink:
    """A transport that counts what it is given and keeps none of it."""

    def __init__(self) -> None:
        self.bytes = 0

    def write(self, data: bytes) -> None:
        self.bytes += len(data)


class Wires:
    """A relay between two real connections, and their far ends."""

    def __init__(self, relay: Relay, carrier: socket.socket, agent: socket.socket) -> None:
        self.relay = relay
        self.carrier = carrier
        self.agent = agent


def unexpected(data: bytes) -> None:
    raise AssertionError(f"{data[:40]!r} did not pass by itself")


@pytest.fixture
def far_ends() -> Iterator[list[socket.socket]]:
    sockets: list[socket.socket] = []
    yield sockets
    for one in sockets:
        one.close()


@pytest.fixture(params=["c", "python", "transports"])
async def wires(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, far_ends: list[socket.socket]
) -> AsyncIterator[Callable[..., Any]]:
    """Makes a running relay: with the accelerator, without, and where the loop keeps its sockets."""
    if request.param == "c":
        assert accelerator.ACTIVE, "the accelerator was not built: a compiler and Python's headers are needed"
    else:
        monkeypatch.setattr(direct_transport, "Pump", pump.Pump)
        monkeypatch.setattr(direct_transport, "EpollSet", pump.EpollSet)
        monkeypatch.setattr(pump, "POSSIBLE", request.param == "python")
    made: list[Relay] = []

    async def make(dialect: Any = DIALECTS["twilio"]) -> Wires:
        legs = []
        for client in (False, True):
            leg, far = await open_leg(client=client)
            legs.append(leg)
            far_ends.append(far)
        options = RelayOptions(dialect=dialect, limits=LIMITS, on_first_sound=lambda: None)
        relay = Relay(legs[0], legs[1], options)
        relay.start()
        made.append(relay)
        return Wires(relay, *far_ends[-2:])

    yield make
    for relay in made:
        await close_relay(relay)


async def read(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    async with asyncio.timeout(20):
        while len(data) < size:
            part = await asyncio.get_running_loop().sock_recv(sock, 65536)
            assert part, "the relay closed"
            data += part
    return bytes(data)


async def test_the_python_path_keeps_nothing_and_makes_no_task(wires: Any, monkeypatch: Any) -> None:
    relay = (await wires()).relay
    monkeypatch.setattr(relay, "_dialect", Unread())
    side = relay.carrier
    sink = Sink()
    side.write_other = sink.write
    chunk = SOUND[True]
    for _ in range(100):  # what is made once is made now
        side.data_received(chunk)
    tasks = len(asyncio.all_tasks())
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(FRAMES):
        side.data_received(chunk)
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert side.scanner.frames == FRAMES + 100
    assert sink.bytes == len(chunk) * (FRAMES + 100)
    assert peak - before < MOST_BYTES_KEPT
    assert after - before < MOST_BYTES_KEPT
    assert len(asyncio.all_tasks()) == tasks


async def test_a_chunk_of_whole_frames_is_passed_on_itself(wires: Any) -> None:
    relay = (await wires()).relay
    passed: list[bytes] = []
    relay.carrier.write_other = passed.append
    chunk = SOUND[True] * 3
    relay.carrier.data_received(chunk)
    assert passed[0] is chunk


async def test_reading_and_writing_keep_nothing(wires: Any) -> None:
    """With the accelerator no object is made at all; in Python the chunk is, and it goes."""
    wired = await wires(Unread())
    side = wired.relay.carrier
    if not isinstance(side.transport, DirectTransport):
        return  # what the loop keeps is not ours
    ready = epoll_set_of(asyncio.get_running_loop()).ready
    wired.carrier.send(SOUND[True])
    ready()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(FRAMES):
        wired.carrier.send(SOUND[True])
        ready()
        wired.agent.recv(65536)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert side.scanner.frames == FRAMES + 1
    assert after - before < MOST_BYTES_KEPT


@pytest.mark.parametrize("how", ["at once", "held back by the loop", "held back", "staying"])
async def test_every_byte_arrives_in_order_both_ways(wires: Any, how: str) -> None:
    wired = await wires()
    loop = asyncio.get_running_loop()
    stay = (
        epoll_set_of(loop).stay if how in ("held back", "staying") and wired.relay.timers.is_direct else None
    )
    rest_s = 0.002 if how.startswith("held back") else 0.0
    turns = LoopBatcher(
        rest_s, poll_for=stay, cpu=iter(range(1_000_000)).__next__
    )  # a processor that is always busy
    if rest_s or stay:
        turns.measure_load()
        assert turns.is_batching
    says = {
        masked: b"".join(
            frames.build(
                frames.TEXT, b'{"event":"media","n":"%06d","pad":"%s"}' % (n, b"x" * (n % 700)), masked=masked
            )
            for n in range(2_000)
        )
        for masked in (True, False)
    }

    async def send(sock: socket.socket, data: bytes) -> None:
        for start in range(0, len(data), 977):  # pieces that respect no boundary
            await loop.sock_sendall(sock, data[start : start + 977])

    heard = await asyncio.gather(
        read(wired.agent, len(says[True])),
        read(wired.carrier, len(says[False])),
        send(wired.carrier, says[True]),
        send(wired.agent, says[False]),
    )
    turns.stop()
    assert heard[0] == says[True]
    assert heard[1] == says[False]
    assert wired.relay.traffic == (2_000, len(says[True]), 2_000, len(says[False]))


@pytest.mark.parametrize(("seconds", "rest_s"), [(0.0, 0.0), (2.5 * pump.ALARM_S, 0.0), (0.002, 0.001)])
async def test_who_stays_with_the_sockets_passes_on_what_comes(
    wires: Any, seconds: float, rest_s: float
) -> None:
    """Without a turn of the loop; and only who does not rest can say that nothing came."""
    wired = await wires()
    if not isinstance(wired.relay.carrier.transport, DirectTransport):
        return
    stay = epoll_set_of(asyncio.get_running_loop()).stay
    wired.carrier.send(SOUND[True])
    wired.agent.send(SOUND[False])
    assert stay(seconds, rest_s)
    assert wired.agent.recv(65536) == SOUND[True]
    assert wired.carrier.recv(65536) == SOUND[False]
    assert stay(seconds, rest_s) is bool(rest_s)


@dataclass(frozen=True)
class Chains:
    """Calls whose agent answers at once: what it is sent it sends on to the caller, through another pump."""

    sources: Any
    callers: list[socket.socket]
    heard: list[socket.socket]


@pytest.fixture(params=[accelerator, pump], ids=["c", "python"])
def chains(
    request: pytest.FixtureRequest, far_ends: list[socket.socket]
) -> Iterator[Callable[[int], Chains]]:
    assert accelerator.ACTIVE
    pumps = []

    def make(calls: int) -> Chains:
        made = Chains(request.param.EpollSet(), [], [])
        for _ in range(calls):
            (caller, ours), (agent, its), (listens, hears) = (socket.socketpair() for _ in range(3))
            far_ends.extend((caller, ours, agent, its, listens, hears))
            for source, sink in ((ours, agent), (its, listens)):
                scanner = FrameScanner(masked=True, max_payload=1 << 20)
                one = request.param.Pump(
                    made.sources, scanner, source, sink, on_chunk=unexpected, on_unsent=unexpected
                )
                one.resume()
                pumps.append(one)
            hears.setblocking(False)
            made.callers.append(caller)
            made.heard.append(hears)
        return made

    yield make
    for one in pumps:
        one.pause()


def test_while_much_is_passed_on_answers_do_not_wait_for_the_next_rest(chains: Any) -> None:
    made = chains(pump.FEW)
    for caller in made.callers:
        caller.send(SOUND[True])
    made.sources.stay(
        1e-6, 10.0
    )  # it has never rested, so it looks at once, and will not do so again for 10 s
    assert [hears.recv(65536) for hears in made.heard] == [SOUND[True]] * pump.FEW


def test_an_answer_by_itself_waits_for_the_next_rest(chains: Any) -> None:
    made = chains(1)
    made.callers[0].send(SOUND[True])
    made.sources.stay(1e-6, 10.0)
    with pytest.raises(BlockingIOError):
        made.heard[0].recv(65536)


def test_one_turn_of_the_loop_reads_more_than_one_look_finds(chains: Any) -> None:
    """Where the loop rests, as some sockets are its own, what is left over would wait for another rest."""
    made = chains(pump.EVENTS_AT_ONCE + 1)
    for caller in made.callers:
        caller.send(SOUND[True])
    made.sources.ready()
    assert [hears.recv(65536) for hears in made.heard] == [SOUND[True]] * (pump.EVENTS_AT_ONCE + 1)


async def test_one_edge_that_fails_ends_nobody_elses_turn(wires: Any, monkeypatch: Any) -> None:
    """Whatever a pump's owner raises, the other sockets that were readable with it are read."""
    wired = await wires()
    if not isinstance(wired.relay.carrier.transport, DirectTransport):
        return
    loop = asyncio.get_running_loop()
    reported: list[Any] = []
    loop.set_exception_handler(lambda _, report: reported.append(report))
    monkeypatch.setattr("sys.unraisablehook", reported.append)  # the accelerator's way to say it

    class Fails(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            raise RuntimeError("an owner's mistake")

    wired.relay.carrier.transport.set_protocol(Fails())
    wired.carrier.send(SOUND[True])
    wired.agent.send(SOUND[False])
    epoll_set_of(loop).ready()
    assert len(reported) == 1
    assert wired.carrier.recv(65536) == SOUND[False]


async def test_sound_and_the_end_that_come_together_are_both_heard(wires: Any) -> None:
    """The kernel tells of a socket once for what has come on it."""
    wired = await wires()
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(wired.carrier, SOUND[True])
    wired.carrier.shutdown(socket.SHUT_WR)
    assert await read(wired.agent, len(SOUND[True])) == SOUND[True]
    async with asyncio.timeout(20):
        assert (await wired.relay.ended).reason is Reasons.carrier_lost


async def test_more_than_is_read_at_once_is_heard_to_its_end(wires: Any) -> None:
    wired = await wires()
    loop = asyncio.get_running_loop()
    said = SOUND[True] * (3 * 65536 // len(SOUND[True]))
    _, heard = await asyncio.gather(loop.sock_sendall(wired.carrier, said), read(wired.agent, len(said)))
    assert heard == said


async def test_a_frame_of_ours_stands_between_two_of_theirs(wires: Any) -> None:
    """A call that is ended while a frame is half passed on gets no close frame in the middle of it."""
    wired = await wires()
    loop = asyncio.get_running_loop()
    half = SOUND[True][: len(SOUND[True]) // 2]
    await loop.sock_sendall(wired.carrier, half)
    assert await read(wired.agent, len(half)) == half
    wired.relay.end(CallEnded(Reasons.max_duration))
    wired.relay.teardown.finish()
    async with asyncio.timeout(20):
        assert await loop.sock_recv(wired.agent, 65536) == b"", "the agent's socket just closes"
        closed = await loop.sock_recv(wired.carrier, 65536)
    assert closed[:4] == bytes((frames.FIN | frames.CLOSE, len(closed) - 2)) + (1000).to_bytes(2, "big")
