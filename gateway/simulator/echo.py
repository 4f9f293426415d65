# SPDX-License-Identifier: BSD-2-Clause
"""Find the caller's speech in the audio that came back, by its bytes. No I/O."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

DISTINCT_BYTES = 8
"""A frame with fewer different byte values is silence or a hum: it could come from anywhere."""


@dataclass(frozen=True, slots=True)
class TimedAudio:
    """The payload of one media message. `at_s`: when it was sent or received, in seconds of one clock."""

    at_s: float
    payload: bytes


@dataclass(frozen=True, slots=True)
class Echo:
    """The frames of speech that came back.

    `delays_ms`: from sending each of them until its last byte arrived, ascending. `lost`: how many frames did
    not come back.
    """

    delays_ms: tuple[float, ...]
    lost: int

    def percentile(self, percent: float) -> float:
        """Return the delay in ms that `percent` of the frames did not exceed (nearest rank)."""
        rank = -(-len(self.delays_ms) * percent // 100)
        return self.delays_ms[max(int(rank), 1) - 1]


def match_echo(sent: Sequence[TimedAudio], received: Sequence[TimedAudio]) -> Echo | None:
    """Match sent frames with the received stream, whatever its framing. Return None if nothing came back.

    Only frames that occur once and are not silence count, in the order in which they were sent.
    """
    stream = b"".join(piece.payload for piece in received)
    ends = list(accumulate(len(piece.payload) for piece in received))
    times_sent = Counter(frame.payload for frame in sent)
    delays: list[float] = []
    lost = 0
    cursor = 0
    for frame in sent:
        if times_sent[frame.payload] > 1 or len(set(frame.payload)) < DISTINCT_BYTES:
            continue
        at = stream.find(frame.payload, cursor)
        if at < 0:
            lost += 1
            continue
        cursor = at + len(frame.payload)
        arrived = received[bisect_left(ends, cursor)]
        delays.append((arrived.at_s - frame.at_s) * 1000)
    return Echo(tuple(sorted(delays)), lost) if delays else None
