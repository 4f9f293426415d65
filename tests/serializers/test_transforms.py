# SPDX-License-Identifier: BSD-2-Clause
"""The transforms: messages that pass, are changed, or are dropped (docs/reference/carriers.md §5.2, §8.2)."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serializers.exotel import MAX_MEDIA_BYTES, MEDIA_STEP_BYTES, MIN_MEDIA_BYTES, ChunkAudio
from serializers.registry import DIALECTS
from serializers.transforms import NOTHING, UNCHANGED, ToAgent, ToCarrier


def media(size: int, *, fill: int = 7, **more: object) -> bytes:
    payload = base64.b64encode(bytes([fill]) * size).decode()
    return json.dumps({"event": "media", "stream_sid": "S1", "media": {"payload": payload, **more}}).encode()


def sound_of(messages: object) -> list[bytes]:
    assert isinstance(messages, list)
    return [base64.b64decode(json.loads(text)["media"]["payload"]) for text in messages]


NO_MESSAGES = {
    "nothing": b"",
    "no JSON": b"hello",
    "a list": b"[]",
    "a text": b'"media"',
    "null": b"null",
    "no event": b"{}",
    "an event that is no text": b'{"event":3}',
    "no UTF-8": b"\xff\xfe",
    "an event that is no UTF-8": b'{"event":"mark\xff"}',
    "a key that is no UTF-8": b'{"event":"mark","\xff":1}',
    "depth without end": b'{"event":"mark","mark":' + b"[" * 100_000,
}


@pytest.mark.parametrize("text", NO_MESSAGES.values(), ids=NO_MESSAGES)
def test_what_is_no_message_is_dropped(text: bytes) -> None:
    assert ToAgent().feed(text) == NOTHING
    assert ToCarrier().feed(text) == NOTHING
    assert ChunkAudio().feed(text) == NOTHING


def test_the_callers_audio_passes_and_the_outbound_track_is_dropped() -> None:
    assert ToAgent().feed(media(160, track="inbound")) is UNCHANGED
    assert ToAgent().feed(media(160)) is UNCHANGED
    assert ToAgent().feed(media(160, track="outbound")) == NOTHING


def test_media_without_audio_never_reaches_an_agent() -> None:
    assert ToAgent().feed(b'{"event":"media","media":{}}') == NOTHING
    assert ToAgent().feed(b'{"event":"media"}') == NOTHING


@pytest.mark.parametrize(
    "event", ["connected", "start", "dtmf", "mark", "stop", "playedStream", "clearedAudio", "new"]
)
def test_every_other_event_passes(event: str) -> None:
    text = json.dumps({"event": event, "dtmf": {"digit": "1"}}).encode()
    assert ToAgent().feed(text) is UNCHANGED
    assert ToCarrier().feed(text) is UNCHANGED


def test_exotel_gets_audio_in_sizes_that_it_plays() -> None:
    to_exotel = ChunkAudio()
    passed: list[bytes] = []
    for n in range(12):  # 40 ms at a time, as Pipecat sends it
        passed += sound_of(list(to_exotel.feed(media(640, fill=n)) or []))
    assert [len(sound) for sound in passed] == [3200, 3200]
    assert b"".join(passed) == b"".join(bytes([n]) * 640 for n in range(10))
    assert to_exotel.has_buffered


def test_audio_of_a_size_that_exotel_plays_is_unchanged() -> None:
    assert ChunkAudio().feed(media(3200)) is UNCHANGED
    assert ChunkAudio().feed(media(32_000)) is UNCHANGED


def test_a_mark_follows_all_audio_that_was_sent_before_it() -> None:
    to_exotel = ChunkAudio()
    assert to_exotel.feed(media(640)) == []
    mark = b'{"event":"mark","stream_sid":"S1","mark":{"name":"m"}}'
    passed = to_exotel.feed(mark)
    assert passed is not None
    assert passed[-1] == mark
    assert sound_of(list(passed[:-1])) == [bytes([7]) * 640 + bytes(2560)]
    assert not to_exotel.has_buffered


def test_a_clear_discards_the_buffered_audio() -> None:
    to_exotel = ChunkAudio()
    to_exotel.feed(media(640))
    assert to_exotel.feed(b'{"event":"clear","stream_sid":"S1"}') is UNCHANGED
    assert to_exotel.flush() == NOTHING


def test_after_a_pause_the_remainder_is_padded_with_silence() -> None:
    to_exotel = ChunkAudio()
    to_exotel.feed(media(4000))
    assert [len(sound) for sound in sound_of(to_exotel.flush())] == [3200]
    assert to_exotel.flush() == NOTHING


@given(st.lists(st.integers(0, 120_000), max_size=12))
def test_exotel_gets_every_byte_once_in_sizes_that_it_plays(sizes: list[int]) -> None:
    to_exotel = ChunkAudio()
    received: list[bytes] = []
    sent = b""
    for n, size in enumerate(sizes):
        message = media(size, fill=n + 1)
        sent += bytes([n + 1]) * size
        passed = to_exotel.feed(message)
        received += sound_of([message] if passed is UNCHANGED else list(passed))
    received += sound_of(list(to_exotel.flush()))
    assert all(MIN_MEDIA_BYTES <= len(sound) <= MAX_MEDIA_BYTES for sound in received)
    assert all(len(sound) % MEDIA_STEP_BYTES == 0 for sound in received)
    assert b"".join(received).rstrip(b"\0") == sent


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_bytes_raise_an_exception(text: bytes) -> None:
    for carrier in DIALECTS:
        for transform in DIALECTS[carrier].transforms():
            transform.feed(text)
            transform.flush()
