# SPDX-License-Identifier: BSD-2-Clause
"""Futures whose result may be left unread."""

from __future__ import annotations

import asyncio
from typing import Any


def ignore_exception(future: asyncio.Future[Any]) -> None:
    """Retrieve the exception of a done future, so that asyncio does not log it as "never retrieved".

    For `future.add_done_callback`, if the task that waits for the result may be gone when it comes.
    """
    if not future.cancelled():
        future.exception()
