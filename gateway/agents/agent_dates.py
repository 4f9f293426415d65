# SPDX-License-Identifier: BSD-2-Clause
"""When the agents of the configuration file came, and when they last changed.

The file does not say it, so the store keeps it: a gateway notes each agent when it reads its file.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from gateway.config import AgentSettings
from gateway.store.interface import KeyValueStore, StoredValue, StoreFailed

log = structlog.get_logger(__name__)

DOCUMENT_KIND: Final = "configured_agent"

_DIGEST: Final = "settings"  # no more of them is kept


@dataclass(frozen=True, slots=True)
class AgentDates:
    """When an agent of the configuration was first read, and first read as it is now. Unix seconds."""

    created_at: float
    updated_at: float


async def note_agents(values: KeyValueStore, agents: Iterable[AgentSettings], now: float) -> None:
    """Note the agents of the configuration. Call it whenever that was read.

    A store that fails keeps the dates that it has: calls need none of them.
    """
    try:
        known = {value.key: value for value in await values.list(DOCUMENT_KIND, now)}
        changed: dict[str, str] = {}
        for agent in agents:
            key = f"{agent.organization}/{agent.name}"
            before = json.loads(known[key].value) if key in known else {"created_at": now}
            digest = hashlib.sha256(agent.model_dump_json().encode()).hexdigest()
            if before.get(_DIGEST) != digest:
                noted = {"created_at": before["created_at"], "updated_at": now, _DIGEST: digest}
                changed[key] = json.dumps(noted)
        # At once, so that they share a commit.
        await asyncio.gather(
            *(values.put(DOCUMENT_KIND, key, value, now=now) for key, value in changed.items())
        )
    except StoreFailed as error:
        log.warning("store", error=str(error))


async def dates_of(values: KeyValueStore, organization: str, now: float) -> Mapping[str, AgentDates]:
    """Return the dates of an organisation's agents, by their names. Raises StoreFailed."""
    prefix = f"{organization}/"
    stored = await values.list(DOCUMENT_KIND, now, prefix=prefix)
    return {value.key.removeprefix(prefix): _dates(value) for value in stored}


def _dates(stored: StoredValue) -> AgentDates:
    value = json.loads(stored.value)
    return AgentDates(value["created_at"], value["updated_at"])
