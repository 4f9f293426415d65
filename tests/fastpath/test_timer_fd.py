# SPDX-License-Identifier: BSD-2-Clause
"""A timer that is a descriptor."""

from __future__ import annotations

import os
import select

import pytest

from gateway.fastpath.timer_fd import TimerFd
from gateway.simulator.waiting import WAIT_S


def due(alarm: TimerFd) -> list[int]:
    poll = select.poll()
    poll.register(alarm.fileno(), select.POLLIN)
    return [descriptor for descriptor, _ in poll.poll(WAIT_S * 1000)]


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.01])
def test_it_comes_once_for_each_time_that_it_was_set(seconds: float) -> None:
    alarm = TimerFd()
    for _ in range(3):
        alarm.set(seconds)
        assert due(alarm) == [alarm.fileno()]
        assert os.read(alarm.fileno(), 8) == (1).to_bytes(8, "little")
        with pytest.raises(BlockingIOError):
            os.read(alarm.fileno(), 8)


def test_it_is_set_again_before_it_was_due() -> None:
    alarm = TimerFd()
    alarm.set(2 * WAIT_S)
    alarm.set(0.001)
    assert due(alarm) == [alarm.fileno()]


def test_it_frees_its_descriptor() -> None:
    alarm = TimerFd()
    descriptor = alarm.fileno()
    del alarm
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
