# SPDX-License-Identifier: BSD-2-Clause
"""The socket of a translated agent: what waits for its time, and what becomes of it when a side goes."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.media.translated_transport import ORDER_S, TranslatedTransport
from gateway.websocket import frames
from gateway.websocket.frames import FrameScanner
from serializers.agent_dialect import AgentDialect
from serializers.events import AudioFormat, Media, Start
from serializers.pcm16 import WITH_EVENTS
from serializers.registry import DIALECTS
from serializers.translation.playback_queue import AHEAD_S
from serializers.translation.translator import Translator

SECOND = bytes(16000)
"""A second of the agent's sound: linear, of 8 kHz."""


class Clock:
    """A loop whose time passes when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        self.timers.append(Timer(self, when, callback))
        return self.timers[-1]

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        return self.call_at(self.now + seconds, callback)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and run what is due meanwhile."""
        until = self.now + seconds
        while due := [timer for timer in self.timers if timer.at <= until]:
            first = min(due, key=Timer.when)
            self.timers.remove(first)
            self.now = max(self.now, first.at)
            first.callback()
        self.now = until


class Timer:
    """One call at a time."""

    def __init__(self, clock: Clock, at: float, callback: Callable[[], None]) -> None:
        self.clock, self.at, self.callback = clock, at, callback

    def when(self) -> float:
        return self.at

    def cancel(self) -> None:
        if self in self.clock.timers:
            self.clock.timers.remove(self)


class Socket(asyncio.Transport):
    """The agent's socket, which keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closing = self.paused = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def is_reading(self) -> bool:
        return not (self.closing or self.paused)

    def pause_reading(self) -> None:
        if self.closing:
            raise RuntimeError("uvloop says that the handle is closed")
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Far(asyncio.Protocol):
    """What the relay gets of the agent."""

    def __init__(self) -> None:
        self.data = b""
        self.lost = False

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


class Line:
    """One translated agent."""

    def __init__(self, carrier: str, agent: AgentDialect) -> None:
        linear = carrier == "exotel"
        audio = AudioFormat("linear16" if linear else "mulaw", 8000)
        self.dialect = DIALECTS[carrier]
        self.start = Start("call-1", "stream-1", "account-1", "+1", "+2", audio=audio)
        self.socket = Socket()
        self.far = Far()
        translator = Translator(self.dialect, self.start, agent, sample_rate=8000)
        self.transport = TranslatedTransport(self.socket, translator, max_message_bytes=1 << 20)
        self.transport.set_protocol(self.far)
        self.transport.resume_reading()
        self.bytes_per_s = 16000 if linear else 8000

    def agent_says(self, sound: bytes) -> None:
        self.transport.data_received(frames.build(frames.BINARY, sound, masked=False))

    def carrier_says(self, chunk: int) -> None:
        """Write a media message of the carrier's, with the sound of its number."""
        media = Media(bytes([chunk]) * 160, track="inbound", chunk=chunk, timestamp_ms=0, sequence=chunk)
        text = self.dialect.write_carrier(media, self.start).encode()
        self.transport.write(frames.build(frames.TEXT, text, masked=True))

    def heard_s(self, data: bytes | None = None) -> float:
        """Return the seconds of sound in what the relay got, or in `data`."""
        messages = texts(self.far.data if data is None else data, masked=False)
        sound = [base64.b64decode(each["media"]["payload"]) for each in map(json.loads, messages)]
        return sum(map(len, sound)) / self.bytes_per_s


def spans_of(data: bytes, *, masked: bool) -> tuple[bytes, list[frames.FrameSpan]]:
    scanner = FrameScanner(masked=masked, max_payload=1 << 20, inspect_below=frames.INSPECT_ALL)
    return scanner.feed(data), scanner.spans


def texts(data: bytes, *, masked: bool) -> list[bytes]:
    raw, spans = spans_of(data, masked=masked)
    return [frames.payload(raw, span) for span in spans if span.opcode == frames.TEXT]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("gateway.media.translated_transport.asyncio.get_running_loop", lambda: clock)
    return clock


def test_a_carrier_keeps_its_second_of_sound_when_an_agent_goes_on(clock: Clock) -> None:
    """Exotel plays messages of a size; what is too short for one waited until all was played."""
    line = Line("exotel", WITH_EVENTS)
    line.agent_says(SECOND + SECOND[:3300])  # a part of it is too short
    clock.pass_time(0.05)
    line.agent_says(SECOND * 5)
    began, at = 0.05, line.heard_s()
    for tenth in range(1, 40):
        clock.pass_time(0.1)
        at = line.heard_s()
        assert at - began - 0.1 * tenth > AHEAD_S - 0.2


def test_what_a_lost_agent_had_said_does_not_fill_the_carriers_socket(clock: Clock) -> None:
    """Another agent takes over; a carrier that has a minute unread would seem to read nothing."""
    line = Line("twilio", WITH_EVENTS)
    line.agent_says(SECOND * 30)
    heard = line.heard_s()
    assert heard < AHEAD_S + 0.3
    line.socket.close()
    line.transport.connection_lost(None)
    line.transport.pause_reading()  # as of a carrier that has much to read then
    assert line.far.lost
    assert line.heard_s() == heard
    assert clock.timers == []
    # The agent has ended its call in order, as its instance answers: its last words are heard.
    assert heard + line.heard_s(line.transport.take_rest()) == 30
    assert line.transport.take_rest() == b""


@pytest.mark.parametrize("how", ["close", "abort"])
def test_an_agent_that_was_closed_here_is_heard_no_more(clock: Clock, how: str) -> None:
    """Another one speaks by then, on the same carrier's socket."""
    line = Line("twilio", WITH_EVENTS)
    line.agent_says(SECOND * 30)
    heard = line.heard_s()
    line.socket.abort = line.socket.close  # type: ignore[method-assign]
    getattr(line.transport, how)()
    clock.pass_time(5)
    line.agent_says(SECOND)
    line.transport.connection_lost(None)
    assert line.heard_s() == heard
    assert line.transport.take_rest() == b""
    assert clock.timers == []


def test_an_agent_that_closes_is_heard_to_its_last_word_before_its_close(clock: Clock) -> None:
    line = Line("twilio", WITH_EVENTS)
    line.agent_says(SECOND * 30)
    line.transport.data_received(frames.build_close(1000, "", masked=False))
    _, spans = spans_of(line.far.data, masked=False)
    assert spans[-1].opcode == frames.CLOSE
    assert line.heard_s() == 30


def test_what_waits_for_its_order_goes_before_the_close(clock: Clock) -> None:
    """RFC 6455 §5.5.1: nothing follows a close."""
    line = Line("telnyx", WITH_EVENTS)
    for chunk in (1, 3, 4):
        line.carrier_says(chunk)
    line.transport.write(frames.build_close(1000, "", masked=True))
    _, spans = spans_of(line.socket.written, masked=True)
    assert [span.opcode for span in spans] == [frames.BINARY] * 3 + [frames.CLOSE]
    clock.pass_time(2 * ORDER_S)
    line.transport.data_received(frames.build(frames.TEXT, b'{"event":"mark","name":"m"}', masked=False))
    line.transport.data_received(frames.build(frames.TEXT, b'{"event":"clear"}', masked=False))
    assert len(spans_of(line.socket.written, masked=True)[1]) == 4


def test_the_next_stream_of_the_carrier_counts_anew(clock: Clock) -> None:
    """Telnyx numbers each stream's messages from 1, and those of another stream are not late."""
    line = Line("telnyx", WITH_EVENTS)
    for chunk in range(1, 201):
        line.carrier_says(chunk)
    line.transport.begin_stream()
    line.carrier_says(1)
    line.carrier_says(2)
    assert len(spans_of(line.socket.written, masked=True)[1]) == 202


def test_an_agent_is_not_read_while_a_minute_waits(clock: Clock) -> None:
    line = Line("twilio", WITH_EVENTS)
    for _ in range(6):
        line.agent_says(SECOND * 10)
    assert line.socket.paused is False
    line.agent_says(SECOND * 2)
    assert line.socket.paused
    clock.pass_time(1.5)
    assert not line.socket.paused
    clock.pass_time(62)
    assert line.heard_s() == 62
    assert clock.timers == []


def test_a_carrier_that_does_not_read_gets_nothing_more(clock: Clock) -> None:
    line = Line("twilio", WITH_EVENTS)
    line.agent_says(SECOND * 10)
    heard = line.heard_s()
    line.transport.pause_reading()
    clock.pass_time(5)
    assert line.heard_s() == heard
    line.transport.resume_reading()
    clock.pass_time(10)
    assert line.heard_s() == 10
