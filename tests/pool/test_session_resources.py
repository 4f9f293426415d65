# SPDX-License-Identifier: BSD-2-Clause
"""What a session's instance used: from samples, bounded, in percentiles."""

from __future__ import annotations

import json
from pathlib import Path

from gateway.pool.session_resources import (
    DOCUMENT_KIND,
    MAX_POINTS,
    MAX_SAMPLES,
    STORED_S,
    ResourceSeries,
    store_resources,
    stored_resources,
)
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId

DAY = 1_700_000_000.0
MB = 1024 * 1024


def series(seconds: int, *, step: int = 5) -> ResourceSeries:
    """A session that uses half a core, and a megabyte more in each second."""
    made = ResourceSeries()
    for second in range(0, seconds + 1, step):
        made.add(DAY + second, second / 2, second * MB)
    return made


def test_cpu_is_what_was_used_between_two_samples() -> None:
    used = ResourceSeries()
    assert used.result(DAY) is None
    used.add(DAY, 100.0, 50 * MB)
    assert used.result(DAY) is None, "one sample is only the beginning of the next"
    used.add(DAY + 5, 101.0, 60 * MB)
    used.add(DAY + 10, 106.0, 40 * MB)
    found = used.result(DAY + 11)
    assert found is not None
    assert found.samples == 2
    assert found.course == ((int(DAY) + 5, 200, 60 * MB), (int(DAY) + 10, 1000, 40 * MB))
    assert (found.cpu_millicores.least, found.cpu_millicores.mean, found.cpu_millicores.most) == (
        200,
        600,
        1000,
    )
    assert (found.memory_bytes.least, found.memory_bytes.most) == (40 * MB, 60 * MB)


def test_a_process_that_ends_takes_nothing_back() -> None:
    used = series(10)
    used.add(DAY + 15, 1.0, MB)  # one of two processes is gone, with what it had used
    used.add(DAY + 20, 3.5, MB)
    found = used.result(DAY + 20)
    assert found is not None
    assert [cpu for _, cpu, _ in found.course] == [500, 500, 0, 500]


def test_a_clock_that_stands_still_or_goes_back_divides_by_nothing() -> None:
    used = series(5)
    used.add(DAY + 5, 2.6, MB)
    used.add(DAY + 1, 2.7, MB)
    used.add(DAY + 6, 5.2, MB)
    found = used.result(DAY + 6)
    assert found is not None
    assert [cpu for _, cpu, _ in found.course] == [500, 500]


def test_percentiles_are_values_that_were_measured() -> None:
    used = ResourceSeries()
    used.add(DAY, 0.0, 0)
    cpu = 0.0
    for number in range(1, 101):
        cpu += number / 1000
        used.add(DAY + number, cpu, number)
    found = used.result(DAY + 101)
    assert found is not None
    assert found.memory_bytes.percentiles == (50, 90, 95, 99)
    assert found.cpu_millicores.percentiles == (50, 90, 95, 99)
    assert found.memory_bytes.mean == 50, "50.5, to the even"


def test_four_hours_take_no_more_memory_than_half_an_hour() -> None:
    used = series(4 * 3600)
    assert len(used._samples) <= MAX_SAMPLES
    found = used.result(DAY + 4 * 3600)
    assert found is not None
    assert found.samples == 4 * 720
    assert len(found.course) == MAX_POINTS
    assert {cpu for _, cpu, _ in found.course} == {500}
    assert found.course[-1][0] == DAY + 4 * 3600
    memory = [memory for _, _, memory in found.course]
    assert memory == sorted(memory), "the course is told in order"
    assert abs(found.memory_bytes.percentiles[0] - 7200 * MB) < 300 * MB


async def test_a_sessions_figures_are_stored_for_some_days(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "patchbay.db", WorkerId.of_this_process("worker"))
    await store.open()
    try:
        used = series(4 * 3600).result(DAY)
        assert used is not None
        await store_resources(store.key_values, "a-session", used, DAY)
        assert await stored_resources(store.key_values, "a-session", DAY + STORED_S - 1) == used
        assert await stored_resources(store.key_values, "a-session", DAY + STORED_S) is None
        assert await stored_resources(store.key_values, "another", DAY) is None
        (stored,) = await store.key_values.list(DOCUMENT_KIND, DAY)
        assert len(stored.value) < 2000, "of a session of four hours"
        assert json.loads(stored.value)["samples"] == used.samples
    finally:
        await store.close()
