# SPDX-License-Identifier: BSD-2-Clause
"""One call between a carrier and an agent that is written for something else (docs/translation.md).

Pure: messages go in with the time, and what is to be sent is in `to_agent` and `to_carrier` afterwards. What
of the agent's sound must wait for its time comes out of `advance`, at `next_due`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from serializers.agent_dialect import AgentDialect, AgentMessage, Formats, Message, Problem, Reply, text
from serializers.dialect import Dialect, DialectError
from serializers.events import (
    AgentEvent,
    CarrierEvent,
    Clear,
    Cleared,
    Dtmf,
    Mark,
    Media,
    Played,
    Start,
    Stop,
)
from serializers.transforms import ToAgent, Transform
from serializers.translation.frame_cutter import FrameCutter
from serializers.translation.media_text import MediaText, read_sound
from serializers.translation.playback_queue import Item, PlaybackQueue
from serializers.translation.sound import SoundConverter, bytes_per_s, silent_sample

_MEDIA: Final = frozenset({"media"})
"""The event of every carrier's media messages (docs/reference/carriers.md §1)."""

MAX_EARLY_S: Final = 5.0
"""Seconds of the caller's sound that wait for an agent that is not ready for it; the latest ones."""

MAX_PENDING_MARKS: Final = 1000
"""Marks that the carrier has not reported yet. An agent that sets more has the oldest forgotten."""


class Translator:
    """Both directions of one call, as long as it has this agent."""

    def __init__(
        self,
        carrier: Dialect,
        start: Start,
        agent: AgentDialect,
        *,
        sample_rate: int,
        own_document: bool = False,
        on_problem: Callable[[str], None] = lambda words: None,
    ) -> None:
        """`start`: the carrier's. `sample_rate`: Hz of the agent's sound, where the agent may choose.
        `own_document`: as in `Dialect.agent_audio`. `on_problem`: is called with each error that the agent
        reports, a sentence of its own.

        Raises DialectError if the call's sound cannot be translated.
        """
        self._carrier = carrier
        self._start = start
        self._agent = agent
        played = carrier.agent_audio(start, own_document=own_document)
        if played is None:
            raise DialectError(f"what {carrier.name} plays is not known for a call in {start.audio.encoding}")
        self._played = played
        self._format = agent.audio(sample_rate)
        self._agent_start = agent.start_of(start, self._format)
        self._to_agent = SoundConverter(start.audio, self._format)
        self._to_carrier = SoundConverter(self._format, played)
        self._agent_rate = self._format.sample_rate
        self._order = _order_of(carrier)
        self._agent_bytes_per_s = bytes_per_s(self._format)
        self._cutter = self._make_cutter()
        self._queue = PlaybackQueue(
            bytes_per_s(played),
            carrier.min_media_bytes,
            carrier.media_step_bytes,
            silent_sample(played),
            agent.held_s,
        )
        self._write_sound = agent.sound_writer(self._agent_start)
        self._write_played = MediaText(lambda media: carrier.write_agent(media, start))
        self._sequence = 0
        self._chunk = 0
        self._sent_bytes = 0  # of sound to the agent
        self._set_marks: list[str] = []  # the carrier has them, and has not reported them
        self._discarded: Counter[str] = Counter()  # of those, what the agent is not to be told again
        self._early: deque[bytes] | None = deque() if agent.waits_for_formats else None
        self._early_bytes = 0
        self._on_problem = on_problem
        self.to_agent: list[Message] = []
        """Messages for the agent, which the caller removes."""
        self.to_carrier: list[Message] = []
        """Messages for the carrier, which the caller removes."""

    # From the carrier

    def carrier_message(self, message: Message) -> None:
        """Translate a message of the carrier. One that is none, or means nothing to the agent, is dropped."""
        if self._order is None:
            self._read_carrier(message.data)
            return
        messages = self._order.feed(message.data)
        for data in (message.data,) if messages is None else messages:
            self._read_carrier(data)

    def _read_carrier(self, data: bytes) -> None:
        try:
            sound = read_sound(data, _MEDIA)
            event = self._carrier.read_carrier(data) if sound is None else None
        except DialectError:
            return
        if sound:
            self._pass_sound(sound)
        elif event is not None:
            self._carrier_event(event)

    def _carrier_event(self, event: CarrierEvent) -> None:
        match event:
            case Media():
                self._pass_sound(event.payload)
            case Start():
                # Its ids count, which may be hidden from the agent; the numbers may come from elsewhere.
                known = replace(
                    event,
                    from_number=event.from_number or self._start.from_number,
                    to_number=event.to_number or self._start.to_number,
                )
                self._agent_start = self._agent.start_of(known, self._format)
                self._write_sound = self._agent.sound_writer(self._agent_start)
                opening = self._agent.opening(replace(self._agent_start, sequence=self._next_sequence()))
                self.to_agent += opening
            case Dtmf():
                for digit in event.digits:
                    pressed = replace(event, digits=digit, sequence=self._next_sequence())
                    self._write_agent(pressed)
                    self.to_agent += self._agent.after(pressed)
            case Played():
                self._mark_played(event.name)
            case Stop():
                self._order_flushed()
                for frame in self._cutter.flush():
                    self._send_sound(frame)
                self._write_agent(replace(event, sequence=self._next_sequence()))

    def _pass_sound(self, sound: bytes) -> None:
        if self._early is not None:
            self._early.append(sound)
            self._early_bytes += len(sound)
            while self._early_bytes > MAX_EARLY_S * bytes_per_s(self._start.audio):
                self._early_bytes -= len(self._early.popleft())
            return
        for frame in self._cutter.feed(self._to_agent.feed(sound)):
            self._send_sound(frame)

    def _send_sound(self, frame: bytes) -> None:
        self._chunk += 1
        at_ms = self._sent_bytes * 1000 // self._agent_bytes_per_s
        self._sent_bytes += len(frame)
        self.to_agent.append(self._write_sound(frame, self._next_sequence(), self._chunk, at_ms))

    def _mark_played(self, name: str) -> None:
        if self._discarded[name]:
            self._discarded -= Counter((name,))  # which leaves no names without a number
            return
        if name in self._set_marks:
            self._set_marks.remove(name)
            self._write_agent(Played(name, self._next_sequence()))

    def _write_agent(self, event: CarrierEvent) -> None:
        message = self._agent.write_carrier(event, self._agent_start)
        if message is not None:
            self.to_agent.append(message)

    def _next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence

    def _order_flushed(self) -> None:
        for data in () if self._order is None else self._order.flush():
            self._read_carrier(data)

    # From the agent

    def agent_message(self, message: Message, now: float) -> None:
        """Translate a message of the agent. One that is none, or the carrier has none for, is dropped."""
        try:
            event = self._agent.read_agent(message)
            self._agent_event(event, now)
        except DialectError:
            return
        self.advance(now)

    def _agent_event(self, event: AgentMessage, now: float) -> None:
        match event:
            case Media():
                if event.sample_rate not in (None, self._agent_rate):
                    spoken = replace(self._format, sample_rate=event.sample_rate)
                    self._to_carrier = SoundConverter(spoken, self._played)
                    self._agent_rate = spoken.sample_rate
                self._queue.add_sound(self._to_carrier.feed(event.payload), now)
            case Mark():
                self._queue.add_mark(event.name)
            case Clear():
                self._clear(now)
            case Dtmf():
                self._write_carrier(event)
            case Reply():
                self.to_agent.append(event.message)
            case Problem():
                self._on_problem(event.words)
            case Formats():
                try:
                    self._use(event)
                except DialectError as error:  # nobody hears anything: the operator has to know why
                    self._on_problem(str(error))

    def _use(self, formats: Formats) -> None:
        """Take the agent's formats from now on, and let it have what the caller has said meanwhile.

        Raises DialectError, with no effect on the caller's sound, if one of them cannot be translated.
        """
        to_agent = SoundConverter(self._start.audio, formats.to_agent)
        self._to_carrier = SoundConverter(formats.from_agent, self._played)
        if formats.to_agent != self._format:
            self._format = formats.to_agent
            self._agent_bytes_per_s = bytes_per_s(self._format)
            self._to_agent = to_agent
            self._cutter = self._make_cutter()
        self._agent_rate = formats.from_agent.sample_rate
        early, self._early = self._early, None
        for sound in early or ():
            self._pass_sound(sound)

    def _make_cutter(self) -> FrameCutter:
        frame_ms = self._agent.frame_ms
        size = None if frame_ms is None else frame_ms * self._agent_bytes_per_s // 1000
        return FrameCutter(size, silent_sample(self._format))

    def _clear(self, now: float) -> None:
        self._to_carrier.reset()
        unplayed_ms = round(self._queue.unplayed_s(now) * 1000)
        waiting = self._queue.clear()
        self._write_carrier(Clear())
        returned, self._set_marks = self._set_marks, []
        if self._agent.clear_answer == "marks":
            if self._carrier.returns_marks:
                self._set_marks, returned = returned, []
            for name in (*returned, *waiting):
                self._write_agent(Played(name, self._next_sequence()))
        elif self._agent.clear_answer == "cleared":
            self._write_agent(Cleared(self._next_sequence()))
        self.to_agent += self._agent.cleared(unplayed_ms)
        if self._carrier.returns_marks:  # a carrier that drops them reports later ones of the same name only
            self._discarded.update(returned)
        if self._discarded.total() > MAX_PENDING_MARKS:
            self._discarded.clear()

    def advance(self, now: float) -> None:
        """Put what is due by `now` into `to_carrier`."""
        self._send(self._queue.take_due(now))

    def finish(self) -> None:
        """Put all that the agent has said into `to_carrier`: it says no more."""
        self._send(self._queue.take_all())

    def next_due(self) -> float | None:
        """Return when `advance` has something again; None for not before another message."""
        return self._queue.next_due()

    @property
    def is_full(self) -> bool:
        """Whether the agent is so far ahead that it should not be read."""
        return self._queue.is_full

    def begin_stream(self) -> None:
        """Begin anew with another stream of the carrier's, whose numbers and marks are its own."""
        self._order = _order_of(self._carrier)
        self._discarded.clear()

    @property
    def waits_for_order(self) -> bool:
        """Whether messages of the carrier wait for one before them: `flush_order` when none comes."""
        return self._order is not None and self._order.has_buffered

    def flush_order(self) -> None:
        """Wait no more for messages of the carrier that are missing."""
        self._order_flushed()

    def _send(self, items: list[Item]) -> None:
        for item in items:
            if isinstance(item, bytes):
                self.to_carrier.append(Message(self._write_played.write(item), is_text=True))
            else:
                self._set_marks.append(item)
                if len(self._set_marks) > MAX_PENDING_MARKS:
                    del self._set_marks[0]
                self._write_carrier(Mark(item))

    def _write_carrier(self, event: AgentEvent) -> None:
        try:
            message = self._carrier.write_agent(event, self._start)
        except DialectError:  # the carrier has no message for it
            return
        self.to_carrier.append(text(message))


def _order_of(carrier: Dialect) -> Transform | None:
    """Return what puts the carrier's messages in order; None for a carrier that sends them so."""
    order = carrier.transforms()[0]
    return None if type(order) is ToAgent else order  # which drops what is dropped here, too
