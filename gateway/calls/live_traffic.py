# SPDX-License-Identifier: BSD-2-Clause
"""The traffic of the running calls of this worker, for the records that all workers read.

The relays count it anyway. It is written with the worker's heartbeats (gateway/app.py), all calls in one
statement: a frame, and a call, cost nothing more (docs/decisions/0066-live-figures-with-heartbeats.md).
"""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.calls.active import ActiveCall, ActiveCalls
from gateway.calls.state import CallState
from gateway.model.session import LiveTraffic

CALLS_A_TURN: Final = 50
"""Calls that are looked at before other work of the event loop goes on."""

_BRIDGED: Final = frozenset({CallState.BRIDGED, CallState.AWAITING_AGENT, CallState.AWAITING_CARRIER})


async def live_traffic(active: ActiveCalls) -> list[LiveTraffic]:
    """Return what each call that has its agent has passed, and when the agent's first audio came."""
    found: list[LiveTraffic] = []
    for number, call in enumerate(active, start=1):
        if (passed := _passed(call)) is not None:
            found.append(passed)
        if number % CALLS_A_TURN == 0:
            await asyncio.sleep(0)
    return found


def _passed(call: ActiveCall) -> LiveTraffic | None:
    bridge = call.bridge if call.state in _BRIDGED else None
    if bridge is None:
        return None
    return LiveTraffic(call.session_id, bridge.traffic, bridge.first_sound_at)
