# SPDX-License-Identifier: BSD-2-Clause
"""Speech keeps its pitch, its loudness and its samples at another rate, and nothing else is heard.

The limits are figures of decibels that a telephone needs; audioop's interpolation is measured beside.
"""

from __future__ import annotations

import itertools
import math
import random
import struct
from array import array
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serializers.codecs import RATES_HZ, audioop
from serializers.dialect import DialectError
from serializers.sample_rate import LONGEST, SPEECH_RATES_HZ, RateConverter, convert

RATES = (8000, 16000, 24000)
PAIRS = [(a, b) for a in RATES for b in RATES if a != b]
LOUD = 16_000


def tone(hz: float, rate: int, seconds: float = 1.0) -> bytes:
    """Return a sine as linear16."""
    count = round(rate * seconds)
    return array("h", [round(LOUD * math.sin(2 * math.pi * hz * n / rate)) for n in range(count)]).tobytes()


def values(pcm: bytes) -> np.ndarray:
    """Return linear16 as numbers."""
    return np.frombuffer(pcm, "<i2").astype(float)


def interpolated(pcm: bytes, from_hz: int, to_hz: int) -> bytes:
    """Convert as audioop does."""
    return audioop.ratecv(pcm, 2, 1, from_hz, to_hz, None)[0]


def filtered(pcm: bytes, from_hz: int, to_hz: int) -> bytes:
    """Convert as a call does."""
    return RateConverter(from_hz, to_hz).feed(pcm)


def gain_and_snr(pcm: bytes, hz: float, rate: int) -> tuple[float, float]:
    """Return how much louder a tone is than LOUD, and than everything else, both in dB."""
    heard = values(pcm)[rate // 10 :]
    times = np.arange(len(heard)) / rate
    wave = np.stack([np.sin(2 * np.pi * hz * times), np.cos(2 * np.pi * hz * times)], axis=1)
    parts, *_ = np.linalg.lstsq(wave, heard, rcond=None)
    rest = heard - wave @ parts
    power = float(parts @ parts) / 2
    return 10 * math.log10(power / (LOUD**2 / 2)), 10 * math.log10(power / float(np.mean(rest**2)))


@pytest.mark.parametrize(("from_hz", "to_hz"), PAIRS)
@pytest.mark.parametrize("hz", [300, 1000, 3000])
def test_a_tone_that_telephones_carry_stays_as_loud_and_as_pure(from_hz: int, to_hz: int, hz: int) -> None:
    gain, snr = gain_and_snr(filtered(tone(hz, from_hz), from_hz, to_hz), hz, to_hz)
    assert abs(gain) < 0.05
    assert snr > 66


def test_interpolation_makes_a_tone_that_telephones_carry_impure() -> None:
    """The figures that the filter is for: 3 kHz from 8 to 16 kHz."""
    _, snr = gain_and_snr(interpolated(tone(3000, 8000), 8000, 16000), 3000, 16000)
    assert snr < 10


@pytest.mark.parametrize(("from_hz", "to_hz"), [(a, b) for a, b in PAIRS if a > b])
def test_what_the_lower_rate_cannot_carry_is_not_heard_as_something_else(from_hz: int, to_hz: int) -> None:
    """A sweep from 0.6 of the lower rate to the end of the higher one's band."""
    count = from_hz
    low, high = 0.6 * to_hz, 0.49 * from_hz
    sweep = array(
        "h",
        [
            round(LOUD * math.sin(2 * math.pi * (low + (high - low) * n / count / 2) * n / from_hz))
            for n in range(count)
        ],
    ).tobytes()

    def level(convert: Callable[[bytes, int, int], bytes]) -> float:
        heard = values(convert(sweep, from_hz, to_hz))[to_hz // 10 : -to_hz // 10]
        return 10 * math.log10(float(np.mean(heard**2)) / (LOUD**2 / 2))

    assert level(filtered) < -60
    assert level(interpolated) > -20


@pytest.mark.parametrize(("from_hz", "to_hz"), PAIRS)
def test_the_sound_is_late_by_less_than_two_milliseconds_and_otherwise_the_same(
    from_hz: int, to_hz: int
) -> None:
    converter = RateConverter(from_hz, to_hz)
    speech = random.Random(7)
    slow = [speech.uniform(-1, 1) for _ in range(60)]  # noise below 1.5 kHz, so that each rate has it
    wave = [
        8000 * sum(a * math.sin(2 * math.pi * 25 * (k + 1) * n / from_hz) for k, a in enumerate(slow)) / 8
        for n in range(from_hz // 5)
    ]
    before = array("h", [round(value) for value in wave])
    after = values(converter.feed(before.tobytes()))
    late = round(converter.delay_s * to_hz)
    assert converter.delay_s * to_hz == late
    assert converter.delay_s < 0.002
    common = math.gcd(from_hz, to_hz)
    every, among = from_hz // common, to_hz // common
    expected = np.array(before[::every], dtype=float)
    heard = after[late::among][: len(expected)]
    difference = np.abs(heard - expected[: len(heard)])[24:]  # before, the sound rises from nothing
    assert np.max(difference) < 10  # of 32767


@pytest.mark.parametrize(("from_hz", "to_hz"), PAIRS)
def test_no_sample_is_lost_of_the_first_piece_nor_of_any_later_one(from_hz: int, to_hz: int) -> None:
    converter = RateConverter(from_hz, to_hz)
    piece = bytes(2 * from_hz // 50)
    for _ in range(100):
        assert len(converter.feed(piece)) == 2 * to_hz // 50


@given(
    st.sampled_from(PAIRS),
    st.lists(st.integers(-32768, 32767), max_size=300),
    st.lists(st.integers(0, 300), max_size=6),
)
def test_sound_in_pieces_is_converted_like_the_whole(
    rates: tuple[int, int], samples: list[int], cuts: list[int]
) -> None:
    whole = array("h", samples).tobytes()
    edges = [0, *sorted(min(cut, len(samples)) for cut in cuts), len(samples)]
    converter = RateConverter(*rates)
    pieces = [converter.feed(whole[2 * begin : 2 * end]) for begin, end in itertools.pairwise(edges)]
    assert b"".join(pieces) == RateConverter(*rates).feed(whole)
    common = math.gcd(*rates)
    assert len(b"".join(pieces)) // 2 == len(samples) * common // rates[0] * (rates[1] // common)


def test_loud_sound_is_clipped_and_does_not_turn_over() -> None:
    square = struct.pack("<40h", *[32767] * 20, *[-32768] * 20) * 20
    heard = values(filtered(square, 8000, 16000))[200:]
    assert max(heard) == 32767
    assert min(heard) == -32768
    assert np.max(np.abs(np.diff(heard))) < 50_000


def test_after_a_reset_nothing_of_before_is_heard() -> None:
    converter = RateConverter(8000, 16000)
    converter.feed(tone(1000, 8000, 0.1))
    converter.reset()
    assert converter.feed(bytes(320)) == bytes(640)


@pytest.mark.parametrize("from_hz", sorted(RATES_HZ))
@pytest.mark.parametrize("to_hz", sorted(SPEECH_RATES_HZ))
def test_a_recording_begins_when_it_began_and_keeps_its_length(from_hz: int, to_hz: int) -> None:
    click = array("h", bytes(2 * from_hz))
    click[from_hz // 10 : from_hz // 10 + from_hz // 1000] = array("h", [20000] * (from_hz // 1000))
    heard = values(convert(click.tobytes(), from_hz, to_hz))
    assert abs(len(heard) - to_hz) <= to_hz // from_hz + 1
    loudest = (np.argmax(heard > 10_000) + 0.0) / to_hz
    assert abs(loudest - 0.1) < 0.0005


def test_a_long_recording_is_converted_as_in_short_pieces() -> None:
    long = random.Random(5).randbytes(5 * LONGEST)
    converter = RateConverter(16000, 8000)
    assert RateConverter(16000, 8000).feed(long) == b"".join(
        converter.feed(long[at : at + 640]) for at in range(0, len(long), 640)
    )


@pytest.mark.parametrize(("from_hz", "to_hz"), [(0, 8000), (8000, -1), (8000, 7999), (22050, 8000)])
def test_unsupported_sample_rates_are_refused(from_hz: int, to_hz: int) -> None:
    with pytest.raises(DialectError, match="rate"):
        RateConverter(from_hz, to_hz)


def test_unsupported_rates_of_recordings_and_half_a_sample_are_refused() -> None:
    for refused in (
        lambda: convert(b"", 11025, 8000),
        lambda: convert(b"", 8000, 44100),
        lambda: convert(b"\0", 8000, 16000),
        lambda: RateConverter(8000, 16000).feed(b"\0"),
    ):
        with pytest.raises(DialectError):
            refused()
