# SPDX-License-Identifier: BSD-2-Clause
"""What the relay does per chunk of media: nothing that it could leave out. Nothing here is timed."""

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
MAX_BYTES_RETAINED = 4096
"""For all frames together: a few lists that have grown and cached integers, but nothing per frame."""

MEDIA_MESSAGE = (
    b'{"event":"media","sequenceNumber":"4","media":{"track":"inbound","chunk":"2","timestamp":"5","payload":"%s"},'
    b'"streamSid":"MZ00000000000000000000000000000001"}'
) % base64.b64encode(bytes(160))
MEDIA_FRAMES = {masked: frames.build(frames.TEXT, MEDIA_MESSAGE, masked=masked) for masked in (True, False)}


class Unread:
    """A dialect that must not be used."""

    agent_media_events = frozenset({"media"})

    def event_of(self, payload: bytes) -> str | None:
        raise AssertionError(f"media was inspected: {payload[:40]!r}")


class Sink:
    """A transport that counts the bytes that are written."""

    def __init__(self) -> None:
        self.bytes = 0

    def write(self, data: bytes) -> None:
        self.bytes += len(data)


class RelayedCall:
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
async def make_call(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, far_ends: list[socket.socket]
) -> AsyncIterator[Callable[..., Any]]:
    """Make a running relay: with the accelerator, without it, and with the event loop's transports."""
    if request.param == "c":
        assert accelerator.ACTIVE, "the accelerator was not built: a compiler and Python's headers are needed"
    else:
        monkeypatch.setattr(direct_transport, "Pump", pump.Pump)
        monkeypatch.setattr(direct_transport, "EpollSet", pump.EpollSet)
        monkeypatch.setattr(pump, "POSSIBLE", request.param == "python")
    made: list[Relay] = []

    async def make(dialect: Any = DIALECTS["twilio"]) -> RelayedCall:
        legs = []
        for client in (False, True):
            leg, far = await open_leg(client=client)
            legs.append(leg)
            far_ends.append(far)
        options = RelayOptions(dialect=dialect, limits=LIMITS, on_first_sound=lambda: None)
        relay = Relay(legs[0], legs[1], options)
        relay.start()
        made.append(relay)
        return RelayedCall(relay, *far_ends[-2:])

    yield make
    for relay in made:
        await close_relay(relay)


async def read(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    async with asyncio.timeout(60):
        while len(data) < size:
            part = await asyncio.get_running_loop().sock_recv(sock, 65536)
            assert part, "the relay closed"
            data += part
    return bytes(data)


async def test_the_python_path_retains_nothing_and_creates_no_task(make_call: Any, monkeypatch: Any) -> None:
    relay = (await make_call()).relay
    monkeypatch.setattr(relay, "_dialect", Unread())
    side = relay.carrier
    sink = Sink()
    side.write_other = sink.write
    chunk = MEDIA_FRAMES[True]
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
    assert peak - before < MAX_BYTES_RETAINED
    assert after - before < MAX_BYTES_RETAINED
    assert len(asyncio.all_tasks()) == tasks


async def test_a_chunk_of_whole_frames_is_passed_on_without_a_copy(make_call: Any) -> None:
    relay = (await make_call()).relay
    passed: list[bytes] = []
    relay.carrier.write_other = passed.append
    chunk = MEDIA_FRAMES[True] * 3
    relay.carrier.data_received(chunk)
    assert passed[0] is chunk


async def test_reading_and_writing_retain_nothing(make_call: Any) -> None:
    """With the accelerator no object is created; in Python the chunk is, and it is freed."""
    call = await make_call(Unread())
    side = call.relay.carrier
    if not isinstance(side.transport, DirectTransport):
        return  # what the loop keeps is not ours
    ready = epoll_set_of(asyncio.get_running_loop()).ready
    call.carrier.send(MEDIA_FRAMES[True])
    ready()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(FRAMES):
        call.carrier.send(MEDIA_FRAMES[True])
        ready()
        call.agent.recv(65536)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert side.scanner.frames == FRAMES + 1
    assert after - before < MAX_BYTES_RETAINED


@pytest.mark.parametrize("how", ["at once", "coalesced by the loop", "coalesced", "polled"])
async def test_every_byte_arrives_in_order_both_ways(make_call: Any, how: str) -> None:
    call = await make_call()
    loop = asyncio.get_running_loop()
    poll_for = (
        epoll_set_of(loop).poll_for
        if how in ("coalesced", "polled") and call.relay.timers.is_direct
        else None
    )
    coalesce_s = 0.002 if how.startswith("coalesced") else 0.0
    batcher = LoopBatcher(
        coalesce_s, poll_for=poll_for, cpu=iter(range(1_000_000)).__next__
    )  # a processor that is always busy
    if coalesce_s or poll_for:
        batcher.measure_load()
        assert batcher.is_batching
    sent = {
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

    received = await asyncio.gather(
        read(call.agent, len(sent[True])),
        read(call.carrier, len(sent[False])),
        send(call.carrier, sent[True]),
        send(call.agent, sent[False]),
    )
    batcher.stop()
    assert received[0] == sent[True]
    assert received[1] == sent[False]
    assert call.relay.traffic == (2_000, len(sent[True]), 2_000, len(sent[False]))


@pytest.mark.parametrize(("seconds", "coalesce_s"), [(0.0, 0.0), (2.5 * pump.TIMER_S, 0.0), (0.002, 0.001)])
async def test_polling_passes_media_on_without_the_event_loop(
    make_call: Any, seconds: float, coalesce_s: float
) -> None:
    """Only a poll that does not sleep reports that nothing came."""
    call = await make_call()
    if not isinstance(call.relay.carrier.transport, DirectTransport):
        return
    poll_for = epoll_set_of(asyncio.get_running_loop()).poll_for
    call.carrier.send(MEDIA_FRAMES[True])
    call.agent.send(MEDIA_FRAMES[False])
    assert poll_for(seconds, coalesce_s)
    assert call.agent.recv(65536) == MEDIA_FRAMES[True]
    assert call.carrier.recv(65536) == MEDIA_FRAMES[False]
    assert poll_for(seconds, coalesce_s) is bool(coalesce_s)


@dataclass(frozen=True)
class EchoCalls:
    """Calls whose agent answers at once: it sends what it receives to the caller, through another pump."""

    epoll_set: Any
    callers: list[socket.socket]
    far_ends: list[socket.socket]


@pytest.fixture(params=[accelerator, pump], ids=["c", "python"])
def make_echo_calls(
    request: pytest.FixtureRequest, far_ends: list[socket.socket]
) -> Iterator[Callable[[int], EchoCalls]]:
    assert accelerator.ACTIVE
    pumps = []

    def make(calls: int) -> EchoCalls:
        made = EchoCalls(request.param.EpollSet(), [], [])
        for _ in range(calls):
            (caller, ours), (agent, its), (listens, far_end) = (socket.socketpair() for _ in range(3))
            far_ends.extend((caller, ours, agent, its, listens, far_end))
            for source, sink in ((ours, agent), (its, listens)):
                scanner = FrameScanner(masked=True, max_payload=1 << 20)
                one = request.param.Pump(
                    made.epoll_set, scanner, source, sink, on_chunk=unexpected, on_unsent=unexpected
                )
                one.resume()
                pumps.append(one)
            far_end.setblocking(False)
            made.callers.append(caller)
            made.far_ends.append(far_end)
        return made

    yield make
    for one in pumps:
        one.pause()


def test_under_load_answers_do_not_wait_for_the_next_sleep(make_echo_calls: Any) -> None:
    made = make_echo_calls(pump.MIN_READY)
    for caller in made.callers:
        caller.send(MEDIA_FRAMES[True])
    made.epoll_set.poll_for(
        1e-6, 10.0
    )  # it has never rested, so it looks at once, and will not do so again for 10 s
    assert [far_end.recv(65536) for far_end in made.far_ends] == [MEDIA_FRAMES[True]] * pump.MIN_READY


def test_a_single_answer_waits_for_the_next_sleep(make_echo_calls: Any) -> None:
    made = make_echo_calls(1)
    made.callers[0].send(MEDIA_FRAMES[True])
    made.epoll_set.poll_for(1e-6, 10.0)
    with pytest.raises(BlockingIOError):
        made.far_ends[0].recv(65536)


def test_one_iteration_of_the_loop_reads_more_than_one_wait_returns(make_echo_calls: Any) -> None:
    """If the loop sleeps because it reads some sockets itself, the others would wait for another sleep."""
    made = make_echo_calls(pump.EVENTS_AT_ONCE + 1)
    for caller in made.callers:
        caller.send(MEDIA_FRAMES[True])
    made.epoll_set.ready()
    assert [far_end.recv(65536) for far_end in made.far_ends] == [MEDIA_FRAMES[True]] * (
        pump.EVENTS_AT_ONCE + 1
    )


async def test_an_exception_of_one_owner_stops_no_other_socket(make_call: Any, monkeypatch: Any) -> None:
    """The other sockets that were readable with it are read."""
    call = await make_call()
    if not isinstance(call.relay.carrier.transport, DirectTransport):
        return
    loop = asyncio.get_running_loop()
    reported: list[Any] = []
    loop.set_exception_handler(lambda _, report: reported.append(report))
    monkeypatch.setattr("sys.unraisablehook", reported.append)  # the accelerator's way to say it

    class Fails(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            raise RuntimeError("a defect of the owner")

    call.relay.carrier.transport.set_protocol(Fails())
    call.carrier.send(MEDIA_FRAMES[True])
    call.agent.send(MEDIA_FRAMES[False])
    epoll_set_of(loop).ready()
    assert len(reported) == 1
    assert call.carrier.recv(65536) == MEDIA_FRAMES[False]


async def test_media_and_the_end_of_the_stream_may_come_together(make_call: Any) -> None:
    """The kernel reports a socket once for what has come on it."""
    call = await make_call()
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(call.carrier, MEDIA_FRAMES[True])
    call.carrier.shutdown(socket.SHUT_WR)
    assert await read(call.agent, len(MEDIA_FRAMES[True])) == MEDIA_FRAMES[True]
    async with asyncio.timeout(60):
        assert (await call.relay.ended).reason is Reasons.carrier_lost


async def test_more_than_one_chunk_is_read_to_its_end(make_call: Any) -> None:
    call = await make_call()
    loop = asyncio.get_running_loop()
    sent = MEDIA_FRAMES[True] * (3 * 65536 // len(MEDIA_FRAMES[True]))
    _, received = await asyncio.gather(loop.sock_sendall(call.carrier, sent), read(call.agent, len(sent)))
    assert received == sent


async def test_a_close_frame_is_never_written_inside_another_frame(make_call: Any) -> None:
    """A call ends while half a frame has been passed on."""
    call = await make_call()
    loop = asyncio.get_running_loop()
    half = MEDIA_FRAMES[True][: len(MEDIA_FRAMES[True]) // 2]
    await loop.sock_sendall(call.carrier, half)
    assert await read(call.agent, len(half)) == half
    call.relay.end(CallEnded(Reasons.max_duration))
    call.relay.teardown.finish()
    async with asyncio.timeout(60):
        assert await loop.sock_recv(call.agent, 65536) == b"", "the agent's socket just closes"
        closed = await loop.sock_recv(call.carrier, 65536)
    assert closed[:4] == bytes((frames.FIN | frames.CLOSE, len(closed) - 2)) + (1000).to_bytes(2, "big")
