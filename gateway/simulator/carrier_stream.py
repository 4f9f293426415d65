# SPDX-License-Identifier: BSD-2-Clause
"""A carrier's side of one stream: messages out, messages in, and what is counted. No I/O but the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from gateway.simulator.call_audio import audible, bytes_per_ms, silence, to_pcm
from gateway.simulator.call_plan import CallPlan, CallReport, EventKind, SimulatedEvent
from gateway.simulator.caller import Stage, Turn
from gateway.simulator.carrier_profiles import HABITS, first_timestamp_ms
from gateway.simulator.dial_url import DialedUrl
from gateway.simulator.echo import HeardSound, match_echo
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
"""What Telnyx answers to a message it cannot read (docs/reference/carriers.md §3.2)."""

NORMAL_CLOSE = 1000

TONE_MS = 100
"""How long the caller holds a key."""


class CarrierStream:
    """One stream of the carrier. `began`: when the TCP connect began, in seconds of `clock`."""

    def __init__(
        self,
        plan: CallPlan,
        dialled: DialedUrl,
        began: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan = plan
        self._dialled = dialled
        self._dialect = dialect = DIALECTS[plan.carrier]
        self._habits = habits = HABITS[plan.carrier]
        self.ticks_per_frame = dialect.frame_ms // TICK_MS
        self._clock = clock
        self._began = began
        self._opened = clock()
        self._start = self._make_start()
        self._sequence = 0
        self._chunk = 0
        self._timestamp_base = first_timestamp_ms(habits)
        audio = dialled.audio
        self._frame_silence = silence(audio, dialect.frame_ms)
        tick_silence = silence(audio, TICK_MS)
        self._tick_silence = tick_silence
        self._playback = Playback(bytes_per_ms(audio) * TICK_MS, tick_silence)
        self._sent: list[HeardSound] = []
        self._received: list[HeardSound] = []
        self._heard = bytearray()
        self._audible_ticks = 0
        self._marks: list[str] = []
        self._events: list[SimulatedEvent] = []
        self._complaints: list[str] = []
        self._stage = Stage.ANSWER
        self._given_up: str | None = None

    def opening(self) -> list[str]:
        """The messages that open the stream."""
        self._sequence = 1
        connected = [self._write(Connected())] if self._dialect.sends_connected else []
        return [*connected, self._write(self._start)]

    def reason(self) -> list[str]:
        """What the carrier says when the caller has hung up, before it closes; Plivo says nothing."""
        self.note("hang-up")
        if not self._dialect.sends_stop:
            return []
        return [self._write(Stop("callended", self._next_sequence()))]

    def play(self) -> tuple[list[str], bool]:
        """A tick of what the caller hears: the messages it causes, and whether there was anything to hear."""
        heard, passed = self._playback.play()
        self._heard += heard
        loud = heard != self._tick_silence and audible(to_pcm(heard, self._dialled.audio))
        self._audible_ticks += loud
        return [self._played(name) for name in passed], loud

    def say(self, turn: Turn, stage: Stage) -> list[str]:
        """A frame of what the caller does."""
        if stage is not self._stage:
            if stage is Stage.SPEECH:
                self.note("speech")
            if self._stage is Stage.SPEECH:
                self.note("speech end")
            self._stage = stage
        payload = turn.sound if turn.sound is not None else self._frame_silence
        self._chunk += 1
        self._sent.append(HeardSound(self._clock(), payload))
        stamp = self._timestamp_base + self._chunk * self._dialect.frame_ms
        messages = [self._write(Media(payload, "inbound", self._chunk, stamp, self._next_sequence()))]
        if turn.digit is not None:
            self.note("digit", turn.digit)
            messages.append(self._write(self._key(turn.digit)))
        return messages

    def hear(self, message: str | bytes) -> list[str]:
        """A message from the far side: the carrier's answers to it."""
        try:
            event = self._dialect.read_agent(message)
        except DialectError as error:
            self._complain(f"unreadable message: {error}")
            return [self._write(TELNYX_MALFORMED)] if self._dialect.name == "telnyx" else []
        return self._answer(event)

    def note(self, kind: EventKind, text: str = "") -> None:
        """Puts something on the call's timeline."""
        self._events.append(SimulatedEvent((self._clock() - self._opened) * 1000, kind, text))

    def give_up(self, detail: str) -> None:
        """The call cannot go on, and why."""
        self._given_up = self._given_up or detail

    def report(self, close_code: int | None, close_reason: str, *, hung_up: bool) -> CallReport:
        """What came of the call, once it is over."""
        self.note("closed", str(close_code))
        echo = match_echo(self._sent, self._received)
        audio = self._dialled.audio
        said = b"".join(sound.payload for sound in self._sent)
        # The last frame was not full when the call ended: both directions last as long as what was heard.
        whole = said + self._tick_silence * max(0, (len(self._heard) - len(said)) // len(self._tick_silence))
        ended_by: Literal["caller", "far side"] = "caller" if hung_up else "far side"
        return CallReport(
            carrier=self._plan.carrier,
            url=self._dialled.url,
            call_id=self._start.call_id,
            stream_id=self._start.stream_id,
            setup_ms=(self._received[0].at_s - self._began) * 1000 if self._received else None,
            duration_ms=(self._clock() - self._opened) * 1000,
            frames_sent=len(self._sent),
            frames_received=len(self._received),
            bytes_sent=len(said),
            bytes_received=sum(len(sound.payload) for sound in self._received),
            lost_frames=echo.lost if echo else None,
            delay_p50_ms=echo.percentile(50) if echo else None,
            delay_p99_ms=echo.percentile(99) if echo else None,
            marks=tuple(self._marks),
            heard_ms=float(self._audible_ticks * TICK_MS),
            close_code=close_code,
            close_reason=close_reason,
            ended_by=ended_by,
            error=self._given_up or _close_error(close_code, close_reason, ended_by),
            complaints=tuple(self._complaints),
            sample_rate=audio.sample_rate,
            said=to_pcm(whole, audio),
            heard=to_pcm(bytes(self._heard), audio),
            events=tuple(self._events),
        )

    def _make_start(self) -> Start:
        plan, habits = self._plan, self._habits
        ids = habits.make_ids()
        return Start(
            call_id=ids.call_id,
            stream_id=ids.stream_id,
            account_id=ids.account_id,
            from_number=(plan.from_number or habits.from_number) if habits.sends_numbers else None,
            to_number=(plan.to_number or habits.to_number) if habits.sends_numbers else None,
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
                self._take(payload)
            case Mark(name=name):
                self.note("mark", name)
                return [self._played(passed) for passed in self._playback.mark(name)]
            case Clear():
                return self._clear()
            case Dtmf(digits=digits):
                self.note("digit", f"from the agent: {digits}")
            case Unknown(event=name):
                self._complain(f"unknown event {name!r}")
        return []

    def _take(self, payload: bytes) -> None:
        if not self._received:
            self.note("agent sound")
        habits = self._habits
        if len(payload) < habits.min_chunk_bytes or len(payload) % habits.chunk_multiple:
            self._complain(
                f"{len(payload)} bytes of sound: not at least {habits.min_chunk_bytes} and a multiple of "
                f"{habits.chunk_multiple}, so the caller would hear gaps"
            )
        self._received.append(HeardSound(self._clock(), payload))
        self._playback.add(payload)

    def _clear(self) -> list[str]:
        """Twilio and Telnyx return the marks, Plivo says that it cleared (docs/reference/carriers.md §2.3,
        §3.3, §4.3).
        """
        self.note("clear")
        marks = self._playback.clear()
        answers = [self._played(name) for name in marks] if self._habits.clear_returns_marks else []
        if self._habits.clear_is_confirmed:
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
