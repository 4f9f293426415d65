# SPDX-License-Identifier: BSD-2-Clause
"""The call log: statuses that are reported in any order and any number of times."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.carriers.call_log import CallLog, CallState, CallStatus
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId

SESSION = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
S = CallStatus


@pytest.fixture
async def call_log(tmp_path: Path) -> AsyncIterator[CallLog]:
    store = SqliteStore(tmp_path / "patchbay.db", WorkerId.of_this_process("worker"))
    await store.open()
    yield CallLog(store, lambda: 1000.0)
    await store.close()


async def test_a_call_without_stored_details_has_an_empty_state(call_log: CallLog) -> None:
    assert await call_log.of(SESSION) == CallState(SESSION)
    assert await call_log.session_of("twilio", "CA7") is None


async def test_stored_details_are_found_by_session_and_by_call_id(call_log: CallLog) -> None:
    await call_log.record_details(SESSION, carrier="twilio", account="AC1")
    await call_log.record_details(SESSION, carrier="twilio", call_id="CA7")
    assert await call_log.of(SESSION) == CallState(SESSION, "twilio", "AC1", "CA7")
    assert await call_log.session_of("twilio", "CA7") == SESSION
    assert await call_log.session_of("plivo", "CA7") is None


async def test_a_session_is_not_another_one_with_a_longer_id(call_log: CallLog) -> None:
    await call_log.record_details(f"{SESSION}0", carrier="twilio", call_id="CA8")
    assert (await call_log.of(SESSION)).call_id is None


async def test_a_call_rises_from_status_to_status(call_log: CallLog) -> None:
    for at, status in enumerate((S.DIALING, S.QUEUED, S.RINGING, S.ANSWERED, S.COMPLETED)):
        assert await call_log.record_status(SESSION, status, at, 100.0 + at)
        state = await call_log.of(SESSION)
        assert (state.status, state.status_at) == (status, 100.0 + at)
    assert (await call_log.of(SESSION)).answered_at == 103.0


@pytest.mark.parametrize("order", list(itertools.permutations((S.RINGING, S.ANSWERED, S.COMPLETED))))
async def test_in_any_order_of_callbacks_the_highest_status_counts(
    call_log: CallLog, order: tuple[CallStatus, ...]
) -> None:
    furthest = -1
    for status in order:
        changes = list(CallStatus).index(status) > furthest
        assert await call_log.record_status(SESSION, status, 1, 100.0) is changes
        furthest = max(furthest, list(CallStatus).index(status))
    assert (await call_log.of(SESSION)).status is S.COMPLETED


async def test_a_repeated_status_changes_nothing(call_log: CallLog) -> None:
    assert await call_log.record_status(SESSION, S.RINGING, 1, 100.0)
    assert not await call_log.record_status(SESSION, S.RINGING, 1, 105.0)
    assert (await call_log.of(SESSION)).status_at == 100.0


async def test_the_first_final_status_counts(call_log: CallLog) -> None:
    assert await call_log.record_status(SESSION, S.BUSY, None, 100.0, detail="USER_BUSY")
    assert not await call_log.record_status(SESSION, S.COMPLETED, None, 101.0)
    state = await call_log.of(SESSION)
    assert (state.status, state.detail) == (S.BUSY, "USER_BUSY")


async def test_of_many_workers_that_record_a_status_one_changes_it(call_log: CallLog) -> None:
    answers = await asyncio.gather(
        *(call_log.record_status(SESSION, S.COMPLETED, 1, 100.0) for _ in range(20))
    )
    assert sum(answers) == 1


@pytest.mark.parametrize("status", CallStatus)
def test_a_final_status_is_final(status: CallStatus) -> None:
    assert status.final is (status in (S.COMPLETED, S.BUSY, S.NO_ANSWER, S.FAILED, S.CANCELED))
    assert status.answered is (status in (S.ANSWERED, S.MACHINE, S.COMPLETED))
