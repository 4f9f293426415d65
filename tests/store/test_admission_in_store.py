# SPDX-License-Identifier: BSD-2-Clause
"""Every store chooses as the one rule of admission says, whatever agents look like."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from gateway.model.session import CallDetails, SessionResult, SlotLimits
from gateway.store.admission import AtCapacity, choose_instance
from gateway.store.interface import Store

NewCall = Callable[..., CallDetails]


@pytest.mark.parametrize("seed", range(12))
async def test_calls_come_and_go_as_the_rule_says(
    store: Store, new_call: NewCall, hung_up: SessionResult, seed: int
) -> None:
    """Instances of several ranks, some that are not offered any more, and slots to be left free."""
    chance = random.Random(seed)
    await store.heartbeat(1000.0)
    instances = [f"http://127.0.0.1:{8000 + n}" for n in range(6)]
    running: dict[str, str] = {}
    for step in range(40):
        if running and chance.random() < 0.3:
            ended = chance.choice(list(running))
            await store.end(ended, hung_up)
            del running[ended]
            continue
        offered = chance.sample(instances, chance.randint(0, 6))
        limits = SlotLimits(
            tuple((each, chance.randint(0, 2)) for each in offered),
            per_instance=chance.randint(1, 3),
            max_instances=chance.randint(1, 7),
            reserved=chance.choice((0, 0, 1, 2)),
        )
        call = new_call()
        try:
            expected: str | tuple[int, int] = choose_instance(limits, Counter(running.values()))
        except AtCapacity as full:
            expected = full.in_use, full.limit
        try:
            found: str | tuple[int, int] = await store.admit(call, limits, 1000.0 + step)
            running[call.session_id] = str(found)
        except AtCapacity as full:
            found = full.in_use, full.limit
        assert found == expected, (step, limits)


async def test_the_only_free_instance_of_many_is_found(
    store: Store, new_call: NewCall, hung_up: SessionResult
) -> None:
    """A pool of bots with one session each has as many instances as calls."""
    await store.heartbeat(1000.0)
    every = tuple((f"http://127.0.0.1:{n}", 0) for n in range(1100))
    free, most = every[950], SlotLimits(every, per_instance=1, max_instances=1100)
    calls = [new_call() for _ in range(60)]
    for call in calls:
        await store.admit(call, most, 1000.0)
    others = replace(most, instances=(*every[:60], free, *every[:2]))
    assert await store.admit(new_call(), others, 1001.0) == free[0]
    with pytest.raises(AtCapacity, match="61 of 61"):
        await store.admit(new_call(), others, 1002.0)
    await store.end(calls[7].session_id, hung_up)
    assert await store.admit(new_call(), others, 1003.0) == every[7][0]


async def test_the_first_of_the_next_page_of_instances_is_found(store: Store, new_call: NewCall) -> None:
    await store.heartbeat(1000.0)
    taken = tuple((f"http://127.0.0.1:{n}", 0) for n in range(3))
    for _ in taken:
        await store.admit(new_call(), SlotLimits(taken, 1, 9), 1000.0)
    full = SlotLimits(taken * 300, per_instance=1, max_instances=9)
    with pytest.raises(AtCapacity, match="3 of 3"):
        await store.admit(new_call(), full, 1001.0)
    one_more = replace(full, instances=(*full.instances, ("http://127.0.0.1:9", 0)))
    assert await store.admit(new_call(), one_more, 1002.0) == "http://127.0.0.1:9"
