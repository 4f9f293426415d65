# SPDX-License-Identifier: BSD-2-Clause
"""Waiting for sessions to be over: one look for all, at once where the end is told, never for nobody."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.calls.session_events import SessionEvents, session_events
from gateway.model.lifecycle import SessionState
from gateway.model.reasons import Party
from gateway.model.session import CallDetails, SessionResult, SlotLimits, Traffic
from gateway.store.interface import StoreFailed
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId

PATIENCE_S = 20.0
PLACES = SlotLimits((("http://127.0.0.1:8080", 0),), per_instance=1000, max_instances=1)
HUNG_UP = SessionResult(SessionState.ENDED, 1010.0, "caller_hangup", Party.CALLER, "", 1000, Traffic(), None)


def call(session_id: str) -> CallDetails:
    return CallDetails(session_id, "support.acme", "acme", "us-west", "twilio", None, None, None, None)


class Counting:
    """A store that counts what it is asked, and answers no `failures` questions at first."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.counted = 0
        self.looked_at: list[str] = []
        self.failures = 0
        self.asked = asyncio.Event()
        self.looked = asyncio.Event()

    async def counts(self) -> Any:
        self.counted += 1
        self.asked.set()
        if self.failures:
            self.failures -= 1
            raise StoreFailed("the disk is gone")
        return await self._store.counts()

    async def session(self, session_id: str) -> Any:
        self.looked_at.append(session_id)
        self.looked.set()
        return await self._store.session(session_id)

    async def is_asked_again(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            for _ in range(2):
                self.asked.clear()
                await self.asked.wait()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "patchbay.db", WorkerId.of_this_process("worker"))
    await opened.open()
    for name in ("one", "two"):
        await opened.admit(call(name), PLACES, 1000.0)
    yield opened
    await opened.close()


@pytest.fixture
def counting(store: SqliteStore) -> Counting:
    return Counting(store)


async def over(future: asyncio.Future[None]) -> None:
    await asyncio.wait_for(asyncio.shield(future), PATIENCE_S)


async def test_an_end_that_is_told_is_known_at_once(store: SqliteStore) -> None:
    watch = SessionEvents(store, poll_s=3600.0)
    with watch.waiting("one") as first, watch.waiting("one") as second, watch.waiting("two") as other:
        store.ended("one", HUNG_UP)
        watch.ended("one")
        assert first.done()
        assert second.done()
        assert not other.done()
        record = await store.session("one")
        assert record is not None
        assert record.ended_at == HUNG_UP.ended_at
        watch.ended("one")  # whoever was told may still be there
    watch.ended("one")


async def test_an_end_that_nobody_tells_is_seen(store: SqliteStore) -> None:
    watch = SessionEvents(store, poll_s=0.005)
    with watch.waiting("one") as one, watch.waiting("two") as two:
        await store.ended("two", HUNG_UP)
        await over(two)
        assert not one.done()


async def test_what_was_over_before_is_seen(store: SqliteStore) -> None:
    await store.ended("one", HUNG_UP)
    watch = SessionEvents(store, poll_s=3600.0)
    with watch.waiting("one") as one:
        await over(one)


async def test_many_share_one_look(counting: Counting) -> None:
    watch = SessionEvents(counting, poll_s=3600.0)  # type: ignore[arg-type]
    waits = [watch.waiting("one") for _ in range(100)]
    for wait in waits:
        wait.__enter__()
    assert watch.waiters == 100
    async with asyncio.timeout(PATIENCE_S):
        await counting.looked.wait()
    assert (counting.counted, counting.looked_at) == (1, ["one"])
    for wait in waits:
        wait.__exit__(None, None, None)
    assert watch.waiters == 0


async def test_sessions_are_looked_at_only_when_one_has_ended(store: SqliteStore, counting: Counting) -> None:
    watch = SessionEvents(counting, poll_s=0.005)  # type: ignore[arg-type]
    with watch.waiting("one") as one:
        await counting.is_asked_again()
        assert counting.looked_at == ["one"]
        await counting.is_asked_again()
        assert counting.looked_at == ["one"]
        await store.ended("two", HUNG_UP)
        await counting.is_asked_again()
        await counting.is_asked_again()
        assert counting.looked_at == ["one", "one"]
        assert not one.done()


async def test_nobody_is_asked_for_nobody(counting: Counting) -> None:
    watch = SessionEvents(counting, poll_s=0.0)  # type: ignore[arg-type]
    assert counting.counted == 0
    for _ in range(2):
        with watch.waiting("one"):
            await counting.is_asked_again()
        before = counting.counted
        for _ in range(50):
            await asyncio.sleep(0)
        assert counting.counted == before


async def test_a_store_that_does_not_answer_for_a_while_is_asked_again(
    store: SqliteStore, counting: Counting
) -> None:
    counting.failures = 3
    await store.ended("one", HUNG_UP)
    watch = SessionEvents(counting, poll_s=0.005)  # type: ignore[arg-type]
    with watch.waiting("one") as one:
        await over(one)
    assert counting.failures == 0


async def test_a_store_has_one_watch_which_does_not_keep_it(store: SqliteStore, tmp_path: Path) -> None:
    assert session_events(store) is session_events(store)
    other = SqliteStore(tmp_path / "other.db", WorkerId.of_this_process("worker"))
    assert session_events(other) is not session_events(store)
    kept = weakref.ref(other)
    del other
    gc.collect()
    assert kept() is None
