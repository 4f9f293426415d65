# SPDX-License-Identifier: BSD-2-Clause
"""Outbound calls, whose streams come after the admission, to any worker, or never."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from gateway.model.lifecycle import SessionState
from gateway.model.reasons import Party
from gateway.model.session import CallDetails, SessionResult, SlotLimits, Traffic
from gateway.store.interface import NotPending, Store, StoreFailed

NewCall = Callable[..., CallDetails]
OpenWorker = Callable[..., Any]


@pytest.fixture
def dialled(new_call: NewCall) -> CallDetails:
    """An outbound call that rings: its carrier has not opened a stream."""
    return new_call(call_id=None, stream_id=None, from_number="+15551230000", to_number=None)


@pytest.fixture
def unanswered() -> SessionResult:
    return SessionResult(
        state=SessionState.CANCELED,
        ended_at=1030.0,
        reason="no_answer",
        side=Party.CALLER,
        detail="no answer",
        close_code=1000,
        traffic=Traffic(),
        first_agent_sound_at=None,
    )


def streaming(dialled: CallDetails) -> CallDetails:
    return dataclasses.replace(dialled, call_id="CA7", stream_id="MZ7", to_number="+15559876543", region="eu")


async def test_the_stream_of_an_outbound_call_comes_to_another_worker(
    open_worker: OpenWorker, dialled: CallDetails, one_slot: SlotLimits, hung_up: SessionResult
) -> None:
    dialler, other = await open_worker(), await open_worker()
    await dialler.admit(dialled, one_slot, 1000.0)

    assert await other.attach_stream(streaming(dialled), 1010.0) == "http://127.0.0.1:8080"

    record = await dialler.session(dialled.session_id)
    assert record is not None
    assert (record.state, record.owner, record.region) == (SessionState.STARTING, "worker-1", "eu")
    assert (record.call_id, record.stream_id) == ("CA7", "MZ7")
    assert (record.from_number, record.to_number) == ("+15551230000", "+15559876543")
    assert {row.owner for row in await dialler.reap(1010.0)} == set()

    await other.mark_running(dialled.session_id, 1011.0)
    await other.end(dialled.session_id, hung_up)
    record = await dialler.session(dialled.session_id)
    assert record is not None
    assert (record.state, record.reason) == (SessionState.ENDED, "caller_hangup")


async def test_a_stream_is_attached_once(store: Store, dialled: CallDetails, one_slot: SlotLimits) -> None:
    await store.admit(dialled, one_slot, 1000.0)
    await store.attach_stream(streaming(dialled), 1010.0)
    with pytest.raises(NotPending):
        await store.attach_stream(streaming(dialled), 1011.0)


async def test_of_many_workers_one_attaches_the_stream(
    open_worker: OpenWorker, dialled: CallDetails, one_slot: SlotLimits
) -> None:
    workers = [await open_worker() for _ in range(3)]
    await workers[0].admit(dialled, one_slot, 1000.0)
    tries = [worker.attach_stream(streaming(dialled), 1010.0) for worker in workers for _ in range(4)]
    answers = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(answer, str) for answer in answers) == 1
    assert sum(isinstance(answer, NotPending) for answer in answers) == len(tries) - 1


@pytest.mark.parametrize(
    "other",
    [
        {"session_id": "7c9e6679-7425-40de-944b-e07fc1f90ae7"},
        {"agent": "sales.acme"},
        {"organization": "globex"},
        {"carrier": "plivo"},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_only_the_stream_of_the_same_call_is_attached(
    store: Store, dialled: CallDetails, one_slot: SlotLimits, other: dict[str, str]
) -> None:
    await store.admit(dialled, one_slot, 1000.0)
    with pytest.raises(NotPending):
        await store.attach_stream(dataclasses.replace(streaming(dialled), **other), 1010.0)
    await store.attach_stream(streaming(dialled), 1010.0)


async def test_no_stream_is_attached_to_an_incoming_call(
    store: Store, new_call: NewCall, one_slot: SlotLimits
) -> None:
    inbound = new_call()
    await store.admit(inbound, one_slot, 1000.0)
    with pytest.raises(NotPending):
        await store.attach_stream(inbound, 1001.0)


async def test_no_stream_is_attached_to_a_session_that_is_to_stop(
    store: Store, dialled: CallDetails, one_slot: SlotLimits
) -> None:
    await store.admit(dialled, one_slot, 1000.0)
    await store.request_stop(dialled.session_id, 1001.0)
    with pytest.raises(NotPending):
        await store.attach_stream(streaming(dialled), 1002.0)


async def test_a_cancelled_attachment_changes_nothing(
    open_worker: OpenWorker, dialled: CallDetails, one_slot: SlotLimits
) -> None:
    dialler, other = await open_worker(), await open_worker()
    await dialler.admit(dialled, one_slot, 1000.0)
    before = await dialler.session(dialled.session_id)
    attaching = asyncio.create_task(other.attach_stream(streaming(dialled), 1010.0))
    await asyncio.sleep(0)  # it is on its way to the store
    attaching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attaching
    await other.counts()  # what was queued is done
    after = await dialler.session(dialled.session_id)
    assert before is not None
    assert after == dataclasses.replace(before, to_number=after.to_number if after else None)


async def test_an_outbound_call_without_an_answer_is_ended(
    store: Store,
    dialled: CallDetails,
    one_slot: SlotLimits,
    new_call: NewCall,
    unanswered: SessionResult,
) -> None:
    await store.admit(dialled, one_slot, 1000.0)

    assert await store.end_if_unattached(dialled.session_id, unanswered)

    record = await store.session(dialled.session_id)
    assert record is not None
    assert (record.state, record.reason, record.ended_at) == (SessionState.CANCELED, "no_answer", 1030.0)
    with pytest.raises(NotPending):
        await store.attach_stream(streaming(dialled), 1031.0)
    assert not await store.end_if_unattached(dialled.session_id, unanswered)
    await store.admit(new_call(), one_slot, 1032.0)  # its slot is free


async def test_an_outbound_call_with_a_stream_is_not_ended_by_its_dialler(
    store: Store, dialled: CallDetails, one_slot: SlotLimits, unanswered: SessionResult
) -> None:
    await store.admit(dialled, one_slot, 1000.0)
    await store.attach_stream(streaming(dialled), 1010.0)
    assert not await store.end_if_unattached(dialled.session_id, unanswered)
    record = await store.session(dialled.session_id)
    assert record is not None
    assert record.state is SessionState.STARTING


async def test_a_closed_store_attaches_no_stream(
    open_worker: OpenWorker, dialled: CallDetails, one_slot: SlotLimits
) -> None:
    store = await open_worker()
    await store.admit(dialled, one_slot, 1000.0)
    await store.close()
    with pytest.raises(StoreFailed):
        await store.attach_stream(streaming(dialled), 1010.0)
