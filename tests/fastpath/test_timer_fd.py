# SPDX-License-Identifier: BSD-2-Clause
"""A timer behind a file descriptor."""

from __future__ import annotations

import os
import select

import pytest

from gateway.fastpath.timer_fd import TimerFd
from gateway.simulator.waiting import WAIT_S


def readable(timer: TimerFd) -> list[int]:
    poll = select.poll()
    poll.register(timer.fileno(), select.POLLIN)
    return [descriptor for descriptor, _ in poll.poll(WAIT_S * 1000)]


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.01])
def test_it_becomes_readable_once_for_each_set(seconds: float) -> None:
    timer = TimerFd()
    for _ in range(3):
        timer.set(seconds)
        assert readable(timer) == [timer.fileno()]
        assert os.read(timer.fileno(), 8) == (1).to_bytes(8, "little")
        with pytest.raises(BlockingIOError):
            os.read(timer.fileno(), 8)


def test_it_may_be_set_again_before_it_is_due() -> None:
    timer = TimerFd()
    timer.set(2 * WAIT_S)
    timer.set(0.001)
    assert readable(timer) == [timer.fileno()]


def test_it_closes_its_descriptor() -> None:
    timer = TimerFd()
    descriptor = timer.fileno()
    del timer
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
