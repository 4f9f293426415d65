# SPDX-License-Identifier: BSD-2-Clause
"""Sessions that are over for their callers, and whose instances are not known to be free yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from gateway.model.lifecycle import SessionState
from gateway.model.reasons import Party
from gateway.model.session import (
    CallDetails,
    ReleasedBy,
    SessionOptions,
    SessionRecord,
    SessionResult,
    SlotLimits,
    Traffic,
)
from gateway.store.interface import AtCapacity, SessionFilter, Store
from gateway.store.notifications import Topic
from gateway.store.worker_id import WorkerId

NewCall = Callable[..., CallDetails]
OpenWorker = Callable[..., Any]

BOT = SessionOptions(transport="bot")
ELSEWHERE = "another machine"


@pytest.fixture
def stopped() -> SessionResult:
    """The session was stopped at 1060.5."""
    return SessionResult(
        state=SessionState.ENDED,
        ended_at=1060.5,
        reason="stopped",
        side=Party.GATEWAY,
        detail="on request",
        close_code=1000,
        traffic=Traffic(),
        first_agent_sound_at=None,
        completion_status="HTTP_ERROR",
    )


async def reaped(store: Store) -> list[SessionRecord]:
    """Let the other worker be silent until it is found dead; return what `reap` says."""
    for now in (1000.0, 1010.0, 1020.0):
        await store.heartbeat(now)
    return await store.reap(1020.0)


async def test_a_session_that_is_ending_keeps_its_slot_until_it_is_released(
    store: Store, new_call: NewCall, one_slot: SlotLimits, stopped: SessionResult
) -> None:
    call = new_call()
    await store.admit(call, one_slot, 1000.0, BOT)
    store.mark_running(call.session_id, 1001.0)
    await store.begin_end(call.session_id, stopped)
    record = await store.session(call.session_id)
    assert record is not None
    assert record.active
    assert (record.state, record.ended_at, record.ending_at) == (SessionState.ENDING, None, 1060.5)
    assert (record.reason, record.side, record.detail) == ("stopped", Party.GATEWAY, "on request")
    with pytest.raises(AtCapacity):
        await store.admit(new_call(), one_slot, 1061.0)
    assert (await store.counts()).active[SessionState.ENDING] == 1
    active, _ = await store.sessions(SessionFilter(active=True))
    assert [one.session_id for one in active] == [call.session_id]

    await store.release(call.session_id, 1070.0, ReleasedBy.READY)
    record = await store.session(call.session_id)
    assert record is not None
    assert (record.state, record.ended_at) == (SessionState.ENDED, 1060.5)
    assert (record.released_at, record.released_by) == (1070.0, "ready")
    assert (record.reason, record.completion_status) == ("stopped", "HTTP_ERROR")
    await store.admit(new_call(), one_slot, 1071.0)
    assert (await store.counts()).over[SessionState.ENDED] == 1


async def test_a_session_that_failed_or_never_ran_is_over_as_such(
    store: Store, new_call: NewCall, many_slots: SlotLimits, stopped: SessionResult
) -> None:
    never_ran, failed = new_call(), new_call()
    for call in (never_ran, failed):
        await store.admit(call, many_slots, 1000.0, BOT)
    store.mark_running(failed.session_id, 1001.0)
    store.begin_end(never_ran.session_id, stopped)
    store.begin_end(
        failed.session_id, dataclasses.replace(stopped, state=SessionState.FAILED, reason="agent_lost")
    )
    for call, state in ((never_ran, SessionState.CANCELED), (failed, SessionState.FAILED)):
        await store.release(call.session_id, 1061.0, ReleasedBy.TIMEOUT)
        record = await store.session(call.session_id)
        assert record is not None
        assert record.state is state


async def test_the_first_reason_to_end_stands(
    store: Store, new_call: NewCall, one_slot: SlotLimits, stopped: SessionResult, hung_up: SessionResult
) -> None:
    call = new_call()
    await store.admit(call, one_slot, 1000.0, BOT)
    store.begin_end(call.session_id, stopped)
    store.begin_end(call.session_id, dataclasses.replace(stopped, reason="max_duration"))
    store.mark_running(call.session_id, 1062.0)
    await store.end(call.session_id, hung_up)  # which frees the slot in any case
    record = await store.session(call.session_id)
    assert record is not None
    assert (record.reason, record.ended_at, record.released_by) == ("stopped", 1060.5, None)
    assert record.state is SessionState.CANCELED
    await store.release(call.session_id, 1090.0, ReleasedBy.TIMEOUT)
    again = await store.session(call.session_id)
    assert again == record


async def test_what_does_not_run_is_not_released(
    store: Store,
    new_call: NewCall,
    many_slots: SlotLimits,
    stopped: SessionResult,
    browser_options: SessionOptions,
) -> None:
    running, pending = new_call(), new_call()
    await store.admit(running, many_slots, 1000.0, BOT)
    await store.create_pending(pending, browser_options, 1000.0, 1300.0)
    store.begin_end(pending.session_id, stopped)
    store.begin_end("5bd1d9f4-2f5e-4e15-8b1f-0f7a3c3f5a7e", stopped)
    await store.release(running.session_id, 1061.0, ReleasedBy.READY)
    states = [(await store.session(call.session_id)).state for call in (running, pending)]  # type: ignore[union-attr]
    assert states == [SessionState.STARTING, SessionState.CREATED]


async def test_a_session_that_is_ending_need_not_be_stopped_again(
    store: Store, new_call: NewCall, one_slot: SlotLimits, stopped: SessionResult
) -> None:
    call = new_call()
    await store.admit(call, one_slot, 1000.0, BOT)
    assert await store.request_stop(call.session_id, 1060.0)
    await store.begin_end(call.session_id, stopped)
    assert await store.stop_requests() == []
    assert await store.request_stop(call.session_id, 1062.0), "it is not over"


async def test_a_report_may_come_while_the_session_is_ending(
    store: Store, new_call: NewCall, one_slot: SlotLimits, stopped: SessionResult
) -> None:
    call = new_call()
    await store.admit(call, one_slot, 1000.0, BOT)
    await store.begin_end(call.session_id, stopped)
    assert await store.complete(call.session_id, None, 62.5, None, 1061.0)


async def test_beginning_and_release_are_notified(
    store: Store, new_call: NewCall, one_slot: SlotLimits, stopped: SessionResult
) -> None:
    call = new_call()
    await store.admit(call, one_slot, 1000.0, BOT)
    ended = store.notifications.subscribe(Topic.SESSION_ENDED)
    freed = store.notifications.subscribe(Topic.SLOT_FREED)
    for subscription in (ended, freed):
        await subscription.wait()
    await store.begin_end(call.session_id, stopped)
    assert await ended.wait()
    await store.release(call.session_id, 1070.0, ReleasedBy.ANSWERED)
    assert await freed.wait()
    for subscription in (ended, freed):
        subscription.close()


async def test_a_worker_knows_its_own_sessions_that_are_ending(
    open_worker: OpenWorker, new_call: NewCall, many_slots: SlotLimits, stopped: SessionResult
) -> None:
    east, west = await open_worker(), await open_worker()
    calls = [new_call() for _ in range(3)]
    for call in calls:
        await east.admit(call, many_slots, 1000.0, BOT)
    for call in calls[:2]:
        await east.begin_end(call.session_id, stopped)
    assert [record.session_id for record in await east.ending()] == [call.session_id for call in calls[:2]]
    assert await west.ending() == []


# The worker dies


async def test_the_bots_of_a_dead_worker_are_ending_and_belong_to_who_found_it_dead(
    store: Store, open_worker: OpenWorker, new_call: NewCall, many_slots: SlotLimits
) -> None:
    far = await open_worker(dataclasses.replace(WorkerId.of_this_process("far"), host=ELSEWHERE))
    telephone, bot = new_call(), new_call()
    await far.admit(telephone, many_slots, 1000.0)
    await far.admit(bot, many_slots, 1000.0, BOT)
    lost = await reaped(store)
    assert [(one.session_id, one.state) for one in lost] == [
        (telephone.session_id, SessionState.FAILED),
        (bot.session_id, SessionState.ENDING),
    ]
    (ending,) = await store.ending()
    assert (ending.session_id, ending.owner, ending.reason) == (
        bot.session_id,
        "worker-0",
        "gateway_lost",
    )
    assert (ending.ending_at, ending.ended_at) == (1020.0, None)
    await store.release(bot.session_id, 1030.0, ReleasedBy.GONE)
    record = await store.session(bot.session_id)
    assert record is not None
    assert (record.state, record.reason) == (SessionState.FAILED, "gateway_lost")


async def test_a_session_that_was_ending_when_its_worker_died_keeps_its_reason(
    store: Store, open_worker: OpenWorker, new_call: NewCall, many_slots: SlotLimits, stopped: SessionResult
) -> None:
    far = await open_worker(dataclasses.replace(WorkerId.of_this_process("far"), host=ELSEWHERE))
    bot = new_call()
    await far.admit(bot, many_slots, 1000.0, BOT)
    far.mark_running(bot.session_id, 1001.0)
    await far.begin_end(bot.session_id, stopped)
    await far.close()
    assert await reaped(store) == []
    (ending,) = await store.ending()
    assert (ending.session_id, ending.reason, ending.ending_at) == (bot.session_id, "stopped", 1060.5)
    await store.release(bot.session_id, 1070.0, ReleasedBy.TIMEOUT)
    record = await store.session(bot.session_id)
    assert record is not None
    assert (record.state, record.ended_at) == (SessionState.ENDED, 1060.5)
