# SPDX-License-Identifier: BSD-2-Clause
"""How each instance is asked for its health, as the agents that have it say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gateway.config import AgentSettings
from gateway.config.agent_paths import DEFAULT_HEALTH_INTERVAL_S, DEFAULT_HEALTH_PATH


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """How one instance is asked.

    `path`: of the request; "" to look only whether something listens. `interval_s`: seconds from one check to
    the next; 0 for none.
    """

    path: str = DEFAULT_HEALTH_PATH
    interval_s: float = DEFAULT_HEALTH_INTERVAL_S


def health_checks(agents: Iterable[AgentSettings]) -> dict[str, HealthCheck]:
    """Return the check of every instance, by its URL.

    An instance of several agents is asked as the one wants that asks most often; of those, the first.
    """
    checks: dict[str, HealthCheck] = {}
    for agent in agents:
        check = HealthCheck(agent.health_path, agent.health_interval)
        for instance in agent.instances:
            known = checks.get(instance)
            if known is None or 0 < check.interval_s < (known.interval_s or float("inf")):
                checks[instance] = check
    return checks
