# SPDX-License-Identifier: BSD-2-Clause
"""The carrier's side of one media stream: messages, playback and counts. No I/O but the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from gateway.simulator.call_audio import audible, bytes_per_ms, hold_pieces, silence, to_pcm
from gateway.simulator.call_plan import UNHEARD, CallPlan, CallReport, EventKind, SimulatedEvent
from gateway.simulator.caller import Stage, Turn
from gateway.simulator.carrier_profiles import PROFILES, Ids, first_timestamp_ms
from gateway.simulator.dial_url import DialedUrl
from gateway.simulator.echo import TimedAudio, match_echo
from gateway.simulator.playback import TICK_MS, Playback
from serializers.dialect import DialectError
from serializers.events import (
    AgentEvent,
    CarrierEvent,
    Clear,
    Cleared,
    Connected,
    Dtmf,
    Error,
    Mark,
    Media,
    Played,
    Start,
    Stop,
    Unknown,
)
from serializers.registry import DIALECTS

MAX_COMPLAINTS = 20

TELNYX_MALFORMED = Error(100003, "malformed_frame", "the frame could not be read")
"""Telnyx's answer to a message that it cannot read (docs/reference/carriers.md §3.2)."""

NORMAL_CLOSE = 1000

TONE_MS = 100
"""Milliseconds for which the caller holds a key."""


class CarrierStream:
    """One media stream. `began`: of the TCP connect, in seconds of `clock`. `ids`: None for new ones."""

    def __init__(
        self,
        plan: CallPlan,
        dialled: DialedUrl,
        began: float,
        clock: Callable[[], float] = time.monotonic,
        ids: Ids | None = None,
    ) -> None:
        self._plan = plan
        self._dialled = dialled
        self._dialect = dialect = DIALECTS[plan.carrier]
        self._profile = profile = PROFILES[plan.carrier]
        self.ticks_per_frame = dialect.frame_ms // TICK_MS
        self._clock = clock
        self._began = began
        self._opened = clock()
        self._start = self._make_start(ids or profile.make_ids())
        self._sequence = 0
        self._chunk = 0
        self._timestamp_base = first_timestamp_ms(profile)
        audio = dialled.audio
        self._frame_silence = silence(audio, dialect.frame_ms)
        tick_silence = silence(audio, TICK_MS)
        self._tick_silence = tick_silence
        self._playback = Playback(bytes_per_ms(audio) * TICK_MS, tick_silence)
        self._sent: list[TimedAudio] = []
        self._received: list[TimedAudio] = []
        self._hold_pieces = hold_pieces(dialect, self._start)
        self._agent_sound_at: float | None = None
        self._is_agent_audible = False
        self._played_audio = bytearray()
        self._audible_ticks = 0
        self._marks: list[str] = []
        self._events: list[SimulatedEvent] = []
        self._complaints: list[str] = []
        self._stage = Stage.ANSWER
        self._failure: str | None = None

    def opening(self) -> list[str]:
        """Return the messages that open the stream."""
        self._sequence = 1
        connected = [self._write(Connected())] if self._dialect.sends_connected else []
        return [*connected, self._write(self._start)]

    def hang_up(self) -> list[str]:
        """Return the messages that the carrier sends before its close when the caller hangs up."""
        self.note("hang-up")
        if not self._dialect.sends_stop:
            return []
        return [self._write(Stop("callended", self._next_sequence()))]

    def play(self) -> tuple[list[str], bool]:
        """Play one tick. Return the messages for marks that it reached, and whether it was audible."""
        audio, reached = self._playback.play()
        self._played_audio += audio
        loud = audio != self._tick_silence and audible(to_pcm(audio, self._dialled.audio))
        self._audible_ticks += loud
        return [self._played(name) for name in reached], loud

    def caller_frame(self, turn: Turn, stage: Stage) -> list[str]:
        """Return the messages of one frame in which the caller does `turn`."""
        if stage is not self._stage:
            if stage is Stage.SPEECH:
                self.note("speech")
            if self._stage is Stage.SPEECH:
                self.note("speech end")
            self._stage = stage
        payload = turn.audio if turn.audio is not None else self._frame_silence
        self._chunk += 1
        self._sent.append(TimedAudio(self._clock(), payload))
        stamp = self._timestamp_base + self._chunk * self._dialect.frame_ms
        messages = [self._write(Media(payload, "inbound", self._chunk, stamp, self._next_sequence()))]
        if turn.digit is not None:
            self.note("digit", turn.digit)
            messages.append(self._write(self._key(turn.digit)))
        return messages

    def receive(self, message: str | bytes) -> list[str]:
        """Handle a message from the far side. Return the carrier's answers."""
        try:
            event = self._dialect.read_agent(message)
        except DialectError as error:
            self._complain(f"unreadable message: {error}")
            return [self._write(TELNYX_MALFORMED)] if self._dialect.name == "telnyx" else []
        return self._answer(event)

    def note(self, kind: EventKind, text: str = "") -> None:
        """Add an event to the call's timeline."""
        self._events.append(SimulatedEvent((self._clock() - self._opened) * 1000, kind, text))

    def fail(self, detail: str) -> None:
        """Note why the call cannot go on; the first reason counts."""
        self._failure = self._failure or detail

    def report(self, close_code: int | None, close_reason: str, *, hung_up: bool) -> CallReport:
        """Return the report. Call it once, after the call."""
        self.note("closed", str(close_code))
        echo = match_echo(self._sent, self._received)
        audio = self._dialled.audio
        sent = b"".join(frame.payload for frame in self._sent)
        # The last frame was not full when the call ended: make both directions equally long.
        missing_ticks = max(0, len(self._played_audio) - len(sent)) // len(self._tick_silence)
        whole = sent + self._tick_silence * missing_ticks
        ended_by: Literal["caller", "far side"] = "caller" if hung_up else "far side"
        return CallReport(
            carrier=self._plan.carrier,
            url=self._dialled.url,
            call_id=self._start.call_id,
            stream_id=self._start.stream_id,
            setup_ms=None if self._agent_sound_at is None else (self._agent_sound_at - self._began) * 1000,
            duration_ms=(self._clock() - self._opened) * 1000,
            frames_sent=len(self._sent),
            frames_received=len(self._received),
            bytes_sent=len(sent),
            bytes_received=sum(len(message.payload) for message in self._received),
            lost_frames=echo.lost if echo else None,
            delay_p50_ms=echo.percentile(50) if echo else None,
            delay_p99_ms=echo.percentile(99) if echo else None,
            marks=tuple(self._marks),
            audible_ms=float(self._audible_ticks * TICK_MS),
            close_code=close_code,
            close_reason=close_reason,
            ended_by=ended_by,
            agent_audible=self._is_agent_audible,
            error=self._failure or _close_error(close_code, close_reason, ended_by) or self._unheard(),
            complaints=tuple(self._complaints),
            sample_rate=audio.sample_rate,
            sent_audio=to_pcm(whole, audio),
            played_audio=to_pcm(bytes(self._played_audio), audio),
            events=tuple(self._events),
        )

    def _make_start(self, ids: Ids) -> Start:
        plan, profile = self._plan, self._profile
        return Start(
            call_id=ids.call_id,
            stream_id=ids.stream_id,
            account_id=ids.account_id,
            from_number=(plan.from_number or profile.from_number) if profile.sends_numbers else None,
            to_number=(plan.to_number or profile.to_number) if profile.sends_numbers else None,
            audio=self._dialled.audio,
            parameters=self._dialled.parameters,
            sequence=1,
        )

    def _write(self, event: CarrierEvent) -> str:
        return self._dialect.write_carrier(event, self._start)

    def _key(self, digit: str) -> Dtmf:
        pressed_at = int(time.time() * 1000)
        return Dtmf(digit, self._next_sequence(), timestamp_ms=pressed_at, duration_ms=TONE_MS)

    def _next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence

    def _played(self, name: str) -> str:
        self._marks.append(name)
        self.note("played", name)
        return self._write(Played(name, self._next_sequence()))

    def _answer(self, event: AgentEvent) -> list[str]:
        match event:
            case Media(payload=payload):
                self._receive_audio(payload)
            case Mark(name=name):
                self.note("mark", name)
                return [self._played(reached) for reached in self._playback.mark(name)]
            case Clear():
                return self._clear()
            case Dtmf(digits=digits):
                self.note("digit", f"from the agent: {digits}")
            case Unknown(event=name):
                self._complain(f"unknown event {name!r}")
        return []

    def _unheard(self) -> str | None:
        return UNHEARD if self._plan.expect_audio and not self._is_agent_audible else None

    def _receive_audio(self, payload: bytes) -> None:
        if not self._received:
            self.note("agent sound")
        if payload not in self._hold_pieces:
            if self._agent_sound_at is None:
                self._agent_sound_at = self._clock()
            if not self._is_agent_audible:
                self._is_agent_audible = audible(to_pcm(payload, self._dialled.audio))
        profile = self._profile
        if len(payload) < profile.min_chunk_bytes or len(payload) % profile.chunk_multiple:
            self._complain(
                f"{len(payload)} bytes of sound: not at least {profile.min_chunk_bytes} and a multiple of "
                f"{profile.chunk_multiple}, so the caller would hear gaps"
            )
        self._received.append(TimedAudio(self._clock(), payload))
        self._playback.add(payload)

    def _clear(self) -> list[str]:
        """Empty the playback buffer. Twilio and Telnyx return the marks, Plivo confirms the clear
        (docs/reference/carriers.md §2.3, §3.3, §4.3).
        """
        self.note("clear")
        marks = self._playback.clear()
        answers = [self._played(name) for name in marks] if self._profile.clear_returns_marks else []
        if self._profile.clear_is_confirmed:
            answers.append(self._write(Cleared(self._next_sequence())))
        return answers

    def _complain(self, detail: str) -> None:
        if detail not in self._complaints and len(self._complaints) < MAX_COMPLAINTS:
            self._complaints.append(detail)


def _close_error(code: int | None, reason: str, ended_by: str) -> str | None:
    if code == NORMAL_CLOSE:
        return None
    detail = f" ({reason})" if reason else ""
    if code in {None, 1006}:
        done = "did not answer the close" if ended_by == "caller" else "was lost without a close"
        return f"the far side {done}"
    return f"the far side closed with {code}{detail}"
