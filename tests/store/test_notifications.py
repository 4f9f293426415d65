# SPDX-License-Identifier: BSD-2-Clause
"""Notifications: what a worker's subscribers learn of its own writes and of other workers'."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.model.session import CallDetails, QueueLimit, SessionOptions, SessionResult, SlotLimits
from gateway.store import notifications
from gateway.store.interface import Queued, Store
from gateway.store.notifications import Notifications, Subscription, Topic
from tests.store.conformance import PATIENT_S

NewCall = Callable[..., CallDetails]
OpenWorker = Callable[..., Any]

FIRST, SECOND = (f"http://127.0.0.1:808{number}" for number in range(2))
UNATTACHED = {"call_id": None, "stream_id": None}


@pytest.fixture(autouse=True)
def only_notifications(monkeypatch: pytest.MonkeyPatch) -> None:
    """No wait returns by itself."""
    monkeypatch.setattr(notifications, "RECHECK_S", 3600.0)


async def is_notified(subscription: Subscription) -> None:
    async with asyncio.timeout(PATIENT_S):
        assert await subscription.wait()


def slots(*instances: str, queue: QueueLimit | None = None) -> SlotLimits:
    """One slot on each instance."""
    return SlotLimits(tuple((each, 0) for each in instances), 1, 9, queue=queue)


class Life:
    """One call after the other through the store of a worker, step by step."""

    def __init__(self, store: Store, new_call: NewCall, hung_up: SessionResult) -> None:
        self.store = store
        self.call = new_call(**UNATTACHED)
        self.queued = new_call()
        self.hung_up = hung_up

    async def admitted(self) -> None:
        await self.store.admit(self.call, slots(FIRST, SECOND), 1000.0)

    async def queues(self) -> None:
        with pytest.raises(Queued):
            await self.store.admit(self.queued, slots(FIRST, queue=QueueLimit(3, 1040.0)), 1000.0)

    async def leaves_queue(self) -> None:
        await self.store.leave_queue(self.queued.session_id)

    async def attached(self) -> None:
        await self.store.attach_stream(self.call, 1001.0)

    async def runs(self) -> None:
        await self.store.mark_running(self.call.session_id, 1001.0)

    async def moves(self) -> None:
        await self.store.move(self.call.session_id, slots(SECOND))

    async def stop_requested(self) -> None:
        assert await self.store.request_stop(self.call.session_id, 1002.0)

    async def ends(self) -> None:
        await self.store.end(self.call.session_id, self.hung_up)

    async def ends_unattached(self) -> None:
        assert await self.store.end_if_unattached(self.call.session_id, self.hung_up)


STEPS: dict[str, tuple[tuple[Callable[[Life], Awaitable[None]], ...], tuple[Topic, ...]]] = {
    "admitted": ((Life.admitted,), (Topic.SESSION_CHANGED,)),
    "attached": ((Life.admitted, Life.attached), (Topic.SESSION_CHANGED,)),
    "runs": ((Life.admitted, Life.runs), (Topic.SESSION_CHANGED,)),
    "moves": ((Life.admitted, Life.moves), (Topic.SLOT_FREED,)),
    "leaves the queue": ((Life.admitted, Life.queues, Life.leaves_queue), (Topic.SLOT_FREED,)),
    "is to stop": ((Life.admitted, Life.stop_requested), (Topic.STOP_REQUESTED,)),
    "ends": ((Life.admitted, Life.ends), (Topic.SESSION_ENDED, Topic.SESSION_CHANGED, Topic.SLOT_FREED)),
    "ends without a stream": (
        (Life.admitted, Life.ends_unattached),
        (Topic.SESSION_ENDED, Topic.SESSION_CHANGED, Topic.SLOT_FREED),
    ),
}


@pytest.mark.parametrize("other_worker", [False, True], ids=["own", "other"])
@pytest.mark.parametrize("step", STEPS)
async def test_a_step_is_notified_to_every_worker(
    open_worker: OpenWorker, new_call: NewCall, hung_up: SessionResult, step: str, other_worker: bool
) -> None:
    store = await open_worker()
    subscriber = await open_worker() if other_worker else store
    (*before, last), topics = STEPS[step]
    life = Life(store, new_call, hung_up)
    for earlier in before:
        await earlier(life)
    for topic in topics:
        with subscriber.notifications.subscribe(topic) as subscription:
            await is_notified(subscription)  # the first wait returns at once
    subscriptions = [subscriber.notifications.subscribe(topic) for topic in topics]
    for subscription in subscriptions:
        await is_notified(subscription)
    await last(life)
    for subscription in subscriptions:
        await is_notified(subscription)
        subscription.close()


async def test_a_pending_session_that_is_stopped_has_ended(
    open_worker: OpenWorker, new_call: NewCall
) -> None:
    store = await open_worker()
    pending = new_call()
    await store.create_pending(pending, SessionOptions("websocket"), 1000.0, 1300.0)
    with store.notifications.subscribe(Topic.SESSION_ENDED) as subscription:
        await is_notified(subscription)
        assert await store.request_stop(pending.session_id, 1001.0)
        await is_notified(subscription)


@pytest.mark.parametrize("topic", Topic)
async def test_what_is_published_reaches_every_worker_that_looks_then(
    open_worker: OpenWorker, topic: Topic
) -> None:
    """What is published was written before: to the store, which other workers read."""
    east, west = await open_worker(), await open_worker()
    with east.notifications.subscribe(topic) as near, west.notifications.subscribe(topic) as far:
        await is_notified(near)
        await is_notified(far)
        await east.key_values.put("kind", topic.value, "1", now=1000.0)
        east.notifications.publish(topic, "key")
        await is_notified(near)
        await is_notified(far)
        assert await west.key_values.get("kind", topic.value, 1000.0) is not None


class Silent:
    """A transport without other workers."""

    def listen(self, *, urgent: bool) -> None:
        pass

    def pause(self) -> None:
        pass

    def send(self, topic: Topic, key: str) -> None:
        pass


@pytest.fixture
def worker() -> Notifications:
    """The notifications of a worker that is alone."""
    return Notifications(Silent())


async def test_a_subscriber_is_not_notified_of_other_topics_and_keys(
    worker: Notifications,
) -> None:
    with (
        worker.subscribe(Topic.SESSION_CHANGED, key="one") as one,
        worker.subscribe(Topic.SESSION_CHANGED) as every,
        worker.subscribe(Topic.SESSION_ENDED, Topic.SLOT_FREED) as ended,
    ):
        for subscription in (one, every, ended):
            await is_notified(subscription)
        worker.publish(Topic.SESSION_CHANGED, "two")
        assert [await each.wait(0) for each in (one, every, ended)] == [False, True, False]
        worker.publish(Topic.SESSION_CHANGED, "one")
        assert [await each.wait(0) for each in (one, every, ended)] == [True, True, False]
        worker.publish(Topic.SLOT_FREED, "two")
        assert [await each.wait(0) for each in (one, every, ended)] == [False, False, True]


async def test_notifications_before_a_wait_are_one(worker: Notifications) -> None:
    with worker.subscribe(Topic.SLOT_FREED) as subscription:
        await is_notified(subscription)
        for _ in range(3):
            worker.publish(Topic.SLOT_FREED, "one")
        assert await subscription.wait(0)
        assert not await subscription.wait(0)


async def test_a_wait_returns_without_a_notification_after_a_while(
    worker: Notifications, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notification may be lost."""
    monkeypatch.setattr(notifications, "RECHECK_S", 0.0)
    with worker.subscribe(Topic.SLOT_FREED) as subscription:
        await is_notified(subscription)
        assert not await subscription.wait()


async def test_what_failed_is_tried_again(worker: Notifications, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "RETRY_S", 0.0)
    with worker.subscribe(Topic.SLOT_FREED) as subscription:
        for _ in range(3):
            await is_notified(subscription)
            subscription.retry()
            subscription.retry()
        await is_notified(subscription)
        assert not await subscription.wait(0)


async def test_an_expensive_subscriber_is_woken_less_often(worker: Notifications) -> None:
    with (
        worker.subscribe(Topic.SLOT_FREED) as cheap,
        worker.subscribe(Topic.SLOT_FREED) as expensive,
    ):
        await is_notified(cheap)
        await is_notified(expensive)
        waiting = asyncio.create_task(expensive.wait(min_interval_s=1800.0))
        for _ in range(3):
            worker.publish(Topic.SLOT_FREED, "one")
            await is_notified(cheap)
        assert not waiting.done()
        waiting.cancel()


async def test_a_subscription_that_ended_is_not_notified(worker: Notifications) -> None:
    subscription = worker.subscribe(Topic.SLOT_FREED)
    await is_notified(subscription)
    subscription.close()
    subscription.close()
    worker.publish(Topic.SLOT_FREED, "one")
    assert not await subscription.wait(0)
    with worker.subscribe(Topic.SLOT_FREED) as later:
        await is_notified(later)
        worker.publish(Topic.SLOT_FREED, "one")
        await is_notified(later)
