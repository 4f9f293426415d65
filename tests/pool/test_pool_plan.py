# SPDX-License-Identifier: BSD-2-Clause
"""The numbers of the pool: what is started, taken off the list and stopped, given who calls."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config import AgentSettings
from gateway.pool.pool_plan import (
    LONGEST_PAUSE_S,
    InstanceState,
    Plan,
    PoolInstance,
    PoolLimits,
    make_plan,
    needed_instances,
    pause_s,
)

STARTING, READY = InstanceState.STARTING, InstanceState.READY
LEAVING, CLOSING = InstanceState.LEAVING, InstanceState.CLOSING
LONG = 1e6


def at(place: int, state: InstanceState = READY, node: str = "a", **known: Any) -> PoolInstance:
    return PoolInstance(place, node, state, **known)


def busy(place: int, state: InstanceState = READY, **known: Any) -> PoolInstance:
    return at(place, state, sessions=known.pop("sessions", 1), **known)


def plan(
    limits: PoolLimits, *instances: PoolInstance, waiting: int = 0, able: str = "a", own: str = "a"
) -> Plan:
    return make_plan(limits, instances, waiting, list(able), own)


@pytest.mark.parametrize(
    ("limits", "in_use", "waiting", "needed"),
    [
        (PoolLimits(), 0, 0, 0),
        (PoolLimits(min_instances=2), 0, 0, 2),
        (PoolLimits(min_instances=10), 1, 0, 10),
        (PoolLimits(min_instances=1), 10, 0, 20),
        (PoolLimits(min_instances=1, buffer=0), 10, 0, 10),
        (PoolLimits(min_instances=1, buffer=3), 10, 0, 13),
        (PoolLimits(buffer=3), 0, 0, 3),
        (PoolLimits(buffer=0), 0, 1, 1),
        (PoolLimits(buffer=0), 2, 3, 5),
        (PoolLimits(buffer=4), 2, 3, 6),
        (PoolLimits(buffer=0, reserved=2), 1, 1, 4),
        (PoolLimits(buffer=0, max_instances=4), 3, 9, 4),
        (PoolLimits(min_instances=4, max_instances=4), 0, 0, 4),
    ],
)
def test_as_many_instances_are_needed(limits: PoolLimits, in_use: int, waiting: int, needed: int) -> None:
    assert needed_instances(limits, [busy(place) for place in range(in_use)], waiting) == needed


def test_free_slots_of_instances_in_use_are_counted_for_those_who_wait() -> None:
    limits = PoolLimits(buffer=0, per_instance=4)
    assert needed_instances(limits, [busy(0, sessions=2)], waiting=2) == 1
    assert needed_instances(limits, [busy(0, sessions=2)], waiting=3) == 2
    assert needed_instances(limits, [busy(0, sessions=4)], waiting=5) == 3


def test_the_settings_of_an_agent_become_limits() -> None:
    agent = AgentSettings(
        name="support",
        organization="acme",
        command=["bot", "{port}"],
        min_agents=1,
        max_agents=7,
        buffer=2,
        reserve_inbound=1,
        reserve_outbound=3,
        recycle_above_mb=500,
    )
    assert PoolLimits.of(agent) == PoolLimits(1, 7, 2, 1, 3, 300.0, 0, 500_000_000)


def test_what_is_missing_is_started() -> None:
    assert plan(PoolLimits(min_instances=2)) == Plan(2, start=2)
    assert plan(PoolLimits(min_instances=2), at(0, STARTING)) == Plan(2, start=1)
    assert plan(PoolLimits(min_instances=2), at(0, STARTING), at(1)) == Plan(2)


def test_a_caller_who_waits_gets_an_instance_if_there_is_room_for_it() -> None:
    limits = PoolLimits(buffer=0, max_instances=2)
    assert plan(limits, waiting=1).start == 1
    assert plan(limits, busy(0), waiting=1).start == 1
    assert plan(limits, busy(0), busy(1), waiting=1).start == 0
    assert plan(limits, busy(0), busy(1, CLOSING), waiting=1).start == 0, "its place is not free yet"


def test_instances_that_leave_hold_their_places() -> None:
    limits = PoolLimits(min_instances=2, max_instances=3, buffer=0)
    assert plan(limits, at(0, LEAVING), at(1, CLOSING)).start == 1
    assert plan(limits, at(0, LEAVING), at(1, CLOSING), at(2)).start == 0


def test_an_instance_that_leaves_and_is_in_use_is_one_of_those_needed() -> None:
    limits = PoolLimits(min_instances=2, buffer=0)
    assert plan(limits, busy(0, LEAVING)) == Plan(2, start=1)
    assert plan(PoolLimits(buffer=None), busy(0, LEAVING)) == Plan(2, start=1)


def test_idle_instances_stop_after_the_cooldown_and_the_last_places_first() -> None:
    limits = PoolLimits(min_instances=1, buffer=0, cooldown_s=300)
    idle = [at(place, idle_s=301.0) for place in range(3)]
    assert plan(limits, *idle).retire == (1, 2)
    assert plan(limits, *(at(place, idle_s=299.0) for place in range(3))).retire == ()
    assert plan(limits, at(0, idle_s=LONG), at(1, idle_s=0.0)).retire == ()


def test_an_agent_without_callers_has_no_instances_in_the_end() -> None:
    limits = PoolLimits()
    assert plan(limits, at(0, idle_s=299.9)).retire == ()
    assert plan(limits, at(0, idle_s=300.0)).retire == (0,)


def test_instances_in_use_or_starting_are_not_too_many() -> None:
    limits = PoolLimits(buffer=0)
    assert plan(limits, busy(0), at(1, STARTING, idle_s=LONG)).retire == ()


def test_what_is_beyond_the_limit_stops_at_once_but_for_what_is_in_use() -> None:
    limits = PoolLimits(max_instances=1, buffer=0)
    assert plan(limits, busy(0), at(1), at(2, STARTING)).retire == (1, 2)
    assert plan(limits, busy(0), busy(1)) == Plan(1)


def test_each_node_starts_its_share() -> None:
    limits = PoolLimits(min_instances=5)
    assert [plan(limits, able="abc", own=node).start for node in "abc"] == [2, 2, 1]
    already = [at(0, node="a"), at(1, node="a"), at(2, node="b")]
    assert [plan(limits, *already, able="abc", own=node).start for node in "abc"] == [0, 1, 1]
    assert [plan(limits, *already, able="ab", own=node).start for node in "abc"] == [1, 1, 0]


def test_shares_are_all_of_what_is_missing() -> None:
    for missing in range(12):
        shares = [plan(PoolLimits(min_instances=missing), able="abc", own=node).start for node in "abc"]
        assert sum(shares) == missing
        assert max(shares) - min(shares) <= 1


def test_nodes_stop_no_more_than_what_is_too_many() -> None:
    limits = PoolLimits(min_instances=1, buffer=0)
    instances = [at(0, node="a", idle_s=LONG), at(1, node="b", idle_s=LONG), at(2, node="a", idle_s=LONG)]
    assert plan(limits, *instances, able="ab", own="a").retire == (2,)
    assert plan(limits, *instances, able="ab", own="b").retire == (1,)


def test_a_new_instance_is_ready_before_one_of_former_settings_goes() -> None:
    limits = PoolLimits(min_instances=1, buffer=0)
    old = at(0, is_current=False)
    assert plan(limits, old) == Plan(1, start=1)
    assert plan(limits, old, at(1, STARTING)) == Plan(1)
    assert plan(limits, old, at(1)) == Plan(1, retire=(0,))


def test_instances_of_former_settings_make_room_one_after_the_other_where_there_is_none() -> None:
    limits = PoolLimits(min_instances=2, max_instances=2, buffer=0)
    assert plan(limits, at(0, is_current=False), at(1, is_current=False)) == Plan(2, retire=(1,))
    assert plan(limits, at(0, is_current=False), at(1, LEAVING)) == Plan(2)
    assert plan(limits, at(0, is_current=False)) == Plan(2, start=1)
    assert plan(limits, at(0, is_current=False), at(1, STARTING)) == Plan(2, retire=(0,))


def test_an_instance_of_former_settings_takes_no_other_session() -> None:
    limits = PoolLimits(buffer=0)
    assert plan(limits, busy(0, is_current=False)).retire == (0,)
    assert plan(limits, at(0, is_current=False)).retire == (0,), "nobody needs it"


def test_an_instance_leaves_as_its_last_session_runs() -> None:
    limits = PoolLimits(min_instances=1, buffer=0, recycle_after_sessions=3)
    assert plan(limits, busy(0, served=2)).retire == ()
    assert plan(limits, busy(0, served=3)).retire == (0,)
    assert plan(limits, busy(0, LEAVING, served=3)) == Plan(1)


def test_an_instance_that_uses_too_much_memory_leaves_between_two_sessions() -> None:
    limits = PoolLimits(min_instances=2, buffer=0, recycle_above_bytes=100)
    assert plan(limits, busy(0, memory_bytes=101), at(1)).retire == ()
    assert plan(limits, at(0, memory_bytes=101), at(1)).retire == (0,)
    assert plan(limits, at(0, memory_bytes=100), at(1)).retire == ()


def test_large_instances_are_replaced_one_at_a_time() -> None:
    limits = PoolLimits(min_instances=2, buffer=0, recycle_above_bytes=100)
    assert plan(limits, at(0, memory_bytes=101), at(1, memory_bytes=102)).retire == (1,)
    assert plan(limits, at(0, memory_bytes=101), at(1, LEAVING)).retire == ()
    assert plan(limits, at(0, memory_bytes=101), at(1, STARTING)).retire == ()


def test_another_nodes_instances_are_its_own_affair() -> None:
    limits = PoolLimits(recycle_after_sessions=1)
    other = [at(0, node="b", served=9, idle_s=LONG), at(1, LEAVING, node="b")]
    assert plan(limits, *other, able="ab", own="a") == Plan(0)


def test_failures_are_followed_by_longer_and_longer_pauses() -> None:
    assert [pause_s(failures) for failures in (1, 2, 3, 4)] == [1.0, 2.0, 4.0, 8.0]
    assert pause_s(1000) == LONGEST_PAUSE_S


def test_an_instance_that_is_being_started_does_not_leave_for_the_session_that_waits_for_it() -> None:
    limits = PoolLimits(min_instances=1, buffer=0, recycle_after_sessions=1)
    assert plan(limits, busy(0, STARTING, served=1)).retire == ()
