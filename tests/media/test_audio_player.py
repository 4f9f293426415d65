# SPDX-License-Identifier: BSD-2-Clause
"""The audio player against a clock that the test holds: its pace, its pieces, its end."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.audio.clips import ClipCache
from gateway.media.audio_player import AHEAD_S, TICK_S, AudioPlayer, Pacer
from gateway.websocket import frames
from gateway.websocket.frames import FrameScanner
from serializers.events import AudioFormat, Clear, Media, Start
from serializers.registry import DIALECTS
from tests.harness.transcripts import CARRIERS

FORMATS = [
    *(("twilio", AudioFormat()), ("telnyx", AudioFormat()), ("telnyx", AudioFormat("alaw"))),
    *(("plivo", AudioFormat()), ("plivo", AudioFormat("linear16", 16000))),
    *(("exotel", AudioFormat("linear16", rate)) for rate in (8000, 16000, 24000)),
]


class HeldLoop:
    """A loop whose time moves when a test moves it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.due: list[tuple[float, Any]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Any) -> object:
        self.due.append((when, callback))
        return callback

    def pass_time(self, seconds: float, *, late: float = 0.0) -> None:
        """Let time pass, and call everything that is due, each `late` seconds after its time."""
        until = self.now + seconds
        while self.due and self.due[0][0] + late <= until:
            when, callback = self.due.pop(0)
            self.now = max(self.now, when + late)
            callback()
        self.now = until


@dataclass
class Carrier:
    """The carrier's end: what it has received, and when."""

    loop: HeldLoop
    carrier: str
    start: Start
    unsent: int = 0
    is_writable: bool = True
    can_send_message: bool = True
    client: bool = False
    received: list[tuple[float, Media | Clear]] = field(default_factory=list)

    @property
    def transport(self) -> Carrier:
        return self

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def write(self, data: bytes) -> None:
        scanner = FrameScanner(masked=False, max_payload=1 << 20, inspect_below=frames.INSPECT_ALL)
        data = scanner.feed(data)
        for frame in scanner.spans:
            message = DIALECTS[self.carrier].read_agent(frames.payload(data, frame))
            assert isinstance(message, Media | Clear)
            self.received.append((self.loop.now, message))

    @property
    def bytes_per_s(self) -> int:
        audio = DIALECTS[self.carrier].agent_audio(self.start)
        assert audio is not None
        return audio.sample_rate * (2 if audio.encoding == "linear16" else 1)

    def played(self) -> list[tuple[float, float]]:
        """Return when each piece came, and how many seconds of audio were unplayed then."""
        unplayed_until, pieces = 0.0, []
        for when, message in self.received:
            if isinstance(message, Media):
                pieces.append((when, max(unplayed_until - when, 0.0)))
                unplayed_until = max(unplayed_until, when) + len(message.payload) / self.bytes_per_s
        return pieces

    def most_ahead(self) -> float:
        unplayed_until, longest = 0.0, 0.0
        for when, message in self.received:
            if isinstance(message, Media):
                unplayed_until = max(unplayed_until, when) + len(message.payload) / self.bytes_per_s
                longest = max(longest, unplayed_until - when)
        return longest


@pytest.fixture
def loop() -> HeldLoop:
    return HeldLoop()


@pytest.fixture
def pacer(loop: HeldLoop) -> Pacer:
    return Pacer(loop)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def clips() -> ClipCache:
    return ClipCache()


def carrier_of(loop: HeldLoop, name: str, audio: AudioFormat | None = None) -> Carrier:
    audio = audio or (AudioFormat("linear16") if name == "exotel" else AudioFormat())
    return Carrier(loop, name, Start("C1", "S1", audio=audio))


def play(carrier: Carrier, pacer: Pacer, clips: ClipCache, source: Any = "us", **how: Any) -> AudioPlayer:
    dialect = DIALECTS[carrier.carrier]
    clip = clips.clip(source, dialect, carrier.start)
    return AudioPlayer(carrier, dialect, carrier.start, clip, pacer=pacer, **how)


@pytest.mark.parametrize("late", [0.0, 0.003, 0.09])
@pytest.mark.parametrize(("name", "audio"), FORMATS)
async def test_the_carrier_has_at_most_200_ms_and_the_caller_hears_no_gap(
    loop: HeldLoop, pacer: Pacer, clips: ClipCache, name: str, audio: AudioFormat, late: float
) -> None:
    carrier = carrier_of(loop, name, audio)
    player = play(carrier, pacer, clips)
    loop.pass_time(20, late=late)
    seconds = sum(len(message.payload) for _, message in carrier.received if isinstance(message, Media))
    seconds /= carrier.bytes_per_s
    assert carrier.most_ahead() <= AHEAD_S + 1e-5
    piece_s = clips.clip("us", DIALECTS[name], carrier.start).piece_ms / 1000
    if piece_s <= AHEAD_S / 2:  # a piece as long as all that may be ahead leaves nothing to be late with
        assert all(ahead > 0 for _, ahead in carrier.played()[1:]), "the caller hears a gap"
        assert 19.7 <= seconds <= 20
    else:
        assert seconds >= 20 * piece_s / (piece_s + max(late, 0.001)) - 0.7
    player.stop()


async def test_playing_begins_within_300_ms_and_not_at_once(
    loop: HeldLoop, pacer: Pacer, clips: ClipCache
) -> None:
    first = []
    for offset in (0.0, 0.02, 0.05, 0.099):  # at any phase of the timer
        loop.pass_time(offset)
        carrier, begun = carrier_of(loop, "twilio"), loop.now
        player = play(carrier, pacer, clips)
        loop.pass_time(0.3)
        first.append(carrier.received[0][0] - begun)
        player.stop()
    assert 0.15 <= min(first) <= max(first) <= 0.26


@pytest.mark.parametrize("name", CARRIERS)
async def test_stop_sends_one_clear_and_ends_the_timer(
    loop: HeldLoop, pacer: Pacer, clips: ClipCache, name: str
) -> None:
    carrier = carrier_of(loop, name)
    player = play(carrier, pacer, clips)
    loop.pass_time(1)
    player.stop()
    player.stop()
    loop.pass_time(5)
    assert [isinstance(message, Clear) for _, message in carrier.received].count(True) == 1
    assert isinstance(carrier.received[-1][1], Clear)
    assert player.finished.done()
    assert not loop.due, "nobody is left to be timed"


async def test_nothing_is_played_before_an_agent_that_connects_at_once(
    loop: HeldLoop, pacer: Pacer, clips: ClipCache
) -> None:
    carrier = carrier_of(loop, "twilio")
    player = play(carrier, pacer, clips)
    loop.pass_time(0.14)
    player.stop()
    loop.pass_time(1)
    assert carrier.received == [], "not even a clear"


@pytest.mark.parametrize("rate", [8000, 16000, 24000])
async def test_exotel_receives_the_sizes_that_it_plays_without_gaps(
    loop: HeldLoop, pacer: Pacer, clips: ClipCache, rate: int
) -> None:
    carrier = carrier_of(loop, "exotel", AudioFormat("linear16", rate))
    play(carrier, pacer, clips, "in")
    loop.pass_time(10)
    sizes = {len(message.payload) for _, message in carrier.received if isinstance(message, Media)}
    assert all(size >= 3200 and size % 320 == 0 for size in sizes)


async def test_telnyx_receives_the_codec_it_announces_for_the_bidirectional_stream(
    loop: HeldLoop, pacer: Pacer, clips: ClipCache
) -> None:
    british, american = (carrier_of(loop, "telnyx", AudioFormat(coded)) for coded in ("alaw", "mulaw"))
    for carrier in (british, american):
        play(carrier, pacer, clips, "eu")
    loop.pass_time(2)
    assert [message for _, message in british.received] == [message for _, message in american.received]


async def test_a_carrier_that_does_not_read_is_sent_nothing(
    loop: HeldLoop, pacer: Pacer, clips: ClipCache
) -> None:
    carrier = carrier_of(loop, "twilio")
    play(carrier, pacer, clips)
    loop.pass_time(1)
    carrier.unsent = 1
    before = len(carrier.received)
    loop.pass_time(30)
    assert len(carrier.received) == before
    carrier.unsent = 0
    loop.pass_time(1)
    assert len(carrier.received) > before
    assert carrier.most_ahead() <= AHEAD_S + 1e-5, "nothing is made up for"


async def test_nothing_is_written_inside_another_message_or_after_a_close(
    loop: HeldLoop, pacer: Pacer, clips: ClipCache
) -> None:
    carrier = carrier_of(loop, "plivo")
    player = play(carrier, pacer, clips)
    loop.pass_time(1)
    before = len(carrier.received)
    carrier.can_send_message = False
    loop.pass_time(1)
    player.stop()
    assert len(carrier.received) == before


async def test_a_clear_may_always_precede_the_agents_first_sound(
    loop: HeldLoop, pacer: Pacer, clips: ClipCache
) -> None:
    carrier = carrier_of(loop, "plivo")
    player = play(carrier, pacer, clips)
    loop.pass_time(1)
    carrier.can_send_message = False  # behind its sound the agent has begun another message
    player.stop(before_message=True)
    assert isinstance(carrier.received[-1][1], Clear)


async def test_playing_moves_to_the_relay_and_ends_there_at_its_limit(
    loop: HeldLoop, pacer: Pacer, clips: ClipCache
) -> None:
    alone = carrier_of(loop, "twilio")
    relayed = carrier_of(loop, "twilio")
    player = play(alone, pacer, clips)
    loop.pass_time(1)
    before = len(alone.received)
    player.move_to(relayed, limit_s=2)
    loop.pass_time(5)
    assert len(alone.received) == before
    assert isinstance(relayed.received[-1][1], Clear)
    assert relayed.received[-1][0] == pytest.approx(103, abs=TICK_S)


async def test_all_players_share_one_timer(loop: HeldLoop, pacer: Pacer, clips: ClipCache) -> None:
    carriers = [carrier_of(loop, name) for name in CARRIERS * 50]
    for carrier in carriers:
        play(carrier, pacer, clips)
    assert len(loop.due) == 1
    loop.pass_time(1)
    assert len(loop.due) == 1
    assert all(carrier.received for carrier in carriers)


async def test_a_clip_without_repetition_is_played_once(
    loop: HeldLoop, pacer: Pacer, clips: ClipCache
) -> None:
    carrier = carrier_of(loop, "twilio")
    player = play(carrier, pacer, clips, "eu", wait_s=0, repeats=False)
    loop.pass_time(5)
    assert not player.finished.done()
    loop.pass_time(0.6)
    assert player.finished.done()
    assert len(carrier.received) == 50
    assert not any(isinstance(message, Clear) for _, message in carrier.received)


async def test_silence_is_encoded_as_silence(loop: HeldLoop, pacer: Pacer, clips: ClipCache) -> None:
    carrier = carrier_of(loop, "telnyx")
    play(carrier, pacer, clips, None)
    loop.pass_time(1)
    payloads = {message.payload for _, message in carrier.received if isinstance(message, Media)}
    assert payloads == {b"\xff" * 800}


def test_every_piece_is_json_of_the_carriers_dialect(clips: ClipCache) -> None:
    for name in CARRIERS:
        start = carrier_of(HeldLoop(), name).start
        piece = clips.clip("us", DIALECTS[name], start).pieces[0]
        assert json.loads(DIALECTS[name].write_agent(Media(piece), start))["event"] in {"media", "playAudio"}
