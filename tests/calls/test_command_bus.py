# SPDX-License-Identifier: BSD-2-Clause
"""Commands for a call, from any worker to the one that owns its session."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.calls.command_bus import CallCommand, CommandBus
from gateway.model.lifecycle import SessionState
from gateway.model.reasons import Party
from gateway.model.session import CallDetails, SessionResult, SlotLimits, Traffic
from gateway.simulator.waiting import WAIT_S
from gateway.store.notifications import Topic
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId

SESSION = "7c9e6679-7425-40de-944b-e07fc1f90ae7"


class Worker:
    """A worker that owns some sessions, and the commands that were delivered for them."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.owned: set[str] = set()
        self.delivered: list[tuple[str, CallCommand]] = []
        self.commands = CommandBus(store, time.time)
        self.commands.connect(self._deliver)
        self._notifications = store.notifications

    def _deliver(self, session_id: str, command: CallCommand) -> bool:
        if session_id not in self.owned:
            return False
        self.delivered.append((session_id, command))
        return True

    async def follow(self) -> None:
        """Poll after every notification, as StoreWatcher does."""
        with self._notifications.subscribe(Topic.COMMAND_SENT) as subscription:
            while True:
                await subscription.wait()
                await self.commands.poll()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner acknowledges a command in time, however slow the machine is."""
    monkeypatch.setattr("gateway.calls.command_bus.ACKNOWLEDGE_S", WAIT_S)


@pytest.fixture
async def workers(tmp_path: Path) -> AsyncIterator[list[Worker]]:
    stores = [
        SqliteStore(tmp_path / "patchbay.db", WorkerId.of_this_process(name)) for name in ("one", "two")
    ]
    for store in stores:
        await store.open()
    workers = [Worker(store) for store in stores]
    following = [asyncio.create_task(worker.follow()) for worker in workers]
    yield workers
    for task in following:
        task.cancel()
    await asyncio.wait(following)
    for store in stores:
        await store.close()


async def test_a_command_is_delivered_at_once_in_the_worker_that_owns_the_session(
    workers: list[Worker],
) -> None:
    workers[0].owned.add(SESSION)
    assert await workers[0].commands.send(SESSION, CallCommand.HANG_UP)
    assert workers[0].delivered == [(SESSION, CallCommand.HANG_UP)]


async def test_a_command_is_delivered_once_to_the_worker_that_owns_the_session(workers: list[Worker]) -> None:
    one, two = workers
    two.owned.add(SESSION)
    assert await one.commands.send(SESSION, CallCommand.TRANSFER)
    await two.commands.poll()
    assert (one.delivered, two.delivered) == ([], [(SESSION, CallCommand.TRANSFER)])


async def test_commands_are_delivered_in_order(workers: list[Worker]) -> None:
    one, two = workers
    two.owned.add(SESSION)
    commands = [CallCommand.TRANSFER, CallCommand.REVOKED, CallCommand.TRANSFER, CallCommand.TRANSFERRED]
    for command in commands:
        assert await one.commands.send(SESSION, command)
    assert [command for _, command in two.delivered] == commands


async def test_a_command_reaches_a_worker_that_gets_the_session_meanwhile(workers: list[Worker]) -> None:
    one, two = workers
    sending = asyncio.create_task(one.commands.send(SESSION, CallCommand.CANCEL))
    while not await one.commands._values.list("call_wish", time.time()):
        await asyncio.sleep(0)
    two.owned.add(SESSION)
    await two.commands.poll()
    assert await sending


@pytest.mark.parametrize("command", [CallCommand.HANG_UP, CallCommand.REPORT])
async def test_a_call_that_is_over_gets_no_command_and_nobody_waits_for_it(
    workers: list[Worker], monkeypatch: pytest.MonkeyPatch, command: CallCommand
) -> None:
    """It may end between the look at its record and the command."""

    async def wait_for_ever(*_: object) -> bool:
        await asyncio.Event().wait()
        return True

    store = workers[0].store
    call = CallDetails(SESSION, "support.acme", "acme", "us-west", "twilio", "CA1", "MZ1", None, None)
    await store.admit(call, SlotLimits((("http://127.0.0.1:8080", 0),), 1, 1), 1000.0)
    hung_up = SessionResult(
        SessionState.ENDED, 1060.0, "caller_hangup", Party.CALLER, "", 1000, Traffic(), None
    )
    await store.end(SESSION, hung_up)
    monkeypatch.setattr(workers[1].commands, "_send_by_store", wait_for_ever)
    async with asyncio.timeout(WAIT_S):
        assert not await workers[1].commands.send(SESSION, command)
        assert await workers[1].commands.ask(SESSION, command, WAIT_S) is None


async def test_a_command_that_no_worker_can_take_is_withdrawn(
    workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.calls.command_bus.ACKNOWLEDGE_S", 0.05)
    one, two = workers
    assert not await one.commands.send(SESSION, CallCommand.HANG_UP)
    two.owned.add(SESSION)
    await two.commands.poll()
    assert two.delivered == []


def test_the_stored_values_do_not_change() -> None:
    """Workers of two releases read each other's commands while one replaces the other."""
    assert [command.value for command in CallCommand] == [
        "nothing",
        "give_up",
        "hang_up",
        "machine",
        "transfer",
        "transferred",
        "over",
        "wait_to_hang_up",
        "wait_to_transfer",
        "hold",
        "resume",
        "report",
        "check_carrier",
    ]
