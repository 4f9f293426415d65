# SPDX-License-Identifier: BSD-2-Clause
"""Composition: the one file that builds and connects all parts of a worker. It decides nothing.

`running` reads from top to bottom. What it starts ends in reverse order.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from gateway.agents.agent_dates import note_agents
from gateway.agents.directory import AgentDirectory
from gateway.agents.found_instances import FoundInstances
from gateway.agents.health_check import health_checks
from gateway.agents.http_client import open_client
from gateway.agents.instance_health import InstanceHealth
from gateway.agents.source_watches import SourceWatches
from gateway.agents.stored_agents import StoredAgents
from gateway.api.framework.cross_origin import CrossOrigin
from gateway.api.framework.dispatch import routes
from gateway.api.framework.docs_page import reading_operations
from gateway.api.framework.handler_services import Services
from gateway.api.framework.health import health_routes
from gateway.api.framework.middleware import ApiMiddleware, http_exception
from gateway.api.pipecat_cloud.region_forwarding import RegionForwarding
from gateway.api.routes import OPERATIONS
from gateway.api.webhooks.deduplication import SIGNED_WEBHOOKS
from gateway.auth.media_tokens import NONCES, MediaTokens, load_secret
from gateway.calls.active import ActiveCalls
from gateway.calls.bot_client import bot_http_client
from gateway.calls.bot_session import BotServices, BotSessions
from gateway.calls.dispatcher import Dispatcher
from gateway.calls.live_traffic import live_traffic
from gateway.calls.node_requests import NodeRequests
from gateway.calls.outbound.outbound_calls import OutboundCalls
from gateway.calls.remote_call import StreamHandovers
from gateway.calls.services import make_call_services
from gateway.calls.slot_release import take_over_or_warn
from gateway.calls.store_watcher import StoreWatcher
from gateway.calls.stream_history import CALL_NONCES, CALL_SOCKETS
from gateway.config import Settings, StoreSettings
from gateway.media.accept import SERVE_CALL, Upgrade
from gateway.media.direct_transport import epoll_set_of
from gateway.media.loop_batcher import LoopBatcher
from gateway.media.outgoing_leg import tls_context
from gateway.media.relay_timers import scheduler_of
from gateway.media.socket_passing import name_of
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import LiveTraffic
from gateway.nodes.node_directory import NodeDirectory
from gateway.nodes.node_listener import NodeListener
from gateway.nodes.node_signature import NodeVerifier
from gateway.nodes.nodes import Nodes
from gateway.nodes.remote_connection import hand_on
from gateway.pool.agent_output import AgentOutput
from gateway.pool.pool_worker import PoolWorker
from gateway.store.connect import open_store
from gateway.store.interface import Store, StoreFailed
from gateway.store.retention import remove_for_ever
from gateway.store.worker_id import STALE_S, WorkerId

log = structlog.get_logger(__name__)

GC_THRESHOLDS: Final = (20_000, 20, 20)
"""New objects until a collection of the young ones, and how many of those until one of older objects.

A call creates hundreds of objects while it is set up and leaves almost no cycles, so Python's default would
run a collection for nothing at every second call.
"""

SINGLE_USE_KINDS: Final = frozenset({NONCES, CALL_NONCES, CALL_SOCKETS, SIGNED_WEBHOOKS})
"""The kinds of stored values that are written once, and without which a caller with a token, or a carrier's
signed webhook, is refused.
"""

NODE_SECRET: Final = "nodes"  # noqa: S105 - the name of a secret, not one
"""The name of the secret in the store that nodes sign with, if the settings have none."""

HEARTBEAT_S: Final = STALE_S / 4
"""How often a worker renews its heartbeat in the store, with it writes what its calls have passed so far, and
ends the sessions of workers that died.
"""


@asynccontextmanager
async def running(
    settings: Settings, *, may_create_store: bool = True, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Starlette, Services]]:
    """Run one worker's background tasks, and yield its application and services.

    `may_create_store`: if not, a missing store is a failure. `tls`: of the port, for a node's address that is
    https.
    Raises StoreFailed if the store cannot be opened, PromptError if a recording cannot be played, and
    NodeAddressUnusable.
    """
    async with AsyncExitStack() as stack:
        worker_id = WorkerId.of_this_process(uuid.uuid4().hex)
        store = await _open_store(settings, worker_id, stack, may_create=may_create_store)
        agents = await _start_agents(settings, store, worker_id, stack)
        node = await _open_node(settings, store, worker_id, tls, stack)
        services = await _start_calls(settings, store, agents, node, stack)
        watcher = _start_store_watcher(services, agents, stack)
        handovers = _start_handovers(services, worker_id, node, stack)
        if node is not None:
            search = partial(services.output.answer, Path(settings.server.pool_folder))
            requests = NodeRequests(services.calls.commands, handovers, watcher.stop_session, search)
            await node.start(requests, stack)
        _start_heartbeat(services, stack)
        _start_retention(store, settings.store, stack)
        batcher = _start_batcher(settings, stack)
        application = _application(services, batcher)
        _tune_garbage_collector()
        yield application, services


async def _open_store(
    settings: Settings, worker_id: WorkerId, stack: AsyncExitStack, *, may_create: bool
) -> Store:
    store = open_store(
        settings.store.url,
        worker_id,
        passwords=settings.store.passwords,
        max_history=settings.store.max_history,
        admits_on_failure=settings.store.on_failure == "admit",
        single_use_kinds=SINGLE_USE_KINDS,
        calls_per_organization=settings.limits.calls_per_organization,
        may_create=may_create,
    )
    await store.open()
    stack.push_async_callback(store.close)
    await _beat(store, may_warn=True)
    return store


@dataclass(frozen=True, slots=True)
class _Agents:
    """The agents of the configuration and of the store, and the health of their instances."""

    directory: AgentDirectory
    health: InstanceHealth
    stored: StoredAgents
    pool: PoolWorker

    async def refresh(self) -> None:
        """Read the agents of the store again."""
        await self.stored.refresh(self.health, time.time())
        self.pool.agents_changed()


async def _start_agents(
    settings: Settings, store: Store, worker_id: WorkerId, stack: AsyncExitStack
) -> _Agents:
    directory = AgentDirectory(settings)
    health = InstanceHealth(
        health_checks(directory.agents_here),
        max_failures=settings.limits.instance_failures,
    )
    pool = PoolWorker(store, directory, health, worker_id.id, time.time)
    agents = _Agents(directory, health, StoredAgents(directory, store), pool)
    await agents.stored.refresh(health, time.time())
    if any(instance.startswith("https:") for agent in directory.agents for instance in agent.instances):
        tls_context()  # read before the first call, not while others wait for their sound
    await note_agents(store.key_values, settings.agents, time.time())
    await health.start()
    stack.push_async_callback(health.stop)
    await pool.start()
    stack.push_async_callback(pool.stop)
    sources = SourceWatches(directory, FoundInstances(directory, health), settings.server.nameservers)
    stack.push_async_callback(sources.stop)
    await sources.start()
    return agents


@dataclass(frozen=True, slots=True)
class _Node:
    """This worker's part of its node: what it listens with, and what it reaches the others with."""

    listener: NodeListener
    verifier: NodeVerifier
    nodes: Nodes

    async def start(self, requests: NodeRequests, stack: AsyncExitStack) -> None:
        """Listen at the node's address, and tell the others of it. Raises StoreFailed."""
        stack.push_async_callback(self.listener.stop)

        def pass_on(
            transport: asyncio.Transport, worker: str, read: bytes, is_stream: bool
        ) -> Awaitable[bool]:
            note = self.nodes.note_passing if is_stream else lambda _: None
            return hand_on(transport, name_of(worker, self.nodes.url), read, note)

        await self.listener.start(self.nodes.worker, self.verifier, requests, pass_on)
        await self.nodes.directory.announce()
        stack.push_async_callback(self._withdraw)

    async def _withdraw(self) -> None:
        with contextlib.suppress(StoreFailed):  # it expires by itself
            await self.nodes.directory.withdraw()


async def _open_node(
    settings: Settings, store: Store, worker_id: WorkerId, tls: ssl.SSLContext | None, stack: AsyncExitStack
) -> _Node | None:
    """Bind this node's address; None if it has none. Raises NodeAddressUnusable, StoreFailed."""
    server = settings.server
    if server.node_url is None:
        return None
    if server.node_secret is not None:
        secret = server.node_secret.get_secret_value().encode()
    else:
        secret = await load_secret(store, time.time, purpose=NODE_SECRET)
    listener = NodeListener(server.node_url, tls)
    stack.push_async_callback(listener.stop)
    directory = NodeDirectory(store.key_values, worker_id.id, server.node_url, time.time)
    nodes = Nodes(worker_id.id, directory, secret, time.time)
    stack.callback(nodes.close)
    return _Node(listener, NodeVerifier(secret, time.time), nodes)


async def _start_calls(
    settings: Settings, store: Store, agents: _Agents, node: _Node | None, stack: AsyncExitStack
) -> Services:
    """Build what calls and handlers work with. On exit every session that is left is ended."""
    stopped = CallEnded(Reasons.draining, "the gateway stops")
    tokens = MediaTokens(await load_secret(store, time.time), store, time.time)
    calls = make_call_services(
        settings,
        store,
        agents.directory,
        agents.health,
        tokens,
        nodes=None if node is None else node.nodes,
        pool=agents.pool,
    )
    stack.push_async_callback(calls.capacity.releases.close)
    stack.push_async_callback(calls.awaited.end_all)
    active = ActiveCalls()
    http = await stack.enter_async_context(open_client(settings.limits.session_api_timeout))
    bots = BotSessions(
        BotServices(
            store,
            agents.health,
            calls.capacity,
            http=await stack.enter_async_context(bot_http_client()),
            now=time.time,
            connect_timeout_s=settings.limits.agent_connect_timeout,
        )
    )
    stack.push_async_callback(bots.end_all, stopped)
    outbound = OutboundCalls(calls, active)
    stack.push_async_callback(calls.clients.close)
    stack.push_async_callback(outbound.end_all, stopped)
    dispatcher = Dispatcher(calls, active, outbound)
    return Services(calls, active, outbound, dispatcher, bots, http, AgentOutput(calls.nodes))


def _start_store_watcher(services: Services, agents: _Agents, stack: AsyncExitStack) -> StoreWatcher:
    """Let the store's changes reach this worker: sessions to end, agents to read again, commands to calls."""

    def end_session(session_id: str, end: CallEnded) -> bool:
        return services.dispatcher.terminate(session_id, end) or services.bots.stop(session_id, end)

    watcher = StoreWatcher(services.calls.store, end_session, agents.refresh, services.calls.commands.poll)
    watcher.start()
    stack.push_async_callback(watcher.stop)
    return watcher


def _start_handovers(
    services: Services, worker_id: WorkerId, node: _Node | None, stack: AsyncExitStack
) -> StreamHandovers:
    """Take carrier sockets over from other workers for calls that run in this one."""
    take_connection = None if node is None else node.listener.take
    handovers = StreamHandovers(services.calls, services.active, worker_id.id, take_connection)
    handovers.start()
    stack.push_async_callback(handovers.stop)
    return handovers


def _start_heartbeat(services: Services, stack: AsyncExitStack) -> None:
    """Tell the others that this worker lives and what its calls pass; see to what dead ones have left."""
    calls = services.calls

    async def beat() -> None:
        answers = True
        while True:
            if answers:
                answers = await take_over_or_warn(calls.capacity.releases, calls.agents)
            await asyncio.sleep(HEARTBEAT_S)
            passed = await live_traffic(services.active)
            answers = await _beat(calls.store, passed, calls.nodes, may_warn=answers)

    _run_until_exit(beat(), stack)


def _start_retention(store: Store, settings: StoreSettings, stack: AsyncExitStack) -> None:
    """Remove from the store what is older than the operator wants."""

    removal = remove_for_ever(store.history, settings.retention_days, settings.audit_days, time.time)
    _run_until_exit(removal, stack)


def _run_until_exit(work: Coroutine[Any, Any, None], stack: AsyncExitStack) -> None:
    """Run a task until `stack` is closed."""
    task = asyncio.create_task(work)

    async def cancel() -> None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    stack.push_async_callback(cancel)


async def _beat(
    store: Store, passed: Sequence[LiveTraffic] = (), nodes: Nodes | None = None, *, may_warn: bool
) -> bool:
    """Return whether the store answers. `may_warn`: it did so far, so one line tells that it does not."""
    try:
        await store.heartbeat(time.time(), passed)
        if nodes is not None:
            await nodes.directory.announce()
        await store.reap(time.time())
    except StoreFailed as error:
        if may_warn and not error.is_reported:
            log.warning("store", error=str(error))
        return False
    return True


def _start_batcher(settings: Settings, stack: AsyncExitStack) -> LoopBatcher:
    loop = asyncio.get_running_loop()
    batcher = LoopBatcher(
        settings.server.relay_batch_ms / 1000,
        poll_for=epoll_set_of(loop).poll_for,
        can_poll=scheduler_of(loop).all_direct,
    )
    batcher.start()
    stack.callback(batcher.stop)
    return batcher


def _application(services: Services, batcher: LoopBatcher) -> Starlette:
    """Build the HTTP application. Its lifespan state has the function that serves media sockets."""

    def serve(upgrade: Upgrade) -> Coroutine[Any, Any, None]:
        batcher.pause()
        return services.dispatcher.serve(upgrade)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        yield {SERVE_CALL: serve}

    operations = [
        *OPERATIONS,
        *reading_operations(OPERATIONS, url=services.calls.settings.server.public_url),
    ]
    application = Starlette(
        routes=[
            *health_routes(services.calls, services.active),
            Route("/ws/{target:path}", _refuse_plain_request),
            *routes(operations, services, elsewhere=RegionForwarding(services)),
        ],
        middleware=[
            Middleware(
                ApiMiddleware,
                on_request=batcher.pause,
                cross_origin=CrossOrigin(services.calls.settings.server),
            )
        ],
        exception_handlers={HTTPException: http_exception},
        lifespan=lifespan,
    )
    # A redirect would send the client to the host that its Host header names.
    application.router.redirect_slashes = False
    return application


async def _refuse_plain_request(_: Request) -> JSONResponse:
    """Answer a request for a media socket that is no WebSocket upgrade."""
    answer = {"error": "media sockets want a WebSocket upgrade", "code": Reasons.bad_request.code}
    return JSONResponse(answer, HTTPStatus.UPGRADE_REQUIRED, {"Upgrade": "websocket"})


def _tune_garbage_collector() -> None:
    # All objects that exist by now live as long as the worker: no collection need look at them again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
