# SPDX-License-Identifier: BSD-2-Clause
"""How many instances of an agent there are, and how many it needs: for KEDA, a script, and people."""

from __future__ import annotations

from math import ceil

from pydantic import Field

from gateway.agents.instance_health import Health
from gateway.api.framework.handler_services import Services
from gateway.api.pipecat_cloud.conventions import ResponseModel
from gateway.config import AgentSettings
from gateway.pool.pool_plan import InstanceState, PoolInstance, PoolLimits, needed_instances


class AgentScaling(ResponseModel):
    """The instances of an agent, over all nodes."""

    needed: int = Field(
        description="Instances that are needed now: those that have sessions and the spare ones, at least "
        "`minReplicas`, at most `maxReplicas`. What starts instances elsewhere starts so many."
    )
    running: int = Field(description="Instances that are ready, and those that stop once they are free.")
    starting: int
    ready: int = Field(description="Instances that take sessions.")
    draining: int = Field(description="Instances that keep the sessions that they have, and take no new one.")
    free_places: int = Field(description="Sessions that may begin now, without another instance.")
    crash_loop: bool = Field(description="No node starts one now, because those before have failed.")
    troubles: list[str] = Field(description="Why a node starts none now.")


async def agent_scaling(services: Services, agent: AgentSettings, active: int) -> AgentScaling:
    """Return how many instances an agent has and needs.

    `agent`: with the instances that calls see. `active`: its sessions that have a slot. Raises StoreFailed.
    """
    pool = services.calls.pool
    if agent.command and pool is not None:
        status = await pool.pool.status(agent)
        return AgentScaling(
            needed=status.needed,
            running=status.ready + status.leaving,
            starting=status.starting,
            ready=status.ready,
            draining=status.leaving,
            free_places=_free_places(agent, status.ready, active),
            crash_loop=bool(pool.pool.trouble(agent.service_host)),
            troubles=[trouble.words for trouble in status.troubles.values()],
        )
    seen = [services.calls.health.of(instance) for instance in agent.instances]
    usable = sum(health in (Health.READY, Health.UNKNOWN) for health in seen)
    return AgentScaling(
        needed=_needed(agent, active),
        running=usable,
        starting=seen.count(Health.STARTING),
        ready=usable,
        draining=0,
        free_places=_free_places(agent, usable, active),
        crash_loop=False,
        troubles=[],
    )


def _needed(agent: AgentSettings, active: int) -> int:
    """Return how many instances an agent needs that others start, as if each had all the sessions it may."""
    in_use = ceil(active / agent.sessions_per_instance)
    instances = (PoolInstance(place, "", InstanceState.READY, sessions=1) for place in range(in_use))
    return needed_instances(PoolLimits.of(agent), instances, waiting=0)


def _free_places(agent: AgentSettings, ready: int, active: int) -> int:
    return max(0, min(ready, agent.max_agents) * agent.sessions_per_instance - active)
