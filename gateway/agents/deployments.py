# SPDX-License-Identifier: BSD-2-Clause
"""Numbered deployments: the settings that an agent has had through the API, each good to come back to.

A change through the API makes a new deployment, and makes it the current one; an earlier one can be made
current again. Sessions that run stay with the instance that they have. An instance that the gateway started
is replaced once it is idle if the current deployment's `program` is another: what its process was started
with has changed since, or somebody forced it. A change of numbers alone replaces nothing.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from gateway.store.interface import KeyValueStore, StoredValue

DOCUMENT_KIND: Final = "deployment"

MAX_DEPLOYMENTS: Final = 50
"""Deployments of an agent that are kept: the newest, and the current one."""

MAX_TURNS: Final = 200
"""How often the current deployment changed, as far as it is kept: for which of them a session began on."""

PROGRAM_KEYS: Final = frozenset({"command", "cwd", "environment"})
"""The keys of `[[agents]]` that an instance's process is started with."""

_IDS: Final = uuid.UUID("0d4b7c7e-1a53-5b37-9a0e-9a2c3f0f6d52")
"""The namespace of ids of deployments that have none in the store (RFC 9562 §5.5)."""


@dataclass(frozen=True, slots=True)
class CurrentDeployment:
    """The deployment that new instances are started of.

    `number`: from 1; 0 is the configuration file. `program`: the number of the deployment from which on the
    instances' processes are started as they are now. `created_at`: Unix seconds, None if it is not known.
    """

    id: str
    number: int
    program: int
    created_at: float | None


@dataclass(frozen=True, slots=True)
class Turn:
    """From `at`, Unix seconds, on, the deployment with this id was the current one."""

    at: float
    deployment: str


@dataclass(frozen=True, slots=True)
class Deployment:
    """One deployment of an agent.

    `created_at`: Unix seconds, None if it is not known. `changed`: the keys that differ from the one that was
    current before. `settings`: a table like one of `[[agents]]`; of an agent of the configuration file, only
    what the API has changed.
    """

    id: str
    number: int
    program: int
    created_at: float | None
    changed: tuple[str, ...]
    settings: Mapping[str, Any]

    @classmethod
    def first(cls, settings: Mapping[str, Any], now: float) -> Deployment:
        """Return the first deployment of a new agent."""
        return cls(str(uuid.uuid4()), 1, 1, now, (), settings)

    @classmethod
    def of_file(cls, storage_key: str) -> Deployment:
        """Return the deployment that the configuration file is."""
        current = configured_deployment(storage_key)
        return cls(current.id, 0, 0, None, (), {})

    @property
    def as_current(self) -> CurrentDeployment:
        """The part of it that is stored with the agent while it is current."""
        return CurrentDeployment(self.id, self.number, self.program, self.created_at)


def first_deployment(storage_key: str, created_at: float) -> CurrentDeployment:
    """Return the deployment of an agent that an earlier version stored, the same in every worker."""
    return CurrentDeployment(str(uuid.uuid5(_IDS, f"{storage_key}/{created_at!r}")), 1, 1, created_at)


def configured_deployment(storage_key: str, read_at: float | None = None) -> CurrentDeployment:
    """Return the deployment that the configuration file is. `read_at`: since when it is as it is."""
    return CurrentDeployment(str(uuid.uuid5(_IDS, storage_key)), 0, 0, read_at)


def with_turn(turns: Sequence[Turn], current: CurrentDeployment, now: float) -> tuple[Turn, ...]:
    """Return the turns with one more, at most MAX_TURNS."""
    return (*turns[-MAX_TURNS + 1 :], Turn(now, current.id))


def deployment_at(turns: Sequence[Turn], at: float) -> str | None:
    """Return the id of the deployment that was current at a time; None if that is not kept any more."""
    return next((turn.deployment for turn in reversed(turns) if turn.at <= at), None)


class Deployments:
    """The deployments in the store. `agent`: ORGANIZATION/NAME. The methods raise StoreFailed."""

    def __init__(self, values: KeyValueStore) -> None:
        self._values = values

    async def of(self, agent: str, now: float) -> list[Deployment]:
        """Return an agent's deployments, the newest first."""
        stored = await self._values.list(DOCUMENT_KIND, now, prefix=f"{agent}/")
        return [_parse(value) for value in reversed(stored)]

    async def put(self, agent: str, deployment: Deployment, now: float) -> bool:
        """Store a deployment unless its number is taken. Return True if it was stored."""
        key = _storage_key(agent, deployment.number)
        return await self._values.put_if_absent(DOCUMENT_KIND, key, _as_json(deployment), now=now)

    async def put_missing(self, agent: str, deployment: Deployment, now: float) -> None:
        """Store a deployment that a change is about to replace, if the store does not have it."""
        if await self._values.get(DOCUMENT_KIND, _storage_key(agent, deployment.number), now) is None:
            await self.put(agent, deployment, now)

    async def add(
        self,
        agent: str,
        current: CurrentDeployment,
        settings: Mapping[str, Any],
        changed: Sequence[str],
        now: float,
    ) -> Deployment:
        """Store a deployment under the next number and return it; the oldest ones are forgotten for it.

        `changed`: none if somebody forced it: then it is a program of its own, though nothing differs.
        """
        known = [each.number for each in await self.of(agent, now)]
        number = max(known, default=current.number) + 1
        is_program = not changed or not PROGRAM_KEYS.isdisjoint(key.partition(".")[0] for key in changed)
        while True:
            program = number if is_program else current.program
            made = Deployment(str(uuid.uuid4()), number, program, now, tuple(changed), settings)
            if await self.put(agent, made, now):
                break
            number += 1  # another worker had the same thought
        oldest = sorted(known)[: max(0, len(known) + 1 - MAX_DEPLOYMENTS)]
        await self._remove(agent, (each for each in oldest if each != current.number))
        return made

    async def remove_all(self, agent: str, now: float) -> None:
        """Forget the deployments of an agent that is no more."""
        await self._remove(agent, [each.number for each in await self.of(agent, now)])

    async def _remove(self, agent: str, numbers: Iterable[int]) -> None:
        await asyncio.gather(
            *(self._values.delete(DOCUMENT_KIND, _storage_key(agent, number)) for number in numbers)
        )


def _storage_key(agent: str, number: int) -> str:
    return f"{agent}/{number:09d}"


def _as_json(deployment: Deployment) -> str:
    return json.dumps(asdict(deployment))


def _parse(stored: StoredValue) -> Deployment:
    value = json.loads(stored.value)
    return Deployment(**{**value, "changed": tuple(value["changed"])})
