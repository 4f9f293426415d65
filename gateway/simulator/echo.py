# SPDX-License-Identifier: BSD-2-Clause
"""Finding what the caller said in what the agent sent back, by its bytes. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

DISTINCT_BYTES = 8
"""A frame with fewer different byte values is silence or a hum, and proves nothing when it comes back."""


@dataclass(frozen=True, slots=True)
class HeardSound:
    """One media message: when it was sent or came, in seconds of one clock, and its payload."""

    at_s: float
    payload: bytes


@dataclass(frozen=True, slots=True)
class Echo:
    """`delays_ms`: per frame that came back, how long after being sent its last byte arrived, ascending.

    `lost`: frames of speech that did not come back.
    """

    delays_ms: tuple[float, ...]
    lost: int

    def percentile(self, percent: float) -> float:
        """The delay in ms that `percent` of the frames did not exceed (nearest rank)."""
        rank = -(-len(self.delays_ms) * percent // 100)
        return self.delays_ms[max(int(rank), 1) - 1]


def match_echo(sent: Sequence[HeardSound], received: Sequence[HeardSound]) -> Echo | None:
    """Matches sent frames with the received stream, whatever its framing; None where nothing came back.

    Only frames that occur once and are not silence are looked for, in the order they were sent.
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
