# SPDX-License-Identifier: BSD-2-Clause
"""Another configuration for a worker that runs: agents, numbers, organisations with their keys and accounts.

The rest of the settings stays as it was at the start. Everything that can fail comes first, in `read`; what
follows, in `apply`, is done in one step of the event loop, so no call sees half of it. Calls that run keep
what they were given when they began.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from gateway.agents.agent_dates import note_agents
from gateway.agents.stored_agents import StoredAgents
from gateway.audio.prompt import Prompt
from gateway.calls.hold_audio import read_recordings
from gateway.calls.services import CallServices
from gateway.config import Settings
from gateway.config.call_handling import Recording
from gateway.media.outgoing_leg import tls_context
from gateway.store.interface import StoreFailed

log = structlog.get_logger(__name__)

_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True)
class Reconfiguration:
    """Settings that a worker can take, with the recordings of their agents."""

    settings: Settings
    recordings: Mapping[Recording, Prompt]


def read(settings: Settings) -> Reconfiguration:
    """Read what the settings need. It may block. Raises PromptError if a recording cannot be played."""
    if any(instance.startswith("https:") for agent in settings.agents for instance in agent.instances):
        tls_context()  # read here, not while others wait for their sound
    return Reconfiguration(settings, read_recordings(settings.agents))


def apply(services: CallServices, new: Reconfiguration) -> None:
    """Let the worker go on with these settings. Raises nothing."""
    settings = _with_unchanged_accounts(services.settings, new.settings)
    services.agents.configure(settings)
    StoredAgents(services.agents, services.store).fit_again(services.health)
    if services.pool is not None:
        services.pool.agents_changed()
    services.accounts.configure(settings)
    services.clients.forget_others(
        account for organization in settings.organizations for account in organization.carriers
    )
    services.api_keys.configure(settings.organizations)
    services.key_events.keys_configured()
    services.hold_audio.replace(new.recordings)


async def note(services: CallServices) -> None:
    """Note in the store which agents the configuration has now. A store that fails has older dates."""
    try:
        await note_agents(services.store.key_values, services.settings.agents, services.now())
    except StoreFailed as error:
        log.warning("store", error=str(error))


def _with_unchanged_accounts(old: Settings, new: Settings) -> Settings:
    """Return the new settings with the old objects of organisations that are the same: they have clients."""
    organizations = [_same(old.organizations, each) for each in new.organizations]
    update: dict[str, Any] = {"organizations": organizations}
    return new.model_copy(update=update)


def _same(known: list[_Row], row: _Row) -> _Row:
    return next((each for each in known if each == row), row)
