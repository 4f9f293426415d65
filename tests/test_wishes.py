# SPDX-License-Identifier: BSD-2-Clause
"""What is wished of a call, from any worker to the one that carries it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.calls.command_bus import CallCommand, CommandBus
from gateway.simulator.waiting import WAIT_S
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId

SESSION = "7c9e6679-7425-40de-944b-e07fc1f90ae7"


class Worker:
    """A worker that carries some sessions, and what it heard of them."""

    def __init__(self, store: SqliteStore) -> None:
        self.carries: set[str] = set()
        self.heard: list[tuple[str, CallCommand]] = []
        self.commands = CommandBus(store.documents, time.time)
        self.commands.connect(self._hear)

    def _hear(self, session_id: str, wish: CallCommand) -> bool:
        if session_id not in self.carries:
            return False
        self.heard.append((session_id, wish))
        return True


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who carries the session hears of a wish, however slow the machine is."""
    monkeypatch.setattr("gateway.calls.command_bus.HEARD_S", WAIT_S)


@pytest.fixture
async def workers(tmp_path: Path) -> AsyncIterator[list[Worker]]:
    stores = [
        SqliteStore(tmp_path / "patchbay.db", WorkerId.of_this_process(name)) for name in ("one", "two")
    ]
    for store in stores:
        await store.open()
    yield [Worker(store) for store in stores]
    for store in stores:
        await store.close()


async def test_a_wish_is_heard_at_once_where_it_is_told(workers: list[Worker]) -> None:
    workers[0].carries.add(SESSION)
    assert await workers[0].commands.tell(SESSION, CallCommand.HANG_UP)
    assert workers[0].heard == [(SESSION, CallCommand.HANG_UP)]


async def test_a_wish_is_heard_once_by_the_worker_that_carries_the_session(workers: list[Worker]) -> None:
    one, two = workers
    two.carries.add(SESSION)
    telling = asyncio.create_task(one.commands.tell(SESSION, CallCommand.TRANSFER))
    while not two.heard:
        await two.commands.look()
        await one.commands.look()
    assert await telling
    await two.commands.look()
    assert (one.heard, two.heard) == ([], [(SESSION, CallCommand.TRANSFER)])


async def test_wishes_follow_each_other(workers: list[Worker]) -> None:
    one, two = workers
    two.carries.add(SESSION)
    for wish in (CallCommand.TRANSFER, CallCommand.NOTHING, CallCommand.TRANSFER, CallCommand.TRANSFERRED):
        telling = asyncio.create_task(one.commands.tell(SESSION, wish))
        while not telling.done():
            await two.commands.look()
        assert telling.result()
    assert [wish for _, wish in two.heard] == [
        CallCommand.TRANSFER,
        CallCommand.NOTHING,
        CallCommand.TRANSFER,
        CallCommand.TRANSFERRED,
    ]


async def test_a_wish_that_nobody_can_hear(workers: list[Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.calls.command_bus.HEARD_S", 0.05)
    assert not await workers[0].commands.tell(SESSION, CallCommand.HANG_UP)
