# SPDX-License-Identifier: BSD-2-Clause
"""Stop requests and changed agents, from any worker, reach the workers that have to act."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.calls.store_watcher import StoreWatcher
from gateway.model.lifecycle import SessionState
from gateway.model.reasons import CallEnded, Party, Reasons
from gateway.model.session import CallDetails, SessionResult, SlotLimits, Traffic
from gateway.store.interface import StoreFailed
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId

SLOTS = SlotLimits((("http://127.0.0.1:8080", 0),), per_instance=100, max_instances=1)
WAIT_S = 60.0
STOPPED = SessionResult(
    state=SessionState.ENDED,
    ended_at=1010.0,
    reason="stopped",
    side=Party.GATEWAY,
    detail="",
    close_code=1000,
    traffic=Traffic(),
    first_agent_sound_at=None,
)


def call(session_id: str) -> CallDetails:
    return CallDetails(session_id, "support.acme", "acme", "us-west", "twilio", None, None, None, None)


class OwnCalls:
    """The calls of a worker; those that it carries end when they are stopped."""

    def __init__(self) -> None:
        self.carried: set[str] = set()
        self.ended: list[tuple[str, str]] = []
        self.asked: list[str] = []
        self.refreshed = 0
        self.something = asyncio.Event()
        self.on_refresh: Callable[[], Awaitable[None]] | None = None

    def end_session(self, session_id: str, end: CallEnded) -> bool:
        self.asked.append(session_id)
        self.something.set()
        if session_id not in self.carried:
            return False
        self.ended.append((session_id, end.reason.code))
        return True

    async def refresh(self) -> None:
        self.refreshed += 1
        self.something.set()
        if self.on_refresh is not None:
            await self.on_refresh()

    async def until(self, happened: Callable[[], Any]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not happened():
                self.something.clear()
                await self.something.wait()


@pytest.fixture
def calls() -> OwnCalls:
    return OwnCalls()


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[tuple[SqliteStore, SqliteStore]]:
    """The store as two workers have it: one file."""
    pair = tuple(
        SqliteStore(tmp_path / "patchbay.db", WorkerId.of_this_process(name)) for name in ("east", "west")
    )
    for store in pair:
        await store.open()
    yield pair[0], pair[1]
    for store in pair:
        await store.close()


@pytest.fixture
async def watching(
    stores: tuple[SqliteStore, SqliteStore], calls: OwnCalls
) -> AsyncIterator[Callable[..., StoreWatcher]]:
    """Start a watcher of the first worker's sessions; none outlives the test."""
    started: list[StoreWatcher] = []

    def start(store: Any = None, **times: float) -> StoreWatcher:
        times = {"refresh_s": 0.0} | times
        started.append(StoreWatcher(store or stores[0], calls.end_session, calls.refresh, **times))
        started[-1].start()
        return started[-1]

    yield start
    for watch in started:
        await watch.stop()


async def test_a_session_is_stopped_from_another_worker(
    stores: tuple[SqliteStore, SqliteStore], calls: OwnCalls, watching: Callable[..., StoreWatcher]
) -> None:
    east, west = stores
    for name in ("one", "two"):
        await east.admit(call(name), SLOTS, 1000.0)
        calls.carried.add(name)
    watching()
    assert await west.request_stop("two", 1001.0)
    await calls.until(lambda: calls.ended)
    assert calls.ended == [("two", Reasons.stopped.code)]


async def test_a_session_is_stopped_from_its_own_worker(
    stores: tuple[SqliteStore, SqliteStore], calls: OwnCalls, watching: Callable[..., StoreWatcher]
) -> None:
    east, _ = stores
    await east.admit(call("one"), SLOTS, 1000.0)
    calls.carried.add("one")
    watching()
    await calls.until(lambda: calls.refreshed)  # it has looked, and found nothing
    assert await east.request_stop("one", 1001.0)
    await calls.until(lambda: calls.ended)


async def test_a_session_is_stopped_once_however_long_it_takes_to_end(
    stores: tuple[SqliteStore, SqliteStore], calls: OwnCalls, watching: Callable[..., StoreWatcher]
) -> None:
    east, west = stores
    for name in ("one", "two"):
        await east.admit(call(name), SLOTS, 1000.0)
        calls.carried.add(name)
    await west.request_stop("one", 1001.0)
    watching()
    await calls.until(lambda: calls.ended)
    await west.request_stop("two", 1002.0)
    await calls.until(lambda: len(calls.ended) == 2)
    assert [name for name, _ in calls.ended] == ["one", "two"]


async def test_a_session_that_has_not_begun_here_yet_is_stopped_later(
    stores: tuple[SqliteStore, SqliteStore], calls: OwnCalls, watching: Callable[..., StoreWatcher]
) -> None:
    east, _ = stores
    await east.admit(call("one"), SLOTS, 1000.0)
    await east.request_stop("one", 1001.0)
    watching()
    await calls.until(lambda: len(calls.asked) > 1)
    calls.carried.add("one")
    await calls.until(lambda: calls.ended)


async def test_a_session_that_is_over_is_stopped_no_more(
    stores: tuple[SqliteStore, SqliteStore], calls: OwnCalls, watching: Callable[..., StoreWatcher]
) -> None:
    east, west = stores
    await east.admit(call("one"), SLOTS, 1000.0)
    await east.request_stop("one", 1001.0)
    watching()
    await calls.until(lambda: calls.asked)
    await east.end("one", STOPPED)
    await east.admit(call("two"), SLOTS, 1002.0)
    calls.carried.add("two")
    await west.request_stop("two", 1003.0)
    await calls.until(lambda: calls.ended)
    asked = calls.asked.count("one")
    before = calls.refreshed
    await west.heartbeat(1004.0)
    await calls.until(lambda: calls.refreshed > before)
    assert calls.asked.count("one") == asked


async def test_the_agents_are_read_again_after_a_change(
    stores: tuple[SqliteStore, SqliteStore], calls: OwnCalls, watching: Callable[..., StoreWatcher]
) -> None:
    _, west = stores
    watching()
    await calls.until(lambda: calls.refreshed == 1)  # at the beginning
    await west.key_values.put("agent", "support.acme", "{}", now=1000.0)
    await calls.until(lambda: calls.refreshed == 2)


async def test_changes_in_a_row_are_one_refresh(
    stores: tuple[SqliteStore, SqliteStore], calls: OwnCalls, watching: Callable[..., StoreWatcher]
) -> None:
    east, west = stores
    await east.admit(call("one"), SLOTS, 1000.0)
    calls.carried.add("one")
    watching(refresh_s=3600.0)
    await calls.until(lambda: calls.refreshed)
    for each in range(5):
        await west.key_values.put("agent", f"agent{each}.acme", "{}", now=1000.0)
    await west.request_stop("one", 1001.0)
    await calls.until(lambda: calls.ended)  # so those changes were seen
    assert calls.refreshed == 1


class Failing:
    """A store that does not answer for a while."""

    def __init__(self, store: SqliteStore, *failures: str) -> None:
        self._store = store
        self._failures = list(failures)

    def __getattr__(self, name: str) -> Any:
        if name in self._failures:
            self._failures.remove(name)

            async def fail() -> None:
                raise StoreFailed("the disk is gone")

            return fail
        return getattr(self._store, name)


async def test_a_stop_is_not_lost_while_the_store_does_not_answer(
    stores: tuple[SqliteStore, SqliteStore], calls: OwnCalls, watching: Callable[..., StoreWatcher]
) -> None:
    east, _ = stores
    await east.admit(call("one"), SLOTS, 1000.0)
    await east.request_stop("one", 1001.0)
    calls.carried.add("one")
    watching(Failing(east, "stop_requests", "stop_requests"))
    await calls.until(lambda: calls.ended)


@pytest.mark.parametrize("failure", [StoreFailed("the disk is gone"), RuntimeError("a mistake")])
async def test_a_refresh_that_failed_is_tried_again(
    failure: Exception, calls: OwnCalls, watching: Callable[..., StoreWatcher]
) -> None:
    async def fail_once() -> None:
        calls.on_refresh = None
        raise failure

    calls.on_refresh = fail_once
    watching()
    await calls.until(lambda: calls.refreshed == 2)


async def test_it_stops_in_the_middle_of_a_refresh(
    calls: OwnCalls, watching: Callable[..., StoreWatcher]
) -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    calls.on_refresh = hang
    watch = watching()
    await calls.until(lambda: calls.refreshed)
    async with asyncio.timeout(WAIT_S):
        await watch.stop()
    await watch.stop()  # a second time is as good
