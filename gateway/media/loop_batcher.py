# SPDX-License-Identifier: BSD-2-Clause
"""Adaptive batching: fewer iterations of the event loop while there is much to relay.

Most of a relay's cost is the kernel's. Most of the rest is paid once per iteration of the event loop, and a
loop that wakes up for every single frame pays it for every frame. Under load it is paid less often, in two
ways:

- **Polling.** The EpollSet waits for its sockets itself and passes media on without the event loop
  (gateway/fastpath/pump.py, _accelerator.c). Everything else waits for up to four milliseconds.
- **Coalescing**, if frames may be delayed (`relay_batch_ms`). Whatever sleeps for a millisecond or two first
  finds the frames of many calls waiting, and reads and writes them together. A delay of 2 ms cannot be heard,
  and it saves a quarter of the CPU time. The sleep is counted from the end of the sleep before, so that no
  frame waits longer than configured. The frames wait in the kernel's buffers, in their order. If the event
  loop reads some sockets itself (over TLS), the event loop sleeps, else the EpollSet while it polls.

Call set-up and HTTP requests need many iterations, so batching pauses for `PAUSE_S` after one arrives.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

WINDOW_S = 0.1
"""The interval at which the load is measured."""

COALESCE_SHARE = 0.12
POLL_SHARE = 0.03
"""The shares of one core from which on the loop coalesces, or only polls. Below half of it, it stops."""

PAUSE_S = 0.02
"""How long batching pauses after a request or an upgrade; most of them are done by then."""

POLL_S = 0.004
"""How long one poll lasts if nothing is coalesced. An iteration of the loop costs as much as two messages."""

SLEEPS_PER_POLL = 2
"""How often the EpollSet sleeps during one poll if frames are coalesced."""


class LoopBatcher:
    """Saves iterations of the running event loop while there is much to relay."""

    def __init__(
        self,
        coalesce_s: float,
        *,
        poll_for: Callable[[float, float], bool] | None = None,
        can_poll: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`coalesce_s`: the longest delay of a frame, in seconds; 0 coalesces nothing.

        `poll_for`: `EpollSet.poll_for`; None never polls. `can_poll`: returns True if the EpollSet reads the
        sockets of all relays. `clock` and `cpu`: return the time and this thread's CPU time, in seconds.
        """
        self._loop = asyncio.get_running_loop()
        self._coalesce_s = coalesce_s
        self._poll_for = poll_for
        self._poll_s = SLEEPS_PER_POLL * coalesce_s or POLL_S
        self._can_poll = can_poll
        self._busy_share = COALESCE_SHARE if coalesce_s else POLL_SHARE
        self._clock = clock
        self._cpu = cpu
        self._sleep = sleep
        self._cpu_before = cpu()
        self._measured_at = clock()
        self._woke_at = 0.0
        self._paused_until = 0.0
        self._next_batch: asyncio.Handle | None = None
        self._next_measurement: asyncio.TimerHandle | None = None
        self.is_batching = False
        """Whether the load is high enough to save iterations."""

    def pause(self) -> None:
        """Let the loop iterate as usual for PAUSE_S: something has come that needs many iterations."""
        self._paused_until = self._clock() + PAUSE_S

    def start(self) -> None:
        """Start to measure the load, if anything can be saved."""
        if self._coalesce_s > 0 or self._poll_for is not None:
            self._next_measurement = self._loop.call_later(WINDOW_S, self.measure_load)

    def stop(self) -> None:
        """Stop measuring and batching."""
        self.is_batching = False
        for handle in (self._next_batch, self._next_measurement):
            if handle is not None:
                handle.cancel()

    def measure_load(self) -> None:
        """Compare the CPU time with the time since the last measurement, and start or stop batching."""
        cpu, now = self._cpu(), self._clock()
        busy_share = (cpu - self._cpu_before) / max(now - self._measured_at, 1e-9)
        self._cpu_before, self._measured_at = cpu, now
        can_batch = self._coalesce_s > 0 or self._can_poll()
        if not self.is_batching and can_batch and busy_share >= self._busy_share:
            self.is_batching = True
            self._woke_at = now
            if self._next_batch is not None:
                self._next_batch.cancel()
            self._next_batch = self._loop.call_soon(self._batch)
        elif self.is_batching and (not can_batch or busy_share < self._busy_share / 2):
            self.is_batching = False
        self._next_measurement = self._loop.call_later(WINDOW_S, self.measure_load)

    def _batch(self) -> None:
        """Poll or sleep once. It runs between two iterations: what was read has been written by now."""
        if not self.is_batching:
            return
        now = self._clock()
        if now < self._paused_until:
            # Not in every iteration: a loop that always has something to call never waits for its sockets.
            self._next_batch = self._loop.call_later(self._paused_until - now, self._batch)
            return
        if self._poll_for is not None and self._can_poll():
            if not self._poll_for(self._poll_s, self._coalesce_s):
                self.is_batching = False  # no media came, so the load is something else; measure again
                return
        elif not self._coalesce_s:
            self.is_batching = False  # this call would only repeat itself until the next measurement
            return
        elif (left_s := self._woke_at + self._coalesce_s - now) > 0:
            self._sleep(left_s)
        self._woke_at = self._clock()
        self._next_batch = self._loop.call_soon(self._batch)
