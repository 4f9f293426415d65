# SPDX-License-Identifier: BSD-2-Clause
"""Composition: the one place that knows everybody."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from gateway.agents.directory import Directory
from gateway.agents.readiness import Probes
from gateway.api.health import health_routes
from gateway.call import Switchboard
from gateway.config import Settings
from gateway.errors import Endings
from gateway.media.batching import Batching
from gateway.media.upgrade import SERVE_CALL
from gateway.sessions.connect import open_store
from gateway.sessions.owner import STALE_S, Owner
from gateway.sessions.store import Store, StoreFailed
from gateway.sessions.tokens import Tokens, load_secret

log = structlog.get_logger(__name__)

BEAT_INTERVAL_S = STALE_S / 4
"""How often a worker says that it lives and looks for those that do not."""


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[tuple[Starlette, Switchboard]]:
    """One worker's application and the switchboard behind it, with all that they need at work.

    Raises StoreFailed where the store cannot be opened.
    """
    store = open_store(settings.store.url, Owner.of_this_process(uuid.uuid4().hex))
    directory = Directory(settings)
    probes = Probes(instance for agent in directory.agents for instance in agent.instances)
    await store.open()
    await _beat(store)
    tokens = Tokens(await load_secret(store, time.time), store, time.time)
    board = Switchboard(settings, store, directory, probes, tokens)
    keeper = asyncio.create_task(_keep(store))
    await probes.start()
    batching = Batching(settings.server.relay_batch_ms / 1000)
    batching.start()
    # What lives by now lives on: the collector need not look at it again while calls are carried.
    gc.collect()
    gc.freeze()
    try:
        yield _application(board), board
    finally:
        batching.stop()
        keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeper
        await probes.stop()
        await store.close()


def _application(board: Switchboard) -> Starlette:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        yield {SERVE_CALL: board.serve}

    routes = [*health_routes(board), Route("/ws/{target:path}", _no_upgrade)]
    return Starlette(routes=routes, lifespan=lifespan)


async def _no_upgrade(_: Request) -> JSONResponse:
    answer = {"error": "media sockets want a WebSocket upgrade", "code": Endings.bad_request.code}
    return JSONResponse(answer, HTTPStatus.UPGRADE_REQUIRED, {"Upgrade": "websocket"})


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
