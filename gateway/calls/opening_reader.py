# SPDX-License-Identifier: BSD-2-Clause
"""Reading the opening of a carrier's stream from its leg (serializers/opening.py)."""

from __future__ import annotations

import asyncio

from gateway.media.leg import Leg
from gateway.model.reasons import CallEnded, Reasons
from serializers.dialect import Dialect, DialectError
from serializers.events import Start
from serializers.opening import Opening


async def read_opening(leg: Leg, dialect: Dialect, timeout_s: float) -> Start:
    """Read the carrier's messages up to its `start`, and put what came before it behind it.

    The leg bounds their bytes. Raises CallEnded(bad_opening) without a `start` in time, or for what is none.
    """
    opening = Opening(dialect)
    start = None
    try:
        async with asyncio.timeout(timeout_s):
            while start is None:
                start = opening.feed(await leg.receive())
    except TimeoutError:
        others = f", and {opening.early} others came" if opening.early else ""
        detail = f"no start message within {timeout_s:g} s{others}"
        raise CallEnded(Reasons.bad_opening, detail) from None
    except DialectError as error:
        raise CallEnded(Reasons.bad_opening, str(error)) from None
    if opening.early:
        leg.open_with(opening.messages)
    return start
