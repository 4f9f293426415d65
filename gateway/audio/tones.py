# SPDX-License-Identifier: BSD-2-Clause
"""Ringback, the tone a caller hears while it rings, as three regions know it. Made by computing; pure.

Frequencies and cadences: ITU-T E.180 and its Supplement 2. India's "400 x 25" is 400 Hz, modulated with
25 Hz, which is heard as 400 Hz between 375 and 425 Hz.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

from serializers.codecs import RATES_HZ, SAMPLE_BYTES
from serializers.dialect import DialectError

ToneName = Literal["us", "eu", "in"]


@dataclass(frozen=True, slots=True)
class Ringback:
    """Each of `frequencies_hz` sounds with `amplitude` (1 is full scale); on, off, on, … for `cadence_s`."""

    frequencies_hz: tuple[int, ...]
    cadence_s: tuple[float, ...]
    amplitude: float
    modulated_by_hz: int = 0


RINGBACK: Final[dict[ToneName, Ringback]] = {
    "us": Ringback((440, 480), (2.0, 4.0), 0.1),
    "eu": Ringback((425,), (1.0, 4.0), 0.15),
    "in": Ringback((400,), (0.4, 0.2, 0.4, 2.0), 0.15, modulated_by_hz=25),
}

EDGE_S: Final = 0.01
"""How long a tone takes to rise and to fall: one that begins at once clicks."""

_BLOCK_S: Final = 0.2
"""Every tone above repeats itself after this, and lasts several of these; whole samples at any rate."""

_FULL_SCALE: Final = 32767


@cache
def ringback(name: ToneName, sample_rate: int) -> bytes:
    """One whole cadence as linear16 at `sample_rate` Hz, to be repeated. Raises DialectError."""
    if sample_rate not in RATES_HZ:
        raise DialectError("no such sample rate")
    tone = RINGBACK[name]
    block = _block(tone, sample_rate)
    pieces = []
    for place, seconds in enumerate(tone.cadence_s):
        if place % 2:
            pieces.append(bytes(SAMPLE_BYTES * round(seconds * sample_rate)))
        else:
            pieces.append(_with_edges(block * round(seconds / _BLOCK_S), sample_rate))
    return b"".join(pieces)


def _block(tone: Ringback, sample_rate: int) -> array[int]:
    samples = array("h")
    for number in range(round(_BLOCK_S * sample_rate)):
        turn = 2 * math.pi * number / sample_rate
        level = sum(math.sin(frequency * turn) for frequency in tone.frequencies_hz)
        if tone.modulated_by_hz:
            level *= (1 - math.cos(tone.modulated_by_hz * turn)) / 2
        samples.append(round(_FULL_SCALE * tone.amplitude * level))
    return samples


def _with_edges(samples: array[int], sample_rate: int) -> bytes:
    edge = round(EDGE_S * sample_rate)
    last = len(samples) - 1
    for number in range(edge):
        gain = (1 - math.cos(math.pi * number / edge)) / 2
        samples[number] = round(samples[number] * gain)
        samples[last - number] = round(samples[last - number] * gain)
    return samples.tobytes()
