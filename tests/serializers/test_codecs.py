# SPDX-License-Identifier: BSD-2-Clause
"""Codecs against the values of ITU-T G.711."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serializers.codecs import decode, encode
from serializers.dialect import DialectError
from serializers.events import AudioFormat

MULAW, ALAW, LINEAR = AudioFormat("mulaw"), AudioFormat("alaw"), AudioFormat("linear16")
NETWORK = AudioFormat("linear16", 16000, big_endian=True)


def pcm(*samples: int) -> bytes:
    return struct.pack(f"<{len(samples)}h", *samples)


def samples(sound: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(sound) // 2}h", sound)


@pytest.mark.parametrize(
    ("audio", "byte", "sample"),
    [
        (MULAW, 0xFF, 0),
        (MULAW, 0x7F, 0),
        (MULAW, 0x80, 32124),
        (MULAW, 0x00, -32124),
        (MULAW, 0xFE, 8),
        (MULAW, 0x7E, -8),
        (ALAW, 0xD5, 8),
        (ALAW, 0x55, -8),
        (ALAW, 0xAA, 32256),
        (ALAW, 0x2A, -32256),
    ],
)
def test_known_values(audio, byte, sample):
    assert samples(decode(bytes([byte]), audio)) == (sample,)


@pytest.mark.parametrize("audio", [MULAW, ALAW])
def test_every_code_survives_decoding_and_encoding(audio):
    every = bytes(range(256))
    again = encode(decode(every, audio), audio)
    differing = {code for code, came in zip(every, again, strict=True) if code != came}
    assert differing <= {0x7F}  # μ-law has two zeros, and says the positive one


@given(st.lists(st.integers(-32768, 32767), max_size=200))
def test_companding_keeps_speech_recognisable(values):
    for audio in (MULAW, ALAW):
        decoded = samples(decode(encode(pcm(*values), audio), audio))
        assert len(decoded) == len(values)
        for expected, actual in zip(values, decoded, strict=True):
            assert (
                abs(expected - actual) <= max(abs(expected) / 16, 16) + 644
            )  # steps of G.711; 644 where it clips


@given(st.lists(st.integers(-32768, 32767), max_size=200))
def test_linear_audio_is_unchanged(values):
    assert decode(pcm(*values), LINEAR) == encode(pcm(*values), LINEAR) == pcm(*values)
    assert decode(struct.pack(f">{len(values)}h", *values), NETWORK) == pcm(*values)
    assert encode(pcm(*values), NETWORK) == struct.pack(f">{len(values)}h", *values)


@pytest.mark.parametrize("encoding", ["g722", "opus", "amr-wb"])
def test_unsupported_codecs_are_refused(encoding):
    with pytest.raises(DialectError, match=encoding):
        decode(b"\0\0", AudioFormat(encoding))
    with pytest.raises(DialectError, match=encoding):
        encode(b"\0\0", AudioFormat(encoding))


def test_half_a_sample_is_refused():
    for refused in (
        lambda: decode(b"\0", LINEAR),
        lambda: encode(b"\0", LINEAR),
        lambda: encode(b"\0", MULAW),
    ):
        with pytest.raises(DialectError, match="half a sample"):
            refused()


@given(st.binary(), st.sampled_from([MULAW, ALAW, LINEAR, NETWORK, AudioFormat("opus")]))
def test_no_audio_raises_another_exception(sound, audio):
    for code in (decode, encode):
        with contextlib.suppress(DialectError):
            code(sound, audio)


def test_the_import_is_silent():
    """The standard audioop warns of its own end when it is first imported."""
    command = [sys.executable, "-W", "error", "-c", "import serializers.codecs"]
    assert subprocess.run(command, check=True, capture_output=True, timeout=120).stderr == b""
