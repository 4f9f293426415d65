# SPDX-License-Identifier: BSD-2-Clause
"""Remove what is older than `[store] retention_days` and `audit_days`, in small steps off the calls' path.

Every worker does it: a step finds nothing where another one has been. A step holds the store's lock for a few
milliseconds at most, and a pause lets the calls' writes in before the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from gateway.store.history import DAY_S, History, Removed
from gateway.store.interface import StoreFailed

log = structlog.get_logger(__name__)

ROWS_A_STEP: Final = 200
"""Rows that one step changes of each kind: some 4 ms of the store's time."""

STEP_PAUSE_S: Final = 0.5
"""Seconds between two steps while there is more to remove."""

ROUND_PAUSE_S: Final = 60.0
"""Seconds from the end of one round to the next."""


async def remove_for_ever(
    history: History, retention_days: float, audit_days: float, now: Callable[[], float]
) -> None:
    """Remove what is older, until cancelled. 0 days keeps everything.

    `now`: Unix seconds.
    """
    in_trouble = False
    while True:
        await asyncio.sleep(ROUND_PAUSE_S)
        try:
            await remove_once(history, retention_days, audit_days, now)
            in_trouble = False
        except StoreFailed as error:
            if not in_trouble and not error.is_reported:
                log.warning("store", error=str(error))
            in_trouble = True


async def remove_once(
    history: History, retention_days: float, audit_days: float, now: Callable[[], float]
) -> Removed:
    """Remove all that is older than these days. Return how much that was. Raises StoreFailed."""
    removed = Removed(0, 0, 0)
    while True:
        at = now()
        step = await history.prune(
            at - retention_days * DAY_S if retention_days else 0.0,
            at - audit_days * DAY_S if audit_days else 0.0,
            ROWS_A_STEP,
        )
        removed = Removed(
            removed.blanked + step.blanked,
            removed.sessions + step.sessions,
            removed.management_calls + step.management_calls,
        )
        if max(step.blanked, step.sessions, step.management_calls) < ROWS_A_STEP:
            break
        await asyncio.sleep(STEP_PAUSE_S)
    if removed.total:
        log.info(
            "history_removed",
            blanked=removed.blanked,
            sessions=removed.sessions,
            management_calls=removed.management_calls,
        )
    return removed
