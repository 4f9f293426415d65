# SPDX-License-Identifier: BSD-2-Clause
"""The load generator against its own agent, against nobody, and against an agent that answers wrongly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.contenders import LOAD_CORE
from benchmarks.load import Load, build
from benchmarks.processes import free_ports

WINDOW_S = 0.2


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generator, compiled."""
    return build(tmp_path_factory.mktemp("wsload"))


@pytest.fixture
def load(binary: Path) -> Iterator[Load]:
    """The generator with its agent."""
    load = Load(binary, free_ports(18700, 1)[0], LOAD_CORE)
    yield load
    load.close()


def test_every_message_of_every_call_is_answered(load: Load) -> None:
    report = load.run(f"ws://127.0.0.1:{load.agent_port}/ws", 10, (), seconds=WINDOW_S, spin=False)
    assert report is not None, load.last_error
    assert report.calls == 10
    assert report.sent == pytest.approx(10 * 50 * WINDOW_S, abs=10)
    assert (report.skipped, report.wrong, report.lost_calls) == (0, 0, 0)
    assert 0 < report.latency_us.p50 <= report.latency_us.p99 <= report.latency_us.max


def test_calls_that_are_kept_are_opened_once(load: Load) -> None:
    """The second window finds them standing; the last one ends them."""
    url = f"ws://127.0.0.1:{load.agent_port}/ws"
    kept = ("--set", "1", "--keep")
    first = load.run(url, 5, (), seconds=WINDOW_S, spin=False, options=kept)
    second = load.run(url, 8, (), seconds=WINDOW_S, spin=False, options=kept)
    last = load.run(url, 8, (), seconds=0, spin=False, options=("--set", "1"))
    assert first is not None
    assert second is not None
    assert last is not None
    assert (first.calls, second.calls) == (5, 8)
    assert second.lost_calls == 0


def test_where_nobody_listens_it_says_so_and_goes_on(load: Load) -> None:
    nobody = free_ports(18800, 1)[0]
    assert load.run(f"ws://127.0.0.1:{nobody}/ws", 1, (), seconds=WINDOW_S, spin=False) is None
    assert load.last_error
    again = load.run(f"ws://127.0.0.1:{load.agent_port}/ws", 1, (), seconds=WINDOW_S, spin=False)
    assert again is not None
