# SPDX-License-Identifier: BSD-2-Clause
"""Calls that wait for a slot in one worker: their order, and when they ask for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gateway.calls import call_queue
from gateway.calls.call_queue import CallQueues
from gateway.store import notifications
from gateway.store.interface import NotPending, Queued, StoreFailed
from gateway.store.notifications import Notifications, Topic

WAIT_S = 60.0


class Silent:
    """A transport without other workers."""

    def listen(self, *, urgent: bool) -> None:
        pass

    def pause(self) -> None:
        pass

    def send(self, topic: Topic, key: str) -> None:
        pass


class Agent:
    """An agent whose slots go to the calls in the order in which they ask."""

    def __init__(self) -> None:
        self.notifications = Notifications(Silent())
        self.queues = CallQueues(self.notifications, ask_s=0.0)
        self.free = 0
        self.admitted: list[int] = []
        self.asked: list[int] = []
        self.store_fails = False

    def _acquire(self, number: int) -> Callable[[], Any]:
        async def acquire() -> str:
            self.asked.append(number)
            if self.store_fails:
                raise StoreFailed("the disk is gone")
            if not self.free:
                raise Queued(1, 1, number)
            self.free -= 1
            self.admitted.append(number)
            return "http://a:8080"

        return acquire

    def call(self, number: int, timeout_s: float = WAIT_S) -> asyncio.Task[str]:
        return asyncio.create_task(self.queues.wait("support.acme", number, self._acquire(number), timeout_s))

    def frees(self, slots: int) -> None:
        self.free += slots
        self.notifications.publish(Topic.SLOT_FREED, "another session")

    async def is_asked(self, *numbers: int) -> None:
        async with asyncio.timeout(WAIT_S):
            while self.asked != list(numbers):
                await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def only_notifications(monkeypatch: pytest.MonkeyPatch) -> None:
    """No wait returns by itself."""
    monkeypatch.setattr(call_queue, "INSTANCE_RECHECK_S", 3600.0)
    monkeypatch.setattr(notifications, "RECHECK_S", 3600.0)


@pytest.fixture
def agent() -> Agent:
    return Agent()


async def test_only_the_first_asks_and_by_number(agent: Agent) -> None:
    calls = [agent.call(7)]
    await agent.is_asked(7)
    calls += [agent.call(5), agent.call(6)]
    await agent.is_asked(7, 5)
    assert agent.queues.waiting == 3
    agent.frees(0)
    await agent.is_asked(7, 5, 5)
    agent.frees(3)
    await asyncio.gather(*calls)
    assert agent.admitted == [5, 6, 7]
    assert agent.queues.waiting == 0


async def test_a_caller_who_hangs_up_lets_the_next_one_ask(agent: Agent) -> None:
    first, second = agent.call(1), agent.call(2)
    await agent.is_asked(1)
    first.cancel()
    await agent.is_asked(1, 2)
    agent.frees(1)
    assert await second == "http://a:8080"
    assert agent.admitted == [2]


async def test_calls_of_another_agent_do_not_wait_behind(agent: Agent) -> None:
    first = agent.call(1)
    await agent.is_asked(1)
    agent.frees(2)
    assert await agent.queues.wait("sales.acme", 2, agent._acquire(2), WAIT_S) == "http://a:8080"
    await first


async def test_a_slot_that_nobody_notifies_is_found(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance became ready again: nothing was written to the store."""
    monkeypatch.setattr(call_queue, "INSTANCE_RECHECK_S", 0.001)
    call = agent.call(1)
    await agent.is_asked(1)
    agent.free = 1
    assert await call == "http://a:8080"


async def test_a_call_does_not_wait_for_ever(agent: Agent) -> None:
    with pytest.raises(TimeoutError):
        await agent.call(1, timeout_s=0.01)
    assert agent.queues.waiting == 0


async def test_a_store_that_fails_is_asked_again(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "RETRY_S", 0.0)
    agent.store_fails = True
    call = agent.call(2)
    async with asyncio.timeout(WAIT_S):
        while len(agent.asked) < 3:
            await asyncio.sleep(0)
    agent.store_fails, agent.free = False, 1
    assert await call == "http://a:8080"


async def test_a_session_that_was_stopped_ends_the_wait(agent: Agent) -> None:
    async def acquire() -> str:
        raise NotPending("it was stopped")

    with pytest.raises(NotPending):
        await agent.queues.wait("support.acme", 1, acquire, WAIT_S)
    assert agent.queues.waiting == 0
