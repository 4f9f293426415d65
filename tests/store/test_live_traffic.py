# SPDX-License-Identifier: BSD-2-Clause
"""The traffic of running calls, which their worker writes with its heartbeats."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from gateway.model.session import CallDetails, LiveTraffic, SessionResult, SlotLimits, Traffic
from gateway.store.interface import Store
from gateway.store.worker_id import WorkerId

NewCall = Callable[..., CallDetails]
OpenWorker = Callable[..., Any]

FIRST = Traffic(frames_in=50, bytes_in=8000, frames_out=0, bytes_out=0)
SECOND = Traffic(frames_in=200, bytes_in=32_000, frames_out=100, bytes_out=16_000)


async def traffic_of(store: Store, call: CallDetails) -> tuple[Traffic, float | None]:
    record = await store.session(call.session_id)
    assert record is not None
    traffic = Traffic(record.frames_in, record.bytes_in, record.frames_out, record.bytes_out)
    return traffic, record.first_agent_sound_at


async def test_a_running_call_shows_what_it_has_passed(
    open_worker: OpenWorker, new_call: NewCall, many_slots: SlotLimits
) -> None:
    store, other = await open_worker(), await open_worker()
    calls = [new_call() for _ in range(3)]
    for call in calls:
        await store.admit(call, many_slots, 1000.0)
        await store.mark_running(call.session_id, 1001.0)
    await store.heartbeat(1003.0, [LiveTraffic(call.session_id, FIRST, None) for call in calls])
    assert await traffic_of(other, calls[0]) == (FIRST, None)
    await store.heartbeat(1006.0, [LiveTraffic(call.session_id, SECOND, 1004.5) for call in calls[1:]])
    assert [await traffic_of(other, call) for call in calls] == [(FIRST, None)] + [(SECOND, 1004.5)] * 2
    await store.heartbeat(1009.0)
    assert await traffic_of(other, calls[1]) == (SECOND, 1004.5)


async def test_the_end_of_a_call_is_the_last_word(
    open_worker: OpenWorker, new_call: NewCall, many_slots: SlotLimits, hung_up: SessionResult
) -> None:
    """Figures that were gathered before it are late; and nobody writes those of another worker's calls."""
    store, other = await open_worker(), await open_worker()
    over, ending, starting, others = (new_call() for _ in range(4))
    for call in (over, ending, starting):
        await store.admit(call, many_slots, 1000.0)
    await other.admit(others, many_slots, 1000.0)
    for owner, call in ((store, over), (store, ending), (other, others)):
        await owner.mark_running(call.session_id, 1001.0)
    await store.end(over.session_id, hung_up)
    await store.begin_end(ending.session_id, hung_up)
    unknown = new_call()
    late = (over, ending, starting, others, unknown)
    await store.heartbeat(1061.0, [LiveTraffic(call.session_id, FIRST, 1002.0) for call in late])
    for call in (over, ending):
        assert await traffic_of(store, call) == (hung_up.traffic, hung_up.first_agent_sound_at)
    for call in (starting, others):
        assert await traffic_of(store, call) == (Traffic(), None)
    assert await store.session(unknown.session_id) is None


async def test_a_call_whose_worker_died_keeps_what_it_had_passed(
    store: Store, open_worker: OpenWorker, new_call: NewCall, many_slots: SlotLimits
) -> None:
    far = await open_worker(dataclasses.replace(WorkerId.of_this_process("far"), host="another machine"))
    call = new_call()
    await far.admit(call, many_slots, 1000.0)
    await far.mark_running(call.session_id, 1000.5)
    await far.heartbeat(1003.0, [LiveTraffic(call.session_id, SECOND, 1001.5)])
    for now in (1003.0, 1010.0, 1020.0):
        await store.heartbeat(now)
    (lost,) = await store.reap(1020.0)
    assert (lost.reason, lost.frames_in, lost.first_agent_sound_at) == ("gateway_lost", 200, 1001.5)
    assert await traffic_of(store, call) == (SECOND, 1001.5)
