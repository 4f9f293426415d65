# SPDX-License-Identifier: BSD-2-Clause
"""The rule of admission: which instance takes the next session. Pure; a store applies it atomically."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.model.session import SlotLimits


class AtCapacity(Exception):  # noqa: N818 - the answer "no", not a fault
    """No place is free. `taken`: the agent's active sessions; `limit`: its places. The store is unchanged.

    `taken` may be below `limit`: the places left are on instances that are not offered, or it may be above,
    when the configuration shrank while calls ran.
    """

    def __init__(self, taken: int, limit: int) -> None:
        super().__init__(f"{taken} of {limit} places taken")
        self.taken = taken
        self.limit = limit


class Queued(AtCapacity):
    """No place is free for it yet: it stands in the agent's line, and is to ask again.

    `number`: its own, greater than those of all that came before it.
    """

    def __init__(self, taken: int, limit: int, number: int) -> None:
        super().__init__(taken, limit)
        self.number = number


def choose_instance(places: SlotLimits, loads: Mapping[str, int], waiting: int = 0) -> str:
    """The instance for the agent's next session; raises AtCapacity if there is none.

    `waiting`: calls that were there before this one: the next place is theirs.

    `loads`: the agent's active sessions by instance, of every instance in use, also of those not offered now:
    they are running, so they count among `max_instances`. Among instances with room the lowest rank comes
    first, then the least loaded, then the order given.
    """
    if waiting or (places.reserved and places.limit - sum(loads.values()) <= places.reserved):
        raise AtCapacity(sum(loads.values()), places.limit)
    may_open = len(loads) < places.max_instances
    best: tuple[int, int] | None = None
    chosen = ""
    for instance, rank in places.instances:
        load = loads.get(instance, 0)
        has_room = load < places.per_instance if load else may_open
        if has_room and (best is None or (rank, load) < best):
            best, chosen = (rank, load), instance
    if best is None:
        raise AtCapacity(sum(loads.values()), places.limit)
    return chosen
