# SPDX-License-Identifier: BSD-2-Clause
"""The history: totals by day, what is removed of sessions that are over, and management calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.model.lifecycle import SessionState
from gateway.model.session import CallDetails, SessionOptions, SessionResult, SlotLimits
from gateway.store.history import DAY_S, DayUsage, ManagementCall, Removed
from gateway.store.interface import SessionFilter, Store
from gateway.store.retention import remove_once

NewCall = Callable[..., CallDetails]
OpenWorker = Callable[..., Any]

DAY = 20_000
MIDNIGHT = DAY * DAY_S


@pytest.fixture
async def take_call(
    store: Store, new_call: NewCall, many_slots: SlotLimits, hung_up: SessionResult
) -> Callable[..., Any]:
    """Take a call at a time; it ends after `seconds` with a report. Return its id."""

    async def call(at: float, seconds: float = 60.0, agent: str = "support.acme") -> str:
        details = new_call(agent)
        options = SessionOptions(metadata='{"ticket": 4711}')
        await store.admit(details, many_slots, at, options)
        assert await store.complete(details.session_id, '[{"text": "my number"}]', 58.0, '{"ok": 1}', at)
        await store.end(details.session_id, replace(hung_up, ended_at=at + seconds))
        return details.session_id

    return call


async def test_a_call_counts_for_the_day_on_which_it_got_its_slot(
    store: Store, take_call: Callable[..., Any]
) -> None:
    await take_call(MIDNIGHT - 10.0, 25.5)
    await take_call(MIDNIGHT + 10.0, 1.0)
    await take_call(MIDNIGHT + 20.0, 2.0)
    await take_call(MIDNIGHT + 20.0, 4.0, agent="sales.acme")
    await take_call(MIDNIGHT + 20.0, 8.0, agent="sales.globex")
    assert await store.history.usage("acme", DAY - 1, DAY, MIDNIGHT + 999.0) == (
        DayUsage(DAY - 1, "support.acme", 1, 25.5),
        DayUsage(DAY, "sales.acme", 1, 4.0),
        DayUsage(DAY, "support.acme", 2, 3.0),
    )
    assert await store.history.usage("acme", DAY - 1, DAY - 1, MIDNIGHT + 999.0) == (
        DayUsage(DAY - 1, "support.acme", 1, 25.5),
    )
    assert await store.history.usage("nobody", DAY - 1, DAY, MIDNIGHT + 999.0) == ()


async def test_a_call_that_goes_on_counts_until_now(
    store: Store, take_call: Callable[..., Any], new_call: NewCall, many_slots: SlotLimits
) -> None:
    await take_call(MIDNIGHT, 5.0)
    await store.admit(new_call(), many_slots, MIDNIGHT + 10.0)
    assert await store.history.usage("acme", DAY, DAY, MIDNIGHT + 30.0) == (
        DayUsage(DAY, "support.acme", 2, 25.0),
    )


async def test_a_call_whose_instance_is_not_free_yet_counts_until_its_end(
    store: Store, new_call: NewCall, many_slots: SlotLimits, hung_up: SessionResult
) -> None:
    call = new_call()
    await store.admit(call, many_slots, MIDNIGHT)
    await store.begin_end(call.session_id, replace(hung_up, ended_at=MIDNIGHT + 7.0))
    used = (DayUsage(DAY, "support.acme", 1, 7.0),)
    assert await store.history.usage("acme", DAY, DAY, MIDNIGHT + 99.0) == used
    await store.release(call.session_id, MIDNIGHT + 30.0, None)
    assert await store.history.usage("acme", DAY, DAY, MIDNIGHT + 99.0) == used


async def test_a_session_that_never_got_a_slot_used_nothing(
    store: Store, new_call: NewCall, browser_options: SessionOptions, hung_up: SessionResult
) -> None:
    expired, ended = new_call(), new_call()
    for call in (expired, ended):
        await store.create_pending(call, browser_options, MIDNIGHT, MIDNIGHT + 10.0)
    await store.end(ended.session_id, replace(hung_up, ended_at=MIDNIGHT + 1.0))
    await store.reap(MIDNIGHT + 20.0)
    assert await store.history.usage("acme", DAY, DAY, MIDNIGHT + 30.0) == ()


async def test_numbers_and_transcripts_go_first_and_then_the_sessions(
    store: Store, take_call: Callable[..., Any]
) -> None:
    old = [await take_call(1000.0 + number) for number in range(5)]
    young = await take_call(9000.0)
    assert await store.history.prune(5000.0, 0.0, 3) == Removed(3, 0, 0)
    for number, session_id in enumerate(old):
        record = await store.session(session_id)
        assert record is not None
        personal = (record.from_number, record.to_number, record.call_id, record.stream_id)
        personal += (record.metadata, record.transcript, record.results)
        assert (personal == (None,) * 7) is (number < 3)
        assert None in personal or number >= 3
        assert (record.reason, record.reported_seconds, record.frames_in) == ("caller_hangup", 58.0, 3000)
    assert await store.history.prune(5000.0, 0.0, 3) == Removed(2, 3, 0)
    assert await store.history.prune(5000.0, 0.0, 3) == Removed(0, 2, 0)
    assert await store.history.prune(5000.0, 0.0, 3) == Removed(0, 0, 0)
    ((left,), total) = await store.sessions()
    assert (left.session_id, left.from_number, total) == (young, "+15551230000", 1)


async def test_a_list_says_how_long_it_is_whatever_was_removed(
    store: Store, new_call: NewCall, many_slots: SlotLimits, take_call: Callable[..., Any]
) -> None:
    for number in range(4):
        await take_call(1000.0 + number, agent="desk.other" if number == 3 else "support.acme")
    await take_call(9000.0)
    await store.admit(new_call(), many_slots, 9001.0)
    pending = new_call()
    await store.create_pending(pending, SessionOptions(), 9002.0, 9999.0)
    await store.request_stop(pending.session_id, 9003.0)

    async def totals() -> list[int]:
        own = SessionFilter(agent="support.acme")
        every = (
            own,
            SessionFilter(organization="acme"),
            replace(own, organization="acme"),
            replace(own, organization="other"),
            replace(own, active=False),
            replace(own, active=True),
            replace(own, state=SessionState.CANCELED),
            SessionFilter(agent="desk.other"),
            SessionFilter(),
        )
        found = []
        for matching in every:
            page, total = await store.sessions(matching, limit=100)
            assert len(page) == total
            found.append(total)
        return found

    assert await totals() == [6, 6, 6, 0, 5, 1, 5, 1, 7]
    await store.history.prune(5000.0, 0.0, 2)
    await store.history.prune(5000.0, 0.0, 100)
    await store.history.prune(5000.0, 0.0, 100)
    assert await totals() == [3, 3, 3, 0, 2, 1, 2, 0, 3]


async def test_totals_stay_when_sessions_are_removed(store: Store, take_call: Callable[..., Any]) -> None:
    await take_call(MIDNIGHT, 5.0)
    before = await store.counts()
    assert (await store.history.prune(MIDNIGHT * 2, 0.0, 10)).sessions == 1
    assert await store.history.usage("acme", DAY, DAY, MIDNIGHT) == (DayUsage(DAY, "support.acme", 1, 5.0),)
    assert (await store.counts()).over == before.over


async def test_calls_that_go_on_are_never_removed(
    store: Store,
    new_call: NewCall,
    many_slots: SlotLimits,
    browser_options: SessionOptions,
    hung_up: SessionResult,
) -> None:
    running, pending, ending = new_call(), new_call(), new_call()
    await store.admit(running, many_slots, 1000.0)
    await store.create_pending(pending, browser_options, 1000.0, 1300.0)
    await store.admit(ending, many_slots, 1000.0)
    await store.begin_end(ending.session_id, hung_up)
    assert await store.history.prune(1e9, 0.0, 10) == Removed(0, 0, 0)
    assert (await store.sessions())[1] == 3


async def test_a_session_that_ends_late_in_the_past_goes_all_the_same(
    store: Store, take_call: Callable[..., Any]
) -> None:
    """A clock was set back, or an instance was free long after the end."""
    await take_call(3000.0)
    await remove_once(store.history, 1, 0, lambda: 5000.0 + DAY_S)
    late = await take_call(1000.0)
    await remove_once(store.history, 1, 0, lambda: 5000.0 + DAY_S)
    assert await store.session(late) is None


async def test_nothing_is_removed_unless_it_is_asked_for(store: Store, take_call: Callable[..., Any]) -> None:
    await take_call(1000.0)
    await store.history.record_call(a_call())
    assert await remove_once(store.history, 0, 0, lambda: 1e9) == Removed(0, 0, 0)
    assert (await store.sessions())[1] == 1


async def test_a_round_goes_on_until_nothing_old_is_left(
    store: Store, take_call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.retention.ROWS_A_STEP", 2)
    monkeypatch.setattr("gateway.store.retention.STEP_PAUSE_S", 0)
    for number in range(5):
        await take_call(1000.0 + number)
        await store.history.record_call(a_call(at=1000.0 + number))
    removed = await remove_once(store.history, 1, 1, lambda: 5000.0 + DAY_S)
    assert removed == Removed(5, 5, 5)
    assert (await store.sessions())[1] == 0


def a_call(**fields: Any) -> ManagementCall:
    described: dict[str, Any] = {
        "at": 1000.0,
        "organization": "acme",
        "key_id": "sk-1",
        "method": "DELETE",
        "path": "/v1/agents/support",
        "status": 200,
        "request_id": "r1",
        "peer": "192.0.2.7",
    }
    return ManagementCall(**described | fields)


async def test_management_calls_are_listed_newest_first_to_their_organization(
    open_worker: OpenWorker,
) -> None:
    east, west = await open_worker(), await open_worker()
    for number in range(4):
        await east.history.record_call(a_call(at=1000.0 + number, request_id=f"r{number}"))
    await west.history.record_call(a_call(organization="globex", at=1001.5))
    found, total = await west.history.management_calls("acme", 1001.0, 1003.0, limit=10, offset=0)
    assert ([call.request_id for call in found], total) == (["r2", "r1"], 2)
    found, total = await west.history.management_calls("acme", 0.0, 9e9, limit=2, offset=1)
    assert ([call.request_id for call in found], total) == (["r2", "r1"], 4)
    assert found[1] == a_call(at=1001.0, request_id="r1")


async def test_old_management_calls_are_removed(store: Store) -> None:
    for at in (1000.0, 1001.0, 2000.0):
        await store.history.record_call(a_call(at=at))
    assert await store.history.prune(0.0, 1500.0, 1) == Removed(0, 0, 1)
    assert await store.history.prune(0.0, 1500.0, 5) == Removed(0, 0, 1)
    assert (await store.history.management_calls("acme", 0.0, 9e9, limit=9, offset=0))[1] == 1
