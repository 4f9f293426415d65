# SPDX-License-Identifier: BSD-2-Clause
"""What carriers say of a call, in whatever order and however often they say it."""

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
async def book(tmp_path: Path) -> AsyncIterator[CallLog]:
    store = SqliteStore(tmp_path / "patchbay.db", WorkerId.of_this_process("worker"))
    await store.open()
    yield CallLog(store, lambda: 1000.0)
    await store.close()


async def test_nothing_is_known_of_a_call_that_nobody_noted(book: CallLog) -> None:
    assert await book.of(SESSION) == CallState(SESSION)
    assert await book.session_of("twilio", "CA7") is None


async def test_what_is_noted_is_found_by_session_and_by_call_id(book: CallLog) -> None:
    await book.record_details(SESSION, carrier="twilio", account="AC1")
    await book.record_details(SESSION, carrier="twilio", call_id="CA7")
    assert await book.of(SESSION) == CallState(SESSION, "twilio", "AC1", "CA7")
    assert await book.session_of("twilio", "CA7") == SESSION
    assert await book.session_of("plivo", "CA7") is None


async def test_a_session_is_not_another_one_with_a_longer_id(book: CallLog) -> None:
    await book.record_details(f"{SESSION}0", carrier="twilio", call_id="CA8")
    assert (await book.of(SESSION)).call_id is None


async def test_a_call_goes_on_step_by_step(book: CallLog) -> None:
    for at, status in enumerate((S.DIALING, S.QUEUED, S.RINGING, S.ANSWERED, S.COMPLETED)):
        assert await book.record_status(SESSION, status, at, 100.0 + at)
        state = await book.of(SESSION)
        assert (state.status, state.status_at) == (status, 100.0 + at)
    assert (await book.of(SESSION)).answered_at == 103.0


@pytest.mark.parametrize("order", list(itertools.permutations((S.RINGING, S.ANSWERED, S.COMPLETED))))
async def test_in_whatever_order_it_is_told_the_last_step_stands(
    book: CallLog, order: tuple[CallStatus, ...]
) -> None:
    furthest = -1
    for status in order:
        changes = list(CallStatus).index(status) > furthest
        assert await book.record_status(SESSION, status, 1, 100.0) is changes
        furthest = max(furthest, list(CallStatus).index(status))
    assert (await book.of(SESSION)).status is S.COMPLETED


async def test_what_is_told_twice_changes_nothing(book: CallLog) -> None:
    assert await book.record_status(SESSION, S.RINGING, 1, 100.0)
    assert not await book.record_status(SESSION, S.RINGING, 1, 105.0)
    assert (await book.of(SESSION)).status_at == 100.0


async def test_the_first_end_is_believed(book: CallLog) -> None:
    assert await book.record_status(SESSION, S.BUSY, None, 100.0, detail="USER_BUSY")
    assert not await book.record_status(SESSION, S.COMPLETED, None, 101.0)
    state = await book.of(SESSION)
    assert (state.status, state.detail) == (S.BUSY, "USER_BUSY")


async def test_of_many_workers_that_hear_it_one_moves_it(book: CallLog) -> None:
    answers = await asyncio.gather(*(book.record_status(SESSION, S.COMPLETED, 1, 100.0) for _ in range(20)))
    assert sum(answers) == 1


@pytest.mark.parametrize("status", CallStatus)
def test_what_is_over_is_over(status: CallStatus) -> None:
    assert status.final is (status in (S.COMPLETED, S.BUSY, S.NO_ANSWER, S.FAILED, S.CANCELED))
    assert status.answered is (status in (S.ANSWERED, S.MACHINE, S.COMPLETED))
