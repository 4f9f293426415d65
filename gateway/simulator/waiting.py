# SPDX-License-Identifier: BSD-2-Clause
"""Wait for an event, with a limit that only a failure reaches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

WAIT_S = 60.0
"""Seconds that any wait of a test may take, also on a machine that is busy with something else."""

POLL_S = 0.005
"""Seconds between two looks at a condition that reports no change by itself."""

Result = TypeVar("Result")


async def eventually(condition: Callable[[], Result], what: str) -> Result:
    """Wait until `condition` returns something true, and return that.

    Raises AssertionError with `what`, the awaited event in words, after WAIT_S.
    """
    deadline = time.monotonic() + WAIT_S
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"never: {what}")
        await asyncio.sleep(POLL_S)
    return result


def wait_until(condition: Callable[[], Result], what: str) -> Result:
    """Do what `eventually` does in a thread without an event loop.

    Raises AssertionError with `what` after WAIT_S.
    """
    deadline = time.monotonic() + WAIT_S
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"never: {what}")
        time.sleep(POLL_S)
    return result
