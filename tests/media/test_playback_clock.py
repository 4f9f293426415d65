# SPDX-License-Identifier: BSD-2-Clause
"""What a caller has heard, counted, beside a carrier that plays every message to its end."""

from __future__ import annotations

import base64
import itertools
import random
from types import SimpleNamespace

import pytest

from gateway.media.playback_clock import PlaybackClock, frame_bytes, sound_bytes_per_s
from gateway.media.playback_wait import MARGIN_S, UNKNOWN_S, PlaybackLimits
from gateway.media.relay_timers import ROUND_S
from serializers.events import AudioFormat, Clear, Mark, Media, Start
from serializers.registry import DIALECTS

CODECS = {
    "mulaw": AudioFormat(),
    "alaw": AudioFormat("alaw"),
    "L16": AudioFormat("linear16", 16000),
    "G.722": AudioFormat("g722", 16000),
}
START = Start("CA1", "MZ1")
LOOK_S = 0.02


class Stream:
    """One agent's stream, the clock under test, and the carrier that plays it. `now`: seconds."""

    def __init__(self, audio: AudioFormat = CODECS["mulaw"]) -> None:
        rate = sound_bytes_per_s(audio)
        assert rate is not None
        self.rate = rate
        self.counts = SimpleNamespace(frames=0, bytes=0)
        self.clock = PlaybackClock(rate)
        self.now = 1000.0
        self._looked_at = self.now
        self.played_s = self._queued_s = 0.0

    def passes(self, message: str) -> int:
        self.counts.frames += 1
        self.counts.bytes += frame_bytes(len(message))
        return len(message)

    def says(self, ms: int) -> None:
        """Let the agent send one message with sound."""
        sound = bytes(self.rate * ms // 1000)
        size = self.passes(DIALECTS["twilio"].write_agent(Media(sound), START))
        if self.clock.awaits_sound:
            self.clock.sound_begins(size, len(sound), self.now)
        self._queued_s += ms / 1000

    def sends(self, event: Mark | Clear) -> None:
        size = self.passes(DIALECTS["twilio"].write_agent(event, START))
        self.clock.skip(1, frame_bytes(size))
        if isinstance(event, Clear):
            self.clock.clear(self.counts, self.now)
            self._queued_s = 0.0

    def plays(self, seconds: float) -> None:
        """Let time pass; the clock looks once in a round, as the relay's timer does."""
        for _ in range(round(seconds / LOOK_S)):
            self.now += LOOK_S
            played_s = min(self._queued_s, LOOK_S)
            self._queued_s -= played_s
            self.played_s += played_s
            if self.now - self._looked_at >= ROUND_S:
                self._looked_at = self.now
                if self.clock.follow(self.counts, self.now):
                    self.clock.awaits_sound = True

    def assert_heard(self, error_s: float = 0.05) -> None:
        assert self.clock.played_s(self.counts, self.now) == pytest.approx(self.played_s, abs=error_s)
        assert self.clock.queued_s(self.counts, self.now) == pytest.approx(self._queued_s, abs=error_s)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("message_ms", [10, 20, 40, 125])
def test_a_sentence_that_is_sent_faster_than_it_is_played(codec: str, message_ms: int) -> None:
    stream = Stream(CODECS[codec])
    for _ in range(8000 // message_ms):
        stream.says(message_ms)
        if stream.now < 1004:
            stream.plays(0.02)
        stream.assert_heard()
    stream.plays(20)
    stream.assert_heard()
    assert stream.clock.played_s(stream.counts, stream.now) == pytest.approx(8, abs=0.05)


def test_sentences_with_pauses_between_them() -> None:
    stream = Stream()
    for sentence, pause_s in itertools.product((300, 1500, 4000), (1.3, 6, 61)):
        for _ in range(sentence // 20):
            stream.says(20)
        stream.plays(sentence / 2000)
        stream.assert_heard()
        stream.plays(sentence / 2000 + pause_s)
        stream.assert_heard()


def test_an_agent_that_is_interrupted_again_and_again() -> None:
    stream = Stream()
    for played_s in (0.5, 0.0, 2.46, 4.9):
        for _ in range(250):
            stream.says(20)
        stream.plays(played_s)
        stream.sends(Clear())
        stream.assert_heard()
        stream.plays(3)
        stream.assert_heard()


def test_messages_without_sound_are_not_heard() -> None:
    stream = Stream()
    stream.sends(Mark("before the first sound"))
    for _ in range(50):
        stream.says(20)
        stream.sends(Mark("a rather long name"))
    stream.plays(5)
    assert stream.clock.played_s(stream.counts, stream.now) == pytest.approx(1, abs=0.001)


@pytest.mark.parametrize("seed", range(5))
def test_any_talk_is_counted_to_a_round_and_exactly_once_it_is_over(seed: int) -> None:
    """A pause that ends within a round is not seen, and counts as heard until the sound is over."""
    talk = random.Random(seed)
    stream = Stream()
    for _ in range(40):
        for _ in range(talk.randrange(1, 200)):
            stream.says(20)
            stream.plays(talk.choice((0.0, 0.02, 0.02)))
        if talk.random() < 0.3:
            stream.plays(talk.random())
            stream.assert_heard(ROUND_S + 0.05)
        else:
            stream.plays(talk.random() * 20)
    stream.plays(120)
    stream.assert_heard()


def test_messages_of_changing_size_are_counted_to_half_a_percent() -> None:
    """How much of base64 is padding is taken from the first message, and may differ a little."""
    stream = Stream()
    for _ in range(1000):
        stream.says(20)
        stream.says(40)
    stream.plays(70)
    assert stream.clock.played_s(stream.counts, stream.now) == pytest.approx(60, rel=0.005)


def test_nothing_is_heard_while_the_carrier_has_no_stream() -> None:
    stream = Stream()
    stream.says(1000)
    stream.plays(0.4)
    stream.clock.stop(stream.counts, stream.now)
    for _ in range(50):  # buffered for the carrier's next stream
        stream.says(20)
    stream.clock.stop(stream.counts, stream.now)
    assert stream.clock.played_s(stream.counts, stream.now + 30) == pytest.approx(0.4, abs=0.05)


def test_what_was_said_while_the_carrier_had_no_stream_is_played_on_the_next_one() -> None:
    stream = Stream()
    stream.says(1000)
    stream.plays(0.4)
    stream.clock.stop(stream.counts, stream.now)
    stream.passes(DIALECTS["twilio"].write_agent(Media(bytes(4000)), START))
    stream.clock.resume(stream.now)
    assert stream.clock.played_s(stream.counts, stream.now + 0.2) == pytest.approx(0.6, abs=0.05)
    assert stream.clock.played_s(stream.counts, stream.now + 5) == pytest.approx(0.9, abs=0.05)


def test_another_agent_counts_on_from_what_the_first_one_said() -> None:
    clock = PlaybackClock(8000, played_s=7.5)
    assert clock.played_s(SimpleNamespace(frames=3, bytes=700), 1000.0) == 7.5


def test_a_codec_of_variable_rate_cannot_be_counted() -> None:
    assert sound_bytes_per_s(AudioFormat("opus", 48000)) is None
    assert sound_bytes_per_s(AudioFormat("linear16", 8000, channels=2)) == 32000


@pytest.mark.parametrize(
    ("longest_s", "queued_s", "wait_s"),
    [(60, 25.0, 25 + MARGIN_S), (60, 0.0, MARGIN_S), (60, 200.0, 60), (60, None, UNKNOWN_S), (0, 25.0, 0)],
)
def test_a_playback_is_waited_for_as_long_as_it_lasts(
    longest_s: float, queued_s: float | None, wait_s: float
) -> None:
    assert PlaybackLimits(longest_s, queued_s).wait_s == wait_s


def test_the_payloads_are_base64_as_the_clock_assumes() -> None:
    for size in range(1, 10):
        assert len(base64.b64encode(bytes(size))) == (size + 2) // 3 * 4
