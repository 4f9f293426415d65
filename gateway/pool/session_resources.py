# SPDX-License-Identifier: BSD-2-Clause
"""The CPU and memory that an instance uses while it has a session, from samples.

The pool's manager looks at each of its instances every few seconds, and tells it to the session that the
instance has. That is a session's own only where an instance has one at a time, so nobody else's is sampled.
When the session is over, its figures go to the store, for some days (`store_resources`). Pure, but for that.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.store.interface import KeyValueStore, StoreFailed

DOCUMENT_KIND: Final = "session_resources"

STORED_S: Final = 7 * 86_400.0
"""Seconds after a session's end for which its figures are stored, at some 1.5 KB each."""

MAX_SAMPLES: Final = 360
"""Samples of a running session in memory, an even number; so many are merged, each with its neighbour."""

MAX_POINTS: Final = 50
"""Points of the stored course: as many as `pipecatcloud` 1.4.0 draws."""

MAX_UNSTORED: Final = 1000
"""Sessions whose figures wait for the store; of more the oldest are dropped."""

PERCENTILES: Final = (50, 90, 95, 99)


@dataclass(frozen=True, slots=True)
class ResourceSample:
    """The use at a time, in Unix seconds: thousandths of a core since the sample before, and bytes."""

    at: float
    cpu_millicores: float
    memory_bytes: float


@dataclass(frozen=True, slots=True)
class Distribution:
    """A value over a session. `percentiles`: those of PERCENTILES, in order."""

    least: int
    mean: int
    most: int
    percentiles: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SessionResources:
    """The use of a session. `samples`: how many were taken. `course`: time, CPU, memory, oldest first."""

    samples: int
    ended_at: float
    cpu_millicores: Distribution
    memory_bytes: Distribution
    course: tuple[tuple[int, int, int], ...]


class ResourceSeries:
    """The samples of one running session. The longer it runs, the more of them are merged into one."""

    def __init__(self) -> None:
        self._samples: list[ResourceSample] = []
        self._unmerged: list[ResourceSample] = []  # fewer than `_width`
        self._width = 1  # how many samples each of `_samples` stands for
        self._taken = 0
        self._before: tuple[float, float] | None = None  # time, CPU seconds

    def add(self, at: float, cpu_s: float, memory_bytes: int) -> None:
        """Add a sample. `at`: Unix seconds. `cpu_s`: that the processes have used since they began.

        The first one only tells where the next begins. The sum falls when one of the processes ends; what
        was used then is not known, and counts as nothing.
        """
        before, self._before = self._before, (at, cpu_s)
        if before is None or at <= before[0]:
            return
        millicores = max(0.0, cpu_s - before[1]) / (at - before[0]) * 1000
        self._unmerged.append(ResourceSample(at, millicores, memory_bytes))
        self._taken += 1
        if len(self._unmerged) < self._width:
            return
        self._samples.append(_mean(self._unmerged))
        self._unmerged = []
        if len(self._samples) >= MAX_SAMPLES:
            self._samples = _merged(self._samples, MAX_SAMPLES // 2)
            self._width *= 2

    def result(self, now: float) -> SessionResources | None:
        """Return what was used until now, None if there was no time for a sample."""
        samples = [*self._samples, *([_mean(self._unmerged)] if self._unmerged else [])]
        if not samples:
            return None
        course = _merged(samples, MAX_POINTS)
        return SessionResources(
            self._taken,
            now,
            _distribution([sample.cpu_millicores for sample in samples]),
            _distribution([sample.memory_bytes for sample in samples]),
            tuple((round(each.at), round(each.cpu_millicores), round(each.memory_bytes)) for each in course),
        )


def _mean(samples: Sequence[ResourceSample]) -> ResourceSample:
    """Return the mean of samples that follow each other, at the time of the last."""
    return ResourceSample(
        samples[-1].at,
        statistics.fmean(each.cpu_millicores for each in samples),
        statistics.fmean(each.memory_bytes for each in samples),
    )


def _merged(samples: Sequence[ResourceSample], points: int) -> list[ResourceSample]:
    """Return at most so many samples, each the mean of several in a row, at the time of the last of them."""
    if len(samples) <= points:
        return list(samples)
    bounds = [round(index * len(samples) / points) for index in range(points + 1)]
    return [_mean(samples[first:last]) for first, last in itertools.pairwise(bounds)]


def _distribution(values: Sequence[float]) -> Distribution:
    ranked = sorted(values)
    return Distribution(
        round(ranked[0]),
        round(statistics.fmean(ranked)),
        round(ranked[-1]),
        tuple(round(_percentile(ranked, percent)) for percent in PERCENTILES),
    )


def _percentile(ranked: Sequence[float], percent: int) -> float:
    """Return the smallest value that at least so many per cent of the values do not exceed."""
    return ranked[max(0, -(-len(ranked) * percent // 100) - 1)]


class SessionMeter:
    """The samples of all sessions on one node's instances, until their figures are stored."""

    def __init__(self, values: KeyValueStore) -> None:
        self._values = values
        self._running: dict[str, ResourceSeries] = {}
        self._over: dict[str, SessionResources] = {}  # not stored yet

    def add(self, session_id: str, at: float, cpu_s: float, memory_bytes: int) -> None:
        """Add a sample of a session's instance. See `ResourceSeries.add`."""
        self._running.setdefault(session_id, ResourceSeries()).add(at, cpu_s, memory_bytes)

    async def settle(self, running: Collection[str], now: float) -> None:
        """Store the figures of the sessions that are over. A store that fails gets them the next time.

        `running`: the ids of the sessions that are not. `now`: Unix seconds.
        """
        for session_id in [each for each in self._running if each not in running]:
            resources = self._running.pop(session_id).result(now)
            if resources is not None:
                self._over[session_id] = resources
        for session_id in list(self._over)[:-MAX_UNSTORED]:
            del self._over[session_id]
        for session_id, resources in list(self._over.items()):
            try:
                await store_resources(self._values, session_id, resources, now)
            except StoreFailed:  # the manager tells it, which needs the store for more than this
                return
            del self._over[session_id]


async def store_resources(
    values: KeyValueStore, session_id: str, resources: SessionResources, now: float
) -> None:
    """Store what a session has used. Raises StoreFailed."""
    value = {
        "samples": resources.samples,
        "ended_at": resources.ended_at,
        "cpu": _as_row(resources.cpu_millicores),
        "memory": _as_row(resources.memory_bytes),
        "course": resources.course,
    }
    text = json.dumps(value, separators=(",", ":"))
    await values.put(DOCUMENT_KIND, session_id, text, now=now, expires_at=now + STORED_S)


async def stored_resources(values: KeyValueStore, session_id: str, now: float) -> SessionResources | None:
    """Return what a session has used, None if that is not stored. Raises StoreFailed."""
    stored = await values.get(DOCUMENT_KIND, session_id, now)
    if stored is None:
        return None
    value = json.loads(stored.value)
    return SessionResources(
        value["samples"],
        value["ended_at"],
        _from_row(value["cpu"]),
        _from_row(value["memory"]),
        tuple((at, cpu, memory) for at, cpu, memory in value["course"]),
    )


def _as_row(values: Distribution) -> list[int]:
    return [values.least, values.mean, values.most, *values.percentiles]


def _from_row(row: Sequence[int]) -> Distribution:
    least, mean, most, *percentiles = row
    return Distribution(least, mean, most, tuple(percentiles))
