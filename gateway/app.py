# SPDX-License-Identifier: BSD-2-Clause
"""Composition: the one place that knows everybody."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
import uuid
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from gateway.agents.client import open_client
from gateway.agents.directory import Directory
from gateway.agents.kept import KeptAgents
from gateway.agents.readiness import Probes
from gateway.api.docs_page import reading_operations
from gateway.api.edge import Edge, http_exception
from gateway.api.health import health_routes
from gateway.api.kernel import routes
from gateway.api.services import Services
from gateway.api.table import OPERATIONS
from gateway.calls.bots import Bots, bots_http
from gateway.calls.handover import Handovers
from gateway.calls.stops import StopWatch
from gateway.calls.switchboard import Switchboard
from gateway.config import Settings
from gateway.errors import CallEnd, Endings
from gateway.media.clock import clock_of
from gateway.media.direct import sources_of
from gateway.media.turns import Turns
from gateway.media.upgrade import SERVE_CALL, Upgrade
from gateway.sessions.connect import open_store
from gateway.sessions.owner import STALE_S, Owner
from gateway.sessions.store import Store, StoreFailed
from gateway.sessions.tokens import Tokens, load_secret

log = structlog.get_logger(__name__)

COLLECTED_EVERY = 20_000, 20, 20
"""New objects until the collector looks for cycles among the young, and how often it goes on to older ones.

A call leaves next to none, and setting one up makes hundreds of objects: by default every call or two would
be paid for with a look.
"""

BEAT_INTERVAL_S = STALE_S / 4
"""How often a worker says that it lives and looks for those that do not."""


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[tuple[Starlette, Services]]:
    """One worker's application and what it works with, at work.

    Raises StoreFailed where the store cannot be opened.
    """
    async with AsyncExitStack() as stack:
        owner = Owner.of_this_process(uuid.uuid4().hex)
        store = open_store(
            settings.store.url,
            owner,
            admits_alone=settings.store.on_failure == "admit",
            calls_per_organization=settings.limits.calls_per_organization,
        )
        await store.open()
        stack.push_async_callback(store.close)
        services = await _services(settings, store, stack)
        handovers = Handovers(services.board, owner.id)
        handovers.start()
        stack.push_async_callback(handovers.stop)
        keeper = asyncio.create_task(_keep(store))
        stack.push_async_callback(_cancelled, keeper)
        turns = _turns(settings.server.relay_batch_ms / 1000)
        turns.start()
        stack.callback(turns.stop)
        application = _application(services, turns)
        # What lives by now lives on: the collector need not look at it again while calls are carried.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECTED_EVERY)
        yield application, services


def _turns(rest_s: float) -> Turns:
    loop = asyncio.get_running_loop()
    return Turns(rest_s, stay=sources_of(loop).stay, may_stay=clock_of(loop).all_direct)


async def _services(settings: Settings, store: Store, stack: AsyncExitStack) -> Services:
    """Makes and starts everything that handlers and calls use; the stack ends it, the last first."""
    await _beat(store)
    directory = Directory(settings)
    probes = Probes(
        (instance for agent in directory.agents for instance in agent.instances),
        failures=settings.limits.instance_failures,
    )
    tokens = Tokens(await load_secret(store, time.time), store, time.time)
    board = Switchboard(settings, store, directory, probes, tokens)
    kept = KeptAgents(settings, store.documents)

    async def refresh() -> None:
        await kept.refresh(directory, probes, time.time())

    await refresh()
    await probes.start()
    stack.push_async_callback(probes.stop)
    http = await stack.enter_async_context(open_client(settings.limits.session_api_timeout))
    bots = Bots(
        store,
        probes,
        await stack.enter_async_context(bots_http()),
        time.time,
        connect_timeout_s=settings.limits.agent_connect_timeout,
    )
    stack.push_async_callback(bots.end_all, CallEnd(Endings.draining, "the gateway stops"))

    def end_session(session_id: str, end: CallEnd) -> bool:
        # A call out may be stopped just as its stream comes: then both hear of it.
        dialled = board.dialouts.stop(session_id, end)
        return board.end_call(session_id, end) or bots.stop(session_id, end) or dialled

    stack.push_async_callback(board.rests.close)
    stack.push_async_callback(board.dialouts.end_all, CallEnd(Endings.draining, "the gateway stops"))
    stops = StopWatch(store, end_session, refresh, board.wishes.look)
    stops.start()
    stack.push_async_callback(stops.stop)
    return Services(
        settings=settings,
        store=store,
        directory=directory,
        board=board,
        probes=probes,
        keyring=board.keyring,
        tokens=tokens,
        bots=bots,
        http=http,
        now=time.time,
        new_id=board.new_id,
    )


def _application(services: Services, turns: Turns) -> Starlette:
    def serve(upgrade: Upgrade) -> Coroutine[Any, Any, None]:
        turns.stay_awake()
        return services.board.serve(upgrade)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        yield {SERVE_CALL: serve}

    operations = [
        *OPERATIONS,
        *reading_operations(OPERATIONS, url=services.settings.server.public_url),
    ]
    application = Starlette(
        routes=[
            *health_routes(services.board),
            Route("/ws/{target:path}", _no_upgrade),
            *routes(operations, services),
        ],
        middleware=[Middleware(Edge, on_request=turns.stay_awake)],
        exception_handlers={HTTPException: http_exception},
        lifespan=lifespan,
    )
    application.router.redirect_slashes = False  # it would send a client where the Host header says
    return application


async def _no_upgrade(_: Request) -> JSONResponse:
    answer = {"error": "media sockets want a WebSocket upgrade", "code": Endings.bad_request.code}
    return JSONResponse(answer, HTTPStatus.UPGRADE_REQUIRED, {"Upgrade": "websocket"})


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _keep(store: Store) -> None:
    """Says at an interval that this worker lives, and ends the sessions of those that died."""
    while True:
        await asyncio.sleep(BEAT_INTERVAL_S)
        await _beat(store)


async def _beat(store: Store) -> None:
    try:
        await store.beat(time.time())
        await store.reap(time.time())
    except StoreFailed as error:
        log.warning("store", error=str(error))
