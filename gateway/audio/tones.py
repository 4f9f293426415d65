# SPDX-License-Identifier: BSD-2-Clause
"""Ringback, the tone that a caller hears while the called party rings, for three regions; without I/O.

Frequencies and cadences: ITU-T E.180 and its Supplement 2. India's "400 x 25" is 400 Hz modulated with 25 Hz,
which sounds as 400 Hz with 375 and 425 Hz beside it.
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
    """One ringback tone: all `frequencies_hz`, each at `amplitude` (1 is full scale), in a cadence.

    `cadence_s`: seconds on, seconds off, seconds on, and so on; then it repeats.
    """

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
"""How long a tone takes to rise and to fall, in seconds; an abrupt edge clicks."""

_BLOCK_S: Final = 0.2
"""The period of every tone above; each lasts a multiple of it, and it is whole samples at any rate."""

_FULL_SCALE: Final = 32767


@cache
def ringback(name: ToneName, sample_rate: int) -> bytes:
    """Return one whole cadence as linear16 at `sample_rate` Hz, to be repeated.

    Raises DialectError for a sample rate that is not supported.
    """
    if sample_rate not in RATES_HZ:
        raise DialectError("no such sample rate")
    tone = RINGBACK[name]
    block = _block(tone, sample_rate)
    pieces = []
    for number, seconds in enumerate(tone.cadence_s):
        if number % 2:
            pieces.append(bytes(SAMPLE_BYTES * round(seconds * sample_rate)))
        else:
            pieces.append(_with_edges(block * round(seconds / _BLOCK_S), sample_rate))
    return b"".join(pieces)


def _block(tone: Ringback, sample_rate: int) -> array[int]:
    samples = array("h")
    for number in range(round(_BLOCK_S * sample_rate)):
        angle = 2 * math.pi * number / sample_rate
        level = sum(math.sin(frequency * angle) for frequency in tone.frequencies_hz)
        if tone.modulated_by_hz:
            level *= (1 - math.cos(tone.modulated_by_hz * angle)) / 2
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
