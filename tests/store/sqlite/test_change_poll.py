# SPDX-License-Identifier: BSD-2-Clause
"""The poll for changes of the SQLite file: one for all subscribers of a worker, and none without any."""

from __future__ import annotations

import asyncio

import pytest

from gateway.store import notifications
from gateway.store.interface import StoreFailed
from gateway.store.notifications import Subscription, Topic
from gateway.store.sqlite import change_poll
from gateway.store.sqlite.change_poll import ChangePoll

BOUND_S = 30.0


class File:
    """The version of a file that other workers write to."""

    def __init__(self) -> None:
        self.version = 1
        self.reads = 0
        self.failing = False
        self.was_read = asyncio.Event()

    async def read_version(self) -> int:
        self.reads += 1
        self.was_read.set()
        if self.failing:
            raise StoreFailed("the disk is gone")
        return self.version

    async def is_read(self, times: int = 1) -> None:
        async with asyncio.timeout(BOUND_S):
            for _ in range(times):
                self.was_read.clear()
                await self.was_read.wait()


@pytest.fixture
def file(monkeypatch: pytest.MonkeyPatch) -> File:
    monkeypatch.setattr(notifications, "RECHECK_S", 3600.0)
    monkeypatch.setattr(change_poll, "POLL_S", 0.001)
    return File()


async def is_notified(subscription: Subscription) -> None:
    async with asyncio.timeout(BOUND_S):
        assert await subscription.wait()


async def test_every_subscriber_is_notified_of_a_change(file: File) -> None:
    poll = ChangePoll(file.read_version)
    subscriptions = [poll.notifications.subscribe(topic, key="one") for topic in Topic]
    await file.is_read(2)
    for subscription in subscriptions:
        await is_notified(subscription)
        assert not await subscription.wait(0), "nothing has changed"
    file.version += 1
    for subscription in subscriptions:
        await is_notified(subscription)
        subscription.close()


async def test_subscribers_share_one_poll_and_the_last_one_ends_it(file: File) -> None:
    poll = ChangePoll(file.read_version)
    assert poll._task is None
    subscriptions = [poll.notifications.subscribe(Topic.SLOT_FREED) for _ in range(100)]
    task = poll._task
    assert task is not None
    await file.is_read()
    for subscription in subscriptions[1:]:
        subscription.close()
    await file.is_read()
    assert poll._task is task
    subscriptions[0].close()
    await asyncio.wait([task])
    reads = file.reads
    with poll.notifications.subscribe(Topic.SLOT_FREED) as again:
        await file.is_read()
        await is_notified(again)
    assert file.reads > reads


async def test_an_urgent_subscriber_does_not_wait_for_the_next_poll(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_poll, "POLL_S", 3600.0)
    monkeypatch.setattr(change_poll, "URGENT_POLL_S", 0.001)
    poll = ChangePoll(file.read_version)
    with poll.notifications.subscribe(Topic.STOP_REQUESTED) as patient:
        await file.is_read()
        await is_notified(patient)
        with (
            poll.notifications.subscribe(Topic.COMMAND_ACKNOWLEDGED, urgent=True) as urgent,
            poll.notifications.subscribe(Topic.COMMAND_ACKNOWLEDGED, urgent=True),
        ):
            await is_notified(urgent)
            file.version += 1
            await is_notified(urgent)
        assert poll._poll_s == 3600.0


async def test_the_poll_survives_a_store_that_does_not_answer(file: File) -> None:
    poll = ChangePoll(file.read_version)
    with poll.notifications.subscribe(Topic.STOP_REQUESTED) as subscription:
        await is_notified(subscription)
        file.failing = True
        await file.is_read(3)
        assert await subscription.wait(0) in (True, False)
        file.version += 1
        file.failing = False
        await is_notified(subscription)
