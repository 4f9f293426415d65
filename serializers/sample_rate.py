# SPDX-License-Identifier: BSD-2-Clause
"""Sample rates of speech: linear16 from one rate to another, through a low-pass, as it comes.

The filter is a windowed sinc in polyphase form (Crochiere and Rabiner, Multirate Digital Signal Processing,
1983, §3.3): every output sample is a sum of products with the input samples around it, and nothing is
computed that is not an output. It holds back DELAY_MS of sound and no more, which filters with a steeper edge
do not: those of libraries for music hold back 100 ms and more at these rates.

Python sums no products fast. So one long multiplication does it (Kronecker substitution): a piece of sound is
one number with a sample in each 32 bits, the filter's taps are another, and each 32 bits of the product have
the sum for one output sample. The result is exact: what any other way of summing the same integers gives.
"""

from __future__ import annotations

import math
from array import array
from functools import lru_cache
from typing import Final

from serializers.codecs import RATES_HZ, SAMPLE_BYTES, audioop
from serializers.dialect import DialectError

SPEECH_RATES_HZ: Final = frozenset({8000, 16000, 24000, 48000})
"""The sample rates of telephones and agents, in Hz (docs/reference/translation.md §7.1)."""

TAPS: Final = 24
"""Products in an output sample, if the rate goes up: as many input samples, half of them ahead of it."""

LONGEST: Final = 6000
"""Bytes that are converted at once: the effort for longer numbers grows faster than their length."""

_UNITY_BITS: Final = 15
"""A tap of 1 is 2 to this power. The sum of a filter's taps, each without its sign, is below 2."""

_WINDOW: Final = 6.0
"""The Kaiser window's parameter: 63 dB down from 0.6 of the lower rate on, and flat to 0.4 of it."""

_LIMB_BYTES: Final = 4
_LIMB_BITS: Final = 8 * _LIMB_BYTES
_SIGN: Final = 1 << (_LIMB_BITS - 1)
_SAMPLE_SIGN: Final = 1 << 15


class RateConverter:
    """Converts one stream of linear16, in pieces of any size, with the same result as if it came as one.

    `n` samples become `n * to_hz / from_hz`, the first piece's included; samples that make no whole number of
    output samples wait for the next piece. The sound is late by `delay_s`.
    """

    def __init__(self, from_hz: int, to_hz: int) -> None:
        """Raises DialectError for a rate outside SPEECH_RATES_HZ."""
        if not {from_hz, to_hz} <= SPEECH_RATES_HZ:
            raise DialectError("no such sample rate")
        common = math.gcd(from_hz, to_hz)
        self._up, self._down = to_hz // common, from_hz // common
        self._filter = _filter_of(self._up, self._down)
        self.delay_s: float = 0.0 if from_hz == to_hz else self._filter.delay / (self._up * from_hz)
        """Seconds by which the sound is late."""
        self._before = b""
        self.reset()

    def reset(self) -> None:
        """Forget what came before: silence is before the next piece."""
        self._before = bytes(SAMPLE_BYTES * self._down * (self._filter.groups - 1))

    def feed(self, pcm: bytes) -> bytes:
        """Convert the next piece. Raises DialectError for half a sample."""
        _check_samples(pcm)
        if self._up == self._down:
            return pcm
        if len(pcm) <= LONGEST:
            return self._convert(pcm)
        return b"".join(self._convert(pcm[at : at + LONGEST]) for at in range(0, len(pcm), LONGEST))

    def _convert(self, pcm: bytes) -> bytes:
        samples = array("h", self._before + pcm)
        down, groups = self._down, self._filter.groups
        length = len(samples) // down  # in groups of `down` samples
        made = length - (groups - 1)
        if made <= 0:
            self._before = samples.tobytes()
            return b""
        self._before = samples[made * down :].tobytes()
        del samples[length * down :]
        phases = [_as_number(samples[phase::down].tobytes()) for phase in range(down)]
        if self._up == 1:
            return self._filter.sums(0, phases, length)
        result = array("h", bytes(SAMPLE_BYTES * self._up * made))
        for phase in range(self._up):
            result[phase :: self._up] = array("h", self._filter.sums(phase, phases, length))
        return result.tobytes()


def convert(pcm: bytes, from_hz: int, to_hz: int) -> bytes:
    """Return a whole recording, linear16, at another rate; it begins when it began.

    From a rate of music it goes to the next rate of speech by linear interpolation first, which leaves what
    telephones carry as it is. Raises DialectError for a `from_hz` outside RATES_HZ, a `to_hz` outside
    SPEECH_RATES_HZ, and half a sample.
    """
    if from_hz not in RATES_HZ or to_hz not in SPEECH_RATES_HZ:
        raise DialectError("no such sample rate")
    _check_samples(pcm)
    speech_hz = min(hz for hz in SPEECH_RATES_HZ if hz >= from_hz)
    if speech_hz != from_hz:
        pcm, _ = audioop.ratecv(pcm, SAMPLE_BYTES, 1, from_hz, speech_hz, None)
    if speech_hz == to_hz:
        return pcm
    converter = RateConverter(speech_hz, to_hz)
    late = round(converter.delay_s * to_hz)
    samples = -(-len(pcm) // SAMPLE_BYTES * to_hz // speech_hz)
    converted = converter.feed(pcm + bytes(SAMPLE_BYTES * speech_hz // 100))
    return converted[SAMPLE_BYTES * late : SAMPLE_BYTES * (late + samples)]


class _Filter:
    """The taps of one conversion, as numbers to multiply with.

    `groups`: how many groups of input samples, `down` in each, an output sample is made of. `delay`: of the
    sound, in samples of the rate that both rates divide, `up` times the input's.
    """

    def __init__(self, up: int, down: int) -> None:
        band = max(up, down)
        self.delay = TAPS // 2 * band
        self.groups = 2 * self.delay // (up * down) + 2
        taps = _low_pass(band, self.delay)
        # An output sample of phase r, at the time down*r of a group, hears the input sample of phase s, at
        # the time up*s, that is d groups older, through the tap between the two times.
        self._factors: list[list[tuple[int, int]]] = []
        self._offsets: list[int] = []
        for out in range(up):
            rows = [
                [taps.get(up * down * age + down * out - up * phase, 0.0) for age in range(self.groups)]
                for phase in range(down)
            ]
            whole = _to_integers(rows)
            self._factors.append([_without_zeros(_limbs(row)) for row in whole])
            # The samples are counted from -32768 on, so each sum is this much too large; and half of the last
            # place rounds.
            too_large = _SAMPLE_SIGN * sum(map(sum, whole))
            self._offsets.append(_SIGN + (1 << (_UNITY_BITS - 1)) - too_large)
        self._repeated: dict[tuple[int, int], int] = {}

    def sums(self, out: int, phases: list[int], length: int) -> bytes:
        """Return linear16: the output samples of one phase.

        `phases`: the input samples as `_as_number` makes them, by phase; `length`: how many in each.
        """
        limbs = length + self.groups - 1
        total = self._offset(out, limbs)
        for samples, (factor, shift) in zip(phases, self._factors[out], strict=True):
            total += (samples * factor) << shift
        raw = total.to_bytes(_LIMB_BYTES * (limbs + 1), "little")
        # The sums at both ends are of less than `groups` groups.
        signed = audioop.bias(
            raw[_LIMB_BYTES * (self.groups - 1) : _LIMB_BYTES * length], _LIMB_BYTES, -_SIGN
        )
        # A sum of 1.0 is 2 to the power of 30. Twice that is full scale, and more is clipped.
        loud = audioop.mul(signed, _LIMB_BYTES, 1 << (_LIMB_BITS - 1 - _UNITY_BITS - 15))
        return audioop.lin2lin(loud, _LIMB_BYTES, SAMPLE_BYTES)

    def _offset(self, out: int, limbs: int) -> int:
        """Return a number with the phase's offset in each limb. Pieces have few different sizes."""
        known = self._repeated.get((out, limbs))
        if known is None:
            if len(self._repeated) >= MAX_SIZES:
                self._repeated.clear()
            ones = int.from_bytes(b"\1\0\0\0" * limbs, "little")
            known = self._repeated[out, limbs] = self._offsets[out] * ones
        return known


MAX_SIZES: Final = 64
"""How many sizes of pieces a filter remembers its offsets for; each is about a kilobyte."""


@lru_cache(maxsize=16)
def _filter_of(up: int, down: int) -> _Filter:
    return _Filter(up, down)


def _check_samples(pcm: bytes) -> None:
    if len(pcm) % SAMPLE_BYTES:
        raise DialectError("the sound ends in half a sample")


def _as_number(pcm: bytes) -> int:
    """Return linear16 as a number: each sample in a limb, plus 32768, the first in the lowest one."""
    unsigned = audioop.bias(pcm, SAMPLE_BYTES, -_SAMPLE_SIGN)
    return int.from_bytes(audioop.lin2lin(unsigned, SAMPLE_BYTES, _LIMB_BYTES), "little") >> 16


def _limbs(values: list[int]) -> int:
    """Return the number with these values in its limbs, the first in the lowest one. They may be negative."""
    return sum(value << (_LIMB_BITS * place) for place, value in enumerate(values))


def _without_zeros(number: int) -> tuple[int, int]:
    """Return a number without its lowest zero limbs, and how many bits these are: it is faster to shift."""
    zeros = (number & -number).bit_length() - 1 if number else 0
    shift = zeros - zeros % _LIMB_BITS
    return number >> shift, shift


def _low_pass(band: int, delay: int) -> dict[int, float]:
    """Return the taps by their place: a sinc of the lower rate's samples under a Kaiser window."""

    def tap(place: int) -> float:
        sinc = 1.0 if place == 0 else math.sin(math.pi * place / band) / (math.pi * place / band)
        edge = math.sqrt(1 - (place / delay) ** 2)
        return sinc * _bessel(_WINDOW * edge) / _bessel(_WINDOW)

    return {delay + place: tap(place) for place in range(-delay, delay + 1) if place % band or place == 0}


def _to_integers(rows: list[list[float]]) -> list[list[int]]:
    """Scale the taps of one output phase so that their sum is exactly one, in units of `_UNITY_BITS`."""
    scale = (1 << _UNITY_BITS) / math.fsum(map(math.fsum, rows))
    whole = [[round(tap * scale) for tap in row] for row in rows]
    row, place = max(
        ((row, place) for row, taps in enumerate(whole) for place in range(len(taps))),
        key=lambda at: whole[at[0]][at[1]],
    )
    whole[row][place] += (1 << _UNITY_BITS) - sum(map(sum, whole))
    return whole


def _bessel(x: float) -> float:
    """Return the modified Bessel function of the first kind and order 0."""
    terms = [1.0]
    while terms[-1] > 1e-12 * terms[0]:
        terms.append(terms[-1] * (x / (2 * len(terms))) ** 2)
    return math.fsum(terms)
