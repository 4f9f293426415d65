# SPDX-License-Identifier: BSD-2-Clause
"""The keys of the store on Redis.

All have one hash tag, so they are in one slot of a cluster: an admission looks at an agent, its organization
and a session at once, and a script sees only keys of one slot. One server makes thousands of admissions a
second, far more than one gateway has calls.
"""

from __future__ import annotations

from typing import Final

from gateway.model.lifecycle import TERMINAL, SessionState

TAG: Final = "{patchbay}:"

COUNTS: Final = f"{TAG}counts"
"""Hash: the number of sessions by state."""
NUMBER: Final = f"{TAG}number"
"""The last number that a session or a queued call got."""
WORKERS: Final = f"{TAG}workers"
"""Set: ids of workers."""
EXPIRY: Final = f"{TAG}expiry"
"""Sorted set: pending sessions by `promised_until`."""
UNUSED: Final = f"{TAG}unused"
"""Sorted set: sessions that are over and never had a slot, by `promised_until`."""
OVER: Final = f"{TAG}over"
"""Sorted set: sessions that are over, by `ended_at`."""
BLANKED: Final = f"{TAG}blanked"
"""Sorted set: those of OVER whose personal fields were blanked."""
STOPS: Final = f"{TAG}stops"
"""Sorted set: sessions that are asked to stop, by number."""
ORGANIZATIONS: Final = f"{TAG}organizations"
"""Set: organizations that have had a session."""
AGENTS: Final = f"{TAG}agents"
"""Set: agents that have had a queued call."""
VALUE_EXPIRY: Final = f"{TAG}value_expiry"
"""Sorted set: values by `expires_at`; members are keys of `value`."""
VALUE: Final = f"{TAG}value:"
"""The beginning of the keys of all values."""
EVENTS: Final = f"{TAG}events"
"""The beginning of the channel of notifications; the number of the database follows."""

LIVE_SETS: Final = ("pending", "active")
LIST_SETS: Final = (*LIVE_SETS, *sorted(state.value for state in TERMINAL))
"""The sorted sets of an agent's and of an organization's sessions: each session is in one of each."""


def set_of(state: SessionState) -> str:
    """Return the name of the sorted set that has the sessions of a state."""
    if state in TERMINAL:
        return state.value
    return "pending" if state is SessionState.CREATED else "active"


def session(session_id: str) -> str:
    """Hash: the columns of a session, those that are None left out, and `_` fields of the scripts."""
    return f"{TAG}session:{session_id}"


def of_agent(agent: str, name: str) -> str:
    """Sorted set: an agent's sessions by `created_at`, in one of LIST_SETS."""
    return f"{TAG}agent:{agent}:{name}"


def of_organization(organization: str, name: str) -> str:
    """Sorted set: an organization's sessions by `created_at`, in one of LIST_SETS."""
    return f"{TAG}organization:{organization}:{name}"


def load(agent: str) -> str:
    """Hash: an agent's active sessions by instance."""
    return f"{TAG}load:{agent}"


def queue(agent: str) -> str:
    """Sorted set: an agent's queued calls by number."""
    return f"{TAG}queue:{agent}"


def queued_until(agent: str) -> str:
    """Hash: until when a queued call waits, and its worker, separated by a space."""
    return f"{TAG}queued_until:{agent}"


def pending_of_key(organization: str, key_id: str) -> str:
    """Sorted set: pending sessions of one API key by `promised_until`."""
    return f"{TAG}pending:{organization}:{key_id}"


def worker(worker_id: str) -> str:
    """Hash: a worker's host, pid, birth and heartbeats."""
    return f"{TAG}worker:{worker_id}"


def owned(worker_id: str) -> str:
    """Set: sessions that a worker has or had."""
    return f"{TAG}owned:{worker_id}"


def usage(organization: str) -> str:
    """Hash: sessions and seconds by day and agent."""
    return f"{TAG}usage:{organization}"


def management_calls(organization: str) -> str:
    """Sorted set: management calls, JSON, by time."""
    return f"{TAG}management_calls:{organization}"


def values(kind: str) -> str:
    """Sorted set: the keys of all values of a kind, all with the score 0."""
    return f"{TAG}values:{kind}"


def value(kind: str, key: str) -> str:
    """Hash: one value. No kind has a NUL in it."""
    return f"{VALUE}{kind}\0{key}"


def removal(attempt: str) -> str:
    """String, for seconds: an attempt to remove a value has removed one."""
    return f"{TAG}removal:{attempt}"


def session_keys(session_id: str, scope: tuple[str, str, str], worker_id: str) -> list[str]:
    """Return the keys of the scripts on sessions, in their order (redis_scripts.py).

    `scope`: its agent, its organization, and the API key that a pending session was made with, or "".
    """
    agent, organization, key_id = scope
    return [
        session(session_id),
        COUNTS,
        NUMBER,
        *(of_agent(agent, name) for name in LIST_SETS),
        *(of_organization(organization, name) for name in LIST_SETS),
        load(agent),
        queue(agent),
        queued_until(agent),
        owned(worker_id),
        EXPIRY,
        UNUSED,
        OVER,
        STOPS,
        usage(organization),
        worker(worker_id),
        WORKERS,
        ORGANIZATIONS,
        BLANKED,
        AGENTS,
        pending_of_key(organization, key_id),
    ]


def admission_keys(names: list[str]) -> list[str]:
    """Return, of the keys of a session, those of the script that admits a new call, in its order."""
    return [names[at] for at in (0, 1, 2, 4, 9, 13, 14, 16, 22, 24)]
