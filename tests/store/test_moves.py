# SPDX-License-Identifier: BSD-2-Clause
"""A session whose agent is lost moves to another instance in one step, and has one slot at every moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gateway.model.session import CallDetails, SessionOptions, SessionResult, SlotLimits
from gateway.store.interface import AtCapacity, NotPending, SessionFilter, Store

NewCall = Callable[..., CallDetails]
OpenWorker = Callable[..., Any]

FIRST, SECOND, THIRD = (f"http://127.0.0.1:808{n}" for n in range(3))


def limits(*instances: str, per_instance: int = 1, most: int = 9) -> SlotLimits:
    """The first instance is preferred."""
    return SlotLimits(tuple((each, rank) for rank, each in enumerate(instances)), per_instance, most)


async def instance_of(store: Store, details: CallDetails) -> str:
    record = await store.session(details.session_id)
    assert record is not None
    return record.instance


async def test_the_slot_moves_with_the_session(store: Store, new_call: NewCall) -> None:
    call = new_call()
    assert await store.admit(call, limits(FIRST, SECOND), 1000.0) == FIRST
    assert await store.move(call.session_id, limits(SECOND, FIRST)) == SECOND
    assert await instance_of(store, call) == SECOND
    assert (await store.counts()).total_active == 1
    assert await store.admit(new_call(), limits(FIRST, SECOND), 1001.0) == FIRST
    with pytest.raises(AtCapacity, match="2 of 2"):
        await store.admit(new_call(), limits(FIRST, SECOND), 1002.0)


async def test_a_session_may_take_its_own_slot_again(store: Store, new_call: NewCall) -> None:
    """Also where no other is, and where no more instances may be in use."""
    call = new_call()
    await store.admit(call, limits(FIRST), 1000.0)
    assert await store.move(call.session_id, limits(FIRST)) == FIRST
    assert await store.move(call.session_id, limits(SECOND, FIRST, most=1)) == SECOND


async def test_a_session_does_not_take_the_slot_of_another(store: Store, new_call: NewCall) -> None:
    call = new_call()
    await store.admit(call, limits(FIRST), 1000.0)
    await store.admit(new_call(), limits(SECOND), 1000.0)
    assert await store.move(call.session_id, limits(SECOND, FIRST)) == FIRST
    with pytest.raises(AtCapacity):
        await store.move(call.session_id, limits(SECOND))
    assert await instance_of(store, call) == FIRST


async def test_a_session_that_is_over_or_stopping_is_not_moved(
    store: Store, new_call: NewCall, hung_up: SessionResult
) -> None:
    over, stopping = new_call(), new_call()
    for each in (over, stopping):
        await store.admit(each, limits(FIRST, per_instance=2), 1000.0)
    await store.end(over.session_id, hung_up)
    await store.request_stop(stopping.session_id, 1001.0)
    for each in (over.session_id, stopping.session_id, "unknown"):
        with pytest.raises(NotPending):
            await store.move(each, limits(SECOND))
    assert [await instance_of(store, each) for each in (over, stopping)] == [FIRST, FIRST]


async def test_only_the_owner_moves_a_session(open_worker: OpenWorker, new_call: NewCall) -> None:
    mine, other = await open_worker(), await open_worker()
    call = new_call()
    await mine.admit(call, limits(FIRST), 1000.0)
    with pytest.raises(NotPending):
        await other.move(call.session_id, limits(SECOND))


async def test_of_several_sessions_that_move_to_one_slot_one_gets_it(
    open_worker: OpenWorker, new_call: NewCall
) -> None:
    workers = [await open_worker() for _ in range(3)]
    calls = [new_call() for _ in workers]
    homes = [f"http://127.0.0.1:909{n}" for n in range(3)]
    for worker, call, home in zip(workers, calls, homes, strict=True):
        await worker.admit(call, limits(home), 1000.0)
    moves = [
        worker.move(call.session_id, limits(SECOND)) for worker, call in zip(workers, calls, strict=True)
    ]
    answers = await asyncio.gather(*moves, return_exceptions=True)
    assert sorted(type(answer).__name__ for answer in answers) == ["AtCapacity", "AtCapacity", "str"]


async def test_a_cancelled_move_leaves_one_slot_in_use(
    store: Store, new_call: NewCall, hung_up: SessionResult
) -> None:
    call = new_call()
    await store.admit(call, limits(FIRST), 1000.0)
    moving = asyncio.create_task(store.move(call.session_id, limits(SECOND)))
    await asyncio.sleep(0)
    moving.cancel()
    await asyncio.gather(moving, return_exceptions=True)
    assert (await store.counts()).total_active == 1
    await store.end(call.session_id, hung_up)
    assert (await store.counts()).total_active == 0


async def test_the_number_of_moves_to_another_agent_is_recorded(
    store: Store, new_call: NewCall, hung_up: SessionResult
) -> None:
    call = new_call()
    await store.admit(call, limits(FIRST), 1000.0)
    store.mark_running(call.session_id, 1001.0)
    record = await store.session(call.session_id)
    assert record is not None
    assert record.resumed == 0
    store.mark_resumed(call.session_id, 1)
    await store.mark_resumed(call.session_id, 2)
    await store.end(call.session_id, hung_up)
    record = await store.session(call.session_id)
    assert record is not None
    assert (record.resumed, record.reason) == (2, "caller_hangup")


async def test_which_start_it_was_is_corrected_once_the_instance_is_known(
    store: Store, new_call: NewCall, hung_up: SessionResult
) -> None:
    call = new_call()
    await store.admit(call, limits(FIRST), 1000.0, SessionOptions(start_type="warm"))
    await store.correct_start_type(call.session_id, "cold")
    await store.correct_start_type("nobody", "cold")
    await store.end(call.session_id, hung_up)
    for start_type, sessions in (("cold", 1), ("warm", 0)):
        _, total = await store.sessions(SessionFilter(start_type=start_type))
        assert total == sessions
    record = await store.session(call.session_id)
    assert record is not None
    assert record.start_type == "cold"
