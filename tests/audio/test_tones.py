# SPDX-License-Identifier: BSD-2-Clause
"""Ringback as a caller hears it: frequencies, cadence, edges (ITU-T E.180)."""

from __future__ import annotations

from array import array
from itertools import groupby

import numpy as np
import pytest

from gateway.audio.tones import RINGBACK, ToneName, ringback
from serializers.codecs import RATES_HZ, decode, encode
from serializers.dialect import DialectError
from serializers.events import AudioFormat

CADENCES_MS: dict[ToneName, list[int]] = {
    "us": [2000, 4000],
    "eu": [1000, 4000],
    "in": [400, 200, 400, 2000],
}
AUDIBLE_HZ: dict[ToneName, set[int]] = {"us": {440, 480}, "eu": {425}, "in": {375, 400, 425}}
TONES: list[ToneName] = ["us", "eu", "in"]


def samples(pcm: bytes) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array(array("h", pcm), dtype=np.float64)


@pytest.mark.parametrize("rate", sorted(RATES_HZ))
@pytest.mark.parametrize("name", TONES)
def test_the_cadence(name: ToneName, rate: int) -> None:
    sound = samples(ringback(name, rate))
    assert len(sound) == rate * sum(CADENCES_MS[name]) // 1000
    tens = np.abs(sound[: len(sound) // (rate // 100) * (rate // 100)]).reshape(-1, rate // 100)
    # A modulated tone is quiet 25 times a second, so 40 ms are looked at together.
    loud = [tens[at : at + 4].max() > 500 for at in range(0, len(tens), 4)]
    audible = [(is_loud, 40 * len(list(run))) for is_loud, run in groupby(loud)]
    assert [is_loud for is_loud, _ in audible] == [True, False] * (len(audible) // 2)
    for (_, measured_ms), ms in zip(audible, CADENCES_MS[name], strict=True):
        assert abs(measured_ms - ms) <= 40


@pytest.mark.parametrize("rate", [8000, 16000, 24000])
@pytest.mark.parametrize("name", TONES)
def test_the_spectrum(name: ToneName, rate: int) -> None:
    tone = samples(ringback(name, rate))[: round(rate * RINGBACK[name].cadence_s[0])]
    inside = tone[rate // 20 : rate // 20 + rate // 5]  # 200 ms behind the edge: bins of 5 Hz
    power = np.abs(np.fft.rfft(inside)) ** 2
    loudest = power.max()
    audible = {5 * int(line) for line in np.flatnonzero(power > loudest / 100)}
    assert audible == AUDIBLE_HZ[name]


@pytest.mark.parametrize("name", TONES)
def test_the_edges_are_smooth_and_nothing_is_clipped(name: ToneName) -> None:
    sound = samples(ringback(name, 8000))
    again = np.concatenate([sound, sound])  # it is repeated
    steepest = 2 * np.pi * 480 / 8000 * np.abs(sound).max() * 1.2
    assert np.abs(np.diff(again)).max() <= steepest
    assert np.abs(sound).max() < 0.25 * 32767
    assert sound[0] == sound[-1] == 0


@pytest.mark.parametrize("encoding", ["mulaw", "alaw", "linear16"])
def test_a_tone_survives_every_codec(encoding: str) -> None:
    audio = AudioFormat(encoding)  # type: ignore[arg-type]
    pcm = ringback("eu", 8000)
    back = samples(decode(encode(pcm, audio), audio))
    assert np.abs(back - samples(pcm)).max() < 250


def test_an_unsupported_sample_rate_is_an_error() -> None:
    with pytest.raises(DialectError):
        ringback("us", 11025)
