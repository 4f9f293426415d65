# SPDX-License-Identifier: BSD-2-Clause
"""Samples of a gateway's resources, and whether they grew."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.harness.gateway import Gateway

WARM_UP = 0.2
"""The share of the samples that is left out, while the gateway still allocates what it keeps."""

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample. `at`: seconds since the load began. Memory and files in bytes."""

    at: float
    memory: int
    descriptors: int
    threads: int
    calls: int
    places: int
    wal: int
    store: int
    ended: int

    @property
    def store_per_session(self) -> float:
        """Bytes of the store per session."""
        return self.store / max(1, self.ended + self.places)


def descriptors(gateway: Gateway) -> int:
    """Return how many files the gateway's process has open."""
    return len(list(Path(f"/proc/{gateway.process.pid}/fd").iterdir()))


def take(gateway: Gateway, began: float) -> Sample:
    """Take a sample of a gateway with one worker. `began`: monotonic clock. Blocks for a request."""
    status = gateway.status()
    states = status["sessions"]["by_state"]
    wal = gateway.store.with_name(gateway.store.name + "-wal")
    return Sample(
        at=time.monotonic() - began,
        memory=gateway.resident_bytes,
        descriptors=descriptors(gateway),
        threads=len(list(Path(f"/proc/{gateway.process.pid}/task").iterdir())),
        calls=status["calls"],
        places=status["sessions"]["active"],
        wal=wal.stat().st_size if wal.exists() else 0,
        store=gateway.store.stat().st_size,
        ended=sum(states.get(state, 0) for state in ("ended", "failed", "canceled")),
    )


@dataclass(frozen=True, slots=True)
class Measure:
    """A quantity that must not grow: its last third may exceed the first by a share and a fixed amount."""

    name: str
    of: Callable[[Sample], float]
    share: float
    fixed: float
    unit: float = 1
    in_words: str = ""

    def judge(self, first: Sequence[Sample], last: Sequence[Sample]) -> tuple[float, float, bool]:
        """Return both medians, and whether the second is within the tolerance."""
        before, after = median(map(self.of, first)), median(map(self.of, last))
        return before, after, after <= before * (1 + self.share) + self.fixed


MEASURES = (
    Measure("resident memory", lambda s: s.memory, 0.05, 4 * MIB, MIB, "MiB"),
    Measure("descriptors", lambda s: s.descriptors, 0.05, 10),
    Measure("threads", lambda s: s.threads, 0, 1),
    Measure("calls that run (tasks)", lambda s: s.calls, 0.05, 10),
    Measure("places taken", lambda s: s.places, 0.05, 10),
    Measure("store's log of writes", lambda s: s.wal, 0.1, 4 * MIB, MIB, "MiB"),
    Measure("store for a session", lambda s: s.store_per_session, 0.1, 600, 1, "bytes"),
)


def thirds(samples: Sequence[Sample]) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """Return the first and the last third of the samples behind the warm-up."""
    warm = samples[int(len(samples) * WARM_UP) :]
    third = len(warm) // 3
    assert third, f"{len(samples)} samples are too few to compare: soak for longer"
    return warm[:third], warm[-third:]
