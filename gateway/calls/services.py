# SPDX-License-Identifier: BSD-2-Clause
"""The services that the steps of every call use, made once per worker."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from gateway.agents.directory import AgentDirectory
from gateway.agents.instance_health import InstanceHealth
from gateway.auth.api_keys import Keyring
from gateway.auth.limited_keys import LimitedKeys
from gateway.auth.media_tokens import MediaTokens
from gateway.calls.awaited_streams import AwaitedStreams
from gateway.calls.call_queue import CallQueues
from gateway.calls.capacity import Capacity
from gateway.calls.command_bus import CommandBus
from gateway.calls.hold_audio import HoldAudioLibrary
from gateway.calls.key_events import KeyEvents
from gateway.calls.stream_history import StreamHistory
from gateway.carriers.accounts import CarrierAccounts
from gateway.carriers.call_log import CallLog
from gateway.carriers.clients import CarrierClients
from gateway.config import Settings
from gateway.nodes.nodes import Nodes
from gateway.pool.pool_worker import PoolWorker
from gateway.store.interface import Store
from gateway.store.notifications import Topic


@dataclass(frozen=True, slots=True)
class CallServices:
    """The services that a step of a call may use. This module imports no step."""

    store: Store
    agents: AgentDirectory
    health: InstanceHealth
    accounts: CarrierAccounts
    clients: CarrierClients
    tokens: MediaTokens
    api_keys: Keyring
    limited_keys: LimitedKeys
    """Identifies the key of a request, within its limits; `api_keys` has no limits and manages the keys."""
    key_events: KeyEvents
    call_log: CallLog
    streams: StreamHistory
    hold_audio: HoldAudioLibrary
    queues: CallQueues
    capacity: Capacity
    awaited: AwaitedStreams
    commands: CommandBus
    nodes: Nodes | None
    """The other machines' gateways; None where they have no addresses."""
    region_codes: frozenset[str]
    now: Callable[[], float]
    """The time, in Unix seconds."""
    new_id: Callable[[], str]
    """Make a session id."""
    pool: PoolWorker | None = None
    """The instances that the gateway starts; None where it starts none."""

    @property
    def settings(self) -> Settings:
        """The settings of this worker as they are now (gateway/calls/reconfiguration.py)."""
        return self.agents.settings

    @property
    def authenticated_carriers(self) -> frozenset[str]:
        """The carriers that at least one account can authenticate; calls of all others are not checked."""
        return self.accounts.authenticated_carriers


def make_call_services(
    settings: Settings,
    store: Store,
    agents: AgentDirectory,
    health: InstanceHealth,
    tokens: MediaTokens,
    *,
    nodes: Nodes | None = None,
    now: Callable[[], float] = time.time,
    new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
    pool: PoolWorker | None = None,
) -> CallServices:
    """Make one worker's call services. Raises PromptError if an agent's recording cannot be played."""
    queues = CallQueues(store.notifications)
    capacity = Capacity(store, agents, health, queues, now, pool=None if pool is None else pool.pool)
    api_keys = Keyring(
        settings.organizations,
        store.key_values,
        now,
        on_revoked=lambda key_id: store.notifications.publish(Topic.KEY_REVOKED, key_id),
    )
    return CallServices(
        store=store,
        agents=agents,
        health=health,
        accounts=CarrierAccounts(settings),
        clients=CarrierClients(),
        tokens=tokens,
        api_keys=api_keys,
        limited_keys=LimitedKeys(api_keys, settings.limits, now),
        key_events=KeyEvents(api_keys, store.notifications),
        call_log=CallLog(store, now),
        streams=StreamHistory(store.key_values, now),
        hold_audio=HoldAudioLibrary(settings.agents),
        queues=queues,
        capacity=capacity,
        awaited=AwaitedStreams(store, health, capacity, tokens, now),
        commands=CommandBus(store, now, nodes),
        nodes=nodes,
        region_codes=frozenset(region.code for region in settings.regions),
        now=now,
        new_id=new_id,
        pool=pool,
    )
