# SPDX-License-Identifier: BSD-2-Clause
"""The seam to whatever runs instances: start one, stop one, watch one.

`ProcessProvider` (process_provider.py), which runs processes of this machine, is the only one. Another, for
containers say, has these methods and nothing else to do with numbers, calls or the store: pool_manager.py
decides when an instance starts and stops, and gives each its address.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gateway.config import AgentSettings
from gateway.pool.process_table import Usage


class StartFailed(Exception):  # noqa: N818 - an answer, not a fault
    """An instance could not be started. `str()` is a clause for the operator, without secrets."""


@dataclass(frozen=True, slots=True)
class StartRequest:
    """An instance to be started. `id`: unique among all. `place`: its number among the agent's instances.

    `spec`: the settings that it runs by, as pool_records.py has them.
    """

    id: str
    agent: AgentSettings
    place: int
    host: str
    port: int
    spec: str

    @property
    def url(self) -> str:
        """The URL at which calls reach it."""
        return f"http://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class StartedInstance:
    """An instance that was started, by this gateway process or by one before it.

    `id`: unique among all. `agent`: the service host. `started_at`: Unix seconds. `served`: sessions that it
    is known to have had. `stop_grace_s`: seconds from SIGTERM to SIGKILL. `output`: the file with what it
    prints, "" for none. `handle`: the provider's own, JSON text.
    """

    id: str
    agent: str
    place: int
    url: str
    spec: str
    started_at: float
    served: int
    stop_grace_s: float
    output: str
    handle: str


@dataclass(frozen=True, slots=True)
class InstanceEnd:
    """The end of an instance. `status`: the exit status, negative for a signal's number; None if unknown."""

    status: int | None

    @property
    def is_clean(self) -> bool:
        """Whether it ended by itself and called it success, or nobody knows otherwise."""
        return self.status in (0, None)

    @property
    def words(self) -> str:
        """A clause for the operator."""
        if self.status is None:
            return "it has ended"
        return f"signal {-self.status}" if self.status < 0 else f"exit status {self.status}"


class InstanceProvider(Protocol):
    """The provider of this node's instances. For one event loop."""

    async def start(self, request: StartRequest) -> StartedInstance:
        """Start an instance and return at once. Raises StartFailed."""

    async def find(self) -> list[StartedInstance]:
        """Return the instances that an earlier process of this node started, and that run still.

        What is left of those that have ended meanwhile is ended, too.
        """

    async def wait_ended(self, instance: StartedInstance) -> InstanceEnd:
        """Return once the instance has ended by itself or by `stop`, with the first of its processes."""

    async def stop(self, instance: StartedInstance, grace_s: float) -> None:
        """End an instance with all that it has started. Return when nothing of it runs. May be repeated."""

    async def usage(self, instance: StartedInstance) -> Usage | None:
        """Return what an instance uses, None if it has ended."""

    async def note_served(self, instance: StartedInstance, served: int) -> None:
        """Remember how many sessions an instance has had, for whoever finds it later."""

    async def close(self) -> None:
        """Watch no more; what runs goes on."""
