# SPDX-License-Identifier: BSD-2-Clause
"""The numbers of the pool: how many instances an agent needs, who starts one, which one stops. Pure.

Each node's manager looks at the same table and decides what it does itself:

    needed   max(min_agents, in use + spare), at most max_agents; spare is the agent's `buffer`, or as many as
             callers wait for, if that is more
    start    what is missing, each on the node with the fewest; a node that cannot start the agent has no part
    retire   take off the list: what is too many for `cooldown`, runs by settings of before, or is worn

What was taken off the list, and has no session, is stopped.

The states of an instance; each change is one write, by its own node's manager alone:

    starting → ready → leaving → closing → (no row)
    starting → closing: it ended, was not ready in time, or is not needed and has no session
    ready → closing: it ended
    closing → leaving or starting: a session was on it after all

`starting` and `ready` are listed, and calls take slots on them; one that got a slot on a starting instance
waits until that is ready. A row is a place of the agent, of which there are `max_agents`: it goes when
nothing of the instance runs any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil

from gateway.config import AgentSettings


class InstanceState(StrEnum):
    """The state of a started instance; the words are in the store."""

    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"
    CLOSING = "closing"

    @property
    def is_listed(self) -> bool:
        """Whether calls take slots on it."""
        return self in (InstanceState.STARTING, InstanceState.READY)


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """The limits of an agent's pool, by its settings. `buffer`: None for as many as are in use.

    `reserved`: slots that some sessions leave free for others. `recycle_above_bytes`,
    `recycle_after_sessions`: 0 for never.
    """

    min_instances: int = 0
    max_instances: int = 50
    buffer: int | None = None
    per_instance: int = 1
    reserved: int = 0
    cooldown_s: float = 300.0
    recycle_after_sessions: int = 0
    recycle_above_bytes: int = 0

    @classmethod
    def of(cls, agent: AgentSettings) -> PoolLimits:
        """Return the limits of an agent."""
        return cls(
            min_instances=agent.min_agents,
            max_instances=agent.max_agents,
            buffer=agent.buffer,
            per_instance=agent.sessions_per_instance,
            reserved=max(agent.reserve_inbound, agent.reserve_outbound),
            cooldown_s=agent.cooldown,
            recycle_after_sessions=agent.recycle_after_sessions,
            recycle_above_bytes=agent.recycle_above_mb * 1_000_000,
        )


@dataclass(frozen=True, slots=True)
class PoolInstance:
    """An instance of the agent, on whichever node. `sessions`: that it has now, by the store.

    `is_current`: it runs by the agent's settings as they are. The rest is known of a node's own instances
    alone: `idle_s`: seconds without a session; `served`: sessions that it has had, the present ones
    included; `memory_bytes`.
    """

    place: int
    node: str
    state: InstanceState
    sessions: int = 0
    is_current: bool = True
    idle_s: float = 0.0
    served: int = 0
    memory_bytes: int = 0

    @property
    def is_listed(self) -> bool:
        """Whether calls take slots on it."""
        return self.state.is_listed


@dataclass(frozen=True, slots=True)
class Plan:
    """The next steps of a node's manager. `needed`: instances in all, on all nodes, those in use included.

    `start`: how many it starts. `retire`: places of its own instances that leave the list.
    """

    needed: int
    start: int = 0
    retire: tuple[int, ...] = ()


def needed_instances(limits: PoolLimits, instances: Iterable[PoolInstance], waiting: int) -> int:
    """Return how many instances the agent needs, those in use included, whether they are listed or not.

    `waiting`: callers that found no slot.
    """
    in_use = [each for each in instances if each.sessions]
    buffer = len(in_use) if limits.buffer is None else limits.buffer
    if waiting:
        free = sum(max(0, limits.per_instance - each.sessions) for each in in_use if each.is_listed)
        missing = max(0, waiting + limits.reserved - free)
        buffer = max(buffer, ceil(missing / limits.per_instance))
    return min(max(limits.min_instances, len(in_use) + buffer), limits.max_instances)


def make_plan(
    limits: PoolLimits, instances: Sequence[PoolInstance], waiting: int, able: Iterable[str], own: str
) -> Plan:
    """Return what the node `own` does for the agent now. `able`: the nodes that can start its instances.

    `instances`: of all nodes that live.
    """
    needed = needed_instances(limits, instances, waiting)
    listed = [each for each in instances if each.is_listed]
    # Those that leave and have sessions are among the needed ones.
    needed_listed = max(0, needed - sum(1 for each in instances if each.sessions and not each.is_listed))
    fresh = [each for each in listed if each.is_current]
    missing = max(0, min(needed_listed - len(fresh), limits.max_instances - len(instances)))
    retired = {
        *_outdated(limits, instances, needed_listed),
        *_worn(limits, instances, own),
        *_surplus(limits, fresh, needed_listed, own),
    }
    return Plan(
        needed,
        start=_share(missing, instances, able, own),
        retire=tuple(sorted(each.place for each in retired if each.node == own)),
    )


def _outdated(limits: PoolLimits, instances: Sequence[PoolInstance], needed: int) -> Iterable[PoolInstance]:
    """Yield what runs by settings of before, and makes room now.

    One in use gets no other session. One without is there until another is ready in its place, or while
    there is no room for that.
    """
    outdated = [each for each in instances if each.is_listed and not each.is_current]
    yield from (each for each in outdated if each.sessions)
    idle = sorted((each for each in outdated if not each.sessions), key=lambda each: -each.place)
    ready = sum(1 for each in instances if each.state is InstanceState.READY and each.is_current)
    stay = max(0, needed - ready)
    if stay and len(instances) >= limits.max_instances and all(each.is_listed for each in instances):
        stay = min(stay, len(idle) - 1)  # no room for another: one after the other
    yield from idle[: max(0, len(idle) - stay)]


def _worn(limits: PoolLimits, instances: Sequence[PoolInstance], own: str) -> Iterable[PoolInstance]:
    """Yield the node's own instances that have had their share of sessions, or use too much memory.

    The first kind leaves at once, as its last session runs. The other leaves without a session, one at a
    time, so that not all are started again together.
    """
    owned = [each for each in instances if each.node == own]
    if after := limits.recycle_after_sessions:
        yield from (each for each in owned if _is_ready(each) and each.served >= after)
    if above := limits.recycle_above_bytes:
        is_settled = all(each.state is not InstanceState.STARTING and each.is_listed for each in owned)
        large = [each for each in owned if each.state is InstanceState.READY and each.memory_bytes > above]
        idle = [each for each in large if not each.sessions]
        if is_settled and idle:
            yield max(idle, key=lambda each: each.memory_bytes)


def _surplus(
    limits: PoolLimits, fresh: Sequence[PoolInstance], needed: int, own: str
) -> Iterable[PoolInstance]:
    """Yield the node's own instances that are too many.

    All nodes see the same order: the last places go first. Callers get the first ones, so these are idle for
    longest.
    """
    too_many = len(fresh) - needed
    idle = sorted((each for each in fresh if not each.sessions), key=lambda each: -each.place)
    beyond_limit = len(fresh) - limits.max_instances
    for number, each in enumerate(idle[: max(0, too_many)]):
        is_over = number < beyond_limit
        if each.node == own and (is_over or (_is_ready(each) and each.idle_s >= limits.cooldown_s)):
            yield each


def _is_ready(instance: PoolInstance) -> bool:
    return instance.state is InstanceState.READY


def _share(missing: int, instances: Iterable[PoolInstance], able: Iterable[str], own: str) -> int:
    """Return how many of the missing instances the node starts: each goes where the fewest are."""
    load = Counter(each.node for each in instances)
    nodes = sorted(able)
    share = 0
    for _ in range(missing if own in nodes else 0):
        chosen = min(nodes, key=lambda node: (load[node], node))
        load[chosen] += 1
        share += chosen == own
    return share


FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 300.0
"""Seconds without a new start after a failure, at first and at most: it doubles with each."""

STEADY_S = 60.0
"""Seconds that an instance must have been ready for, or a session that it must have had, to end a row of
failures."""


def pause_s(failures: int) -> float:
    """Return the seconds until the next start after so many failures in a row; at least 1."""
    return min(FIRST_PAUSE_S * 2.0 ** min(failures - 1, 30), LONGEST_PAUSE_S)
