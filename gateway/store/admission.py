# SPDX-License-Identifier: BSD-2-Clause
"""The rule of admission: which instance takes the next session. Pure; a store applies it atomically."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.model.session import SlotLimits


class AtCapacity(Exception):  # noqa: N818 - the answer "no", not a fault
    """No slot is free; the store is unchanged.

    `in_use`: the agent's active sessions. `limit`: its slots. `in_use` may be below `limit`, when the free
    slots are reserved or on instances that are not offered now; and above it, when the configuration shrank
    while calls ran.
    """

    def __init__(self, in_use: int, limit: int) -> None:
        super().__init__(f"{in_use} of {limit} slots in use")
        self.in_use = in_use
        self.limit = limit


class Queued(AtCapacity):
    """No slot is free, and the session is now in its agent's queue; the caller shall ask again.

    `number`: the session's number in the queue, greater than those of all sessions before it.
    """

    def __init__(self, in_use: int, limit: int, number: int) -> None:
        super().__init__(in_use, limit)
        self.number = number


def choose_instance(limits: SlotLimits, loads: Mapping[str, int], queued_before: int = 0) -> str:
    """Return the URL of the instance for the agent's next session. Raises AtCapacity if there is none.

    `loads`: the agent's active sessions by instance, of every instance in use. Instances that are not offered
    now are included, because their running sessions count towards `max_instances`.
    `queued_before`: the number of queued calls that are to get a slot first.

    Among the instances with room the lowest rank wins, then the lowest load, then the given order.
    """
    in_use = sum(loads.values())
    if queued_before or (limits.reserved and limits.limit - in_use <= limits.reserved):
        raise AtCapacity(in_use, limits.limit)
    may_open = len(loads) < limits.max_instances
    best: tuple[int, int] | None = None
    chosen = ""
    for instance, rank in limits.instances:
        load = loads.get(instance, 0)
        has_room = load < limits.per_instance if load else may_open
        if has_room and (best is None or (rank, load) < best):
            best, chosen = (rank, load), instance
    if best is None:
        raise AtCapacity(in_use, limits.limit)
    return chosen
