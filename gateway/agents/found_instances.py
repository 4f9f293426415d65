# SPDX-License-Identifier: BSD-2-Clause
"""The instances that sources have found, as one worker takes them in."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.agents.directory import AgentDirectory
from gateway.agents.health_check import health_checks
from gateway.agents.instance_health import InstanceHealth


class FoundInstances:
    """The way by which what is found reaches a worker: its calls see it, and its health checks ask it."""

    def __init__(self, directory: AgentDirectory, health: InstanceHealth) -> None:
        self._directory = directory
        self._health = health

    def replace(self, source: str, urls: Sequence[str]) -> bool:
        """Replace what a source has found. Return False if it is as before.

        `urls`: http(s) URLs without a path, in the order in which they are preferred.
        """
        changed = self._directory.replace_found(source, urls)
        if changed:
            self._health.watch(health_checks(self._directory.agents_here))
        return changed
