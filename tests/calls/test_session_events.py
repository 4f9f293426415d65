# SPDX-License-Identifier: BSD-2-Clause
"""Waiting for sessions to end: one look at the store for all, and none while nobody waits."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.calls import session_events as module
from gateway.calls.session_events import SessionEvents, session_events
from gateway.model.lifecycle import SessionState
from gateway.model.reasons import Party
from gateway.model.session import CallDetails, SessionResult, SlotLimits, Traffic
from gateway.store import notifications
from gateway.store.interface import StoreFailed
from gateway.store.notifications import Topic
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId

WAIT_S = 30.0
SLOTS = SlotLimits((("http://127.0.0.1:8080", 0),), per_instance=1000, max_instances=1)
HUNG_UP = SessionResult(SessionState.ENDED, 1010.0, "caller_hangup", Party.CALLER, "", 1000, Traffic(), None)


def call(session_id: str) -> CallDetails:
    return CallDetails(session_id, "support.acme", "acme", "us-west", "twilio", None, None, None, None)


class Counting:
    """A store that counts how often it is read, and fails the first `failures` times."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.notifications = store.notifications
        self.counted = 0
        self.read: list[str] = []
        self.failures = 0
        self.was_counted = asyncio.Event()
        self.was_read = asyncio.Event()

    async def counts(self) -> Any:
        self.counted += 1
        self.was_counted.set()
        if self.failures:
            self.failures -= 1
            raise StoreFailed("the disk is gone")
        return await self._store.counts()

    async def session(self, session_id: str) -> Any:
        self.read.append(session_id)
        self.was_read.set()
        return await self._store.session(session_id)

    async def is_counted_again(self) -> None:
        """Something happens in the store, and it is looked at."""
        async with asyncio.timeout(WAIT_S):
            for _ in range(2):
                self.was_counted.clear()
                self.notifications.publish(Topic.SESSION_ENDED, "another")
                await self.was_counted.wait()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is looked at after every notification, and only then."""
    monkeypatch.setattr(module, "LOOK_S", 0.0)
    monkeypatch.setattr(notifications, "RECHECK_S", 3600.0)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "patchbay.db", WorkerId.of_this_process("worker"))
    await opened.open()
    for name in ("one", "two"):
        await opened.admit(call(name), SLOTS, 1000.0)
    yield opened
    await opened.close()


@pytest.fixture
def counting(store: SqliteStore) -> Counting:
    return Counting(store)


async def is_done(ended: asyncio.Future[None]) -> None:
    await asyncio.wait_for(asyncio.shield(ended), WAIT_S)


async def test_an_end_in_this_worker_is_known_before_it_is_written(store: SqliteStore) -> None:
    events = SessionEvents(store)
    with events.waiting("one") as first, events.waiting("one") as second, events.waiting("two") as other:
        store.end("one", HUNG_UP)
        events.ended("one")
        assert first.done()
        assert second.done()
        assert not other.done()
        record = await store.session("one")
        assert record is not None
        assert record.ended_at == HUNG_UP.ended_at
        events.ended("one")  # those that it was reported to may not have left yet
    events.ended("one")


async def test_an_end_that_this_worker_only_wrote_is_seen(store: SqliteStore) -> None:
    events = SessionEvents(store)
    with events.waiting("one") as one, events.waiting("two") as two:
        await store.end("two", HUNG_UP)
        await is_done(two)
        assert not one.done()


async def test_an_end_in_another_worker_is_seen(store: SqliteStore, tmp_path: Path) -> None:
    other = SqliteStore(tmp_path / "patchbay.db", WorkerId.of_this_process("other"))
    await other.open()
    events = SessionEvents(store)
    with events.waiting("one") as one, events.waiting("two") as two:
        await other.end("two", HUNG_UP)
        await is_done(two)
        assert not one.done()
    await other.close()


async def test_an_end_before_the_wait_is_seen(store: SqliteStore) -> None:
    await store.end("one", HUNG_UP)
    events = SessionEvents(store)
    with events.waiting("one") as one:
        await is_done(one)


async def test_those_that_wait_share_one_look(counting: Counting) -> None:
    events = SessionEvents(counting)  # type: ignore[arg-type]
    waits = [events.waiting("one") for _ in range(100)]
    for wait in waits:
        wait.__enter__()
    assert events.waiters == 100
    async with asyncio.timeout(WAIT_S):
        await counting.was_read.wait()
    assert counting.read == ["one"]
    for wait in waits:
        wait.__exit__(None, None, None)
    assert events.waiters == 0


async def test_sessions_are_read_only_after_one_has_ended(store: SqliteStore, counting: Counting) -> None:
    events = SessionEvents(counting)  # type: ignore[arg-type]
    with events.waiting("one") as one:
        await counting.is_counted_again()
        assert counting.read == ["one"]
        await counting.is_counted_again()
        assert counting.read == ["one"]
        await store.end("two", HUNG_UP)
        await counting.is_counted_again()
        assert counting.read == ["one", "one"]
        assert not one.done()


async def test_nothing_is_read_while_nobody_waits(counting: Counting) -> None:
    events = SessionEvents(counting)  # type: ignore[arg-type]
    assert counting.counted == 0
    for _ in range(2):
        with events.waiting("one"):
            await counting.is_counted_again()
        before = counting.counted
        for _ in range(50):
            counting.notifications.publish(Topic.SESSION_ENDED, "another")
            await asyncio.sleep(0)
        assert counting.counted == before


async def test_a_store_that_fails_for_a_while_is_read_again(
    store: SqliteStore, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "RETRY_S", 0.001)
    counting.failures = 3
    await store.end("one", HUNG_UP)
    events = SessionEvents(counting)  # type: ignore[arg-type]
    with events.waiting("one") as one:
        await is_done(one)
    assert counting.failures == 0


async def test_a_store_has_one_session_events_which_does_not_keep_it_alive(
    store: SqliteStore, tmp_path: Path
) -> None:
    assert session_events(store) is session_events(store)
    other = SqliteStore(tmp_path / "other.db", WorkerId.of_this_process("worker"))
    assert session_events(other) is not session_events(store)
    kept = weakref.ref(other)
    del other
    gc.collect()
    assert kept() is None
