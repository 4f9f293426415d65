# SPDX-License-Identifier: BSD-2-Clause
"""A worker hears of the topics that somebody in it waits for, and of no others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from gateway.model.session import CallDetails, SessionResult, SlotLimits
from gateway.simulator.waiting import WAIT_S, eventually
from gateway.store.notifications import Topic
from gateway.store.redis import redis_keys as keys
from tests.harness.redis_server import RedisServer

OpenNode = Callable[..., Any]
NewCall = Callable[..., CallDetails]


def heard(server: RedisServer) -> set[str]:
    """Return the topics that some worker hears of."""
    prefix = f"{keys.EVENTS}:0:"
    return {word.removeprefix(prefix) for word in server.ask("PUBSUB CHANNELS").split() if prefix in word}


async def test_what_nobody_waits_for_is_not_heard(server: RedisServer, open_node: OpenNode) -> None:
    one, other = await open_node(), await open_node()
    with one.notifications.subscribe(Topic.STOP_REQUESTED) as stops:
        await stops.wait()
        await eventually(lambda: heard(server) == {"stop_requested"}, "the first topic is heard")
        with other.notifications.subscribe(Topic.SLOT_FREED, Topic.SESSION_ENDED):
            await eventually(lambda: len(heard(server)) == 3, "three topics are heard")
        await eventually(lambda: heard(server) == {"stop_requested"}, "two topics are not heard any more")


async def test_a_topic_that_is_new_to_a_worker_is_heard_and_looked_at_once(
    server: RedisServer, open_node: OpenNode
) -> None:
    one, other = await open_node(), await open_node()
    with one.notifications.subscribe(Topic.STOP_REQUESTED) as stops:
        await stops.wait()
        await eventually(lambda: heard(server) == {"stop_requested"}, "the first topic is heard")
        with one.notifications.subscribe(Topic.SESSION_CHANGED, key="call-1") as changes:
            await changes.wait()
            # Between that look at the store and the confirmation something may have happened.
            async with asyncio.timeout(WAIT_S):
                assert await changes.wait()
            other.notifications.publish(Topic.SESSION_CHANGED, "call-2")
            other.notifications.publish(Topic.SESSION_CHANGED, "call-1")
            async with asyncio.timeout(WAIT_S):
                assert await changes.wait()
        other.notifications.publish(Topic.SESSION_CHANGED, "call-3")
        await eventually(lambda: heard(server) == {"stop_requested"}, "what came for nobody ends it")
        other.notifications.publish(Topic.STOP_REQUESTED, "call-1")
        async with asyncio.timeout(WAIT_S):
            assert await stops.wait()


async def test_all_topics_are_heard_again_over_a_new_connection(
    server: RedisServer,
    open_node: OpenNode,
    new_call: NewCall,
    many_slots: SlotLimits,
    hung_up: SessionResult,
) -> None:
    one, other = await open_node(), await open_node()
    call = new_call()
    await other.admit(call, many_slots, 1000.0)
    with (
        one.notifications.subscribe(Topic.STOP_REQUESTED) as stops,
        one.notifications.subscribe(Topic.SESSION_ENDED) as ends,
    ):
        for each in (stops, ends):
            await each.wait()
        await eventually(lambda: len(heard(server)) == 2, "both topics are heard")
        for each in (stops, ends):
            await each.wait()
        server.ask("CLIENT KILL TYPE pubsub")
        for each in (stops, ends):
            async with asyncio.timeout(WAIT_S):
                assert await each.wait()
        await eventually(lambda: len(heard(server)) == 2, "both topics are heard again")
        await other.end(call.session_id, hung_up)
        async with asyncio.timeout(WAIT_S):
            assert await ends.wait()
