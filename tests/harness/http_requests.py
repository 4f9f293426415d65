# SPDX-License-Identifier: BSD-2-Clause
"""HTTP requests of a test, and operations of the API served on a port of their own."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware

from gateway.api.framework.dispatch import routes
from gateway.api.framework.middleware import ApiMiddleware
from gateway.api.framework.operation import Operation
from gateway.simulator.waiting import WAIT_S
from tests.harness.start_api import Worker


@dataclass
class HttpAnswer:
    """An HTTP answer. `raw`: its body."""

    status: int
    headers: Any
    raw: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.raw)


async def send(
    url: str, body: Any = None, *, raw: bytes | None = None, method: str = "POST", **headers: str
) -> HttpAnswer:
    """Send one request on a connection of its own. `body`: JSON. `raw`: any bytes instead."""
    data = json.dumps(body).encode() if raw is None else raw
    given = {"Content-Type": "application/json"} | headers
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT_S * 2)) as http,
        http.request(
            method, url, data=None if method == "GET" else io.BytesIO(data), headers=given
        ) as answer,
    ):
        return HttpAnswer(answer.status, answer.headers, await answer.read())


@asynccontextmanager
async def serving(worker: Worker, operations: Iterable[Operation]) -> AsyncIterator[str]:
    """Serve more operations of a worker; give the URL in front of their paths."""
    app = Starlette(routes=routes(operations, worker.services), middleware=[Middleware(ApiMiddleware)])
    listening = socket.socket(proto=socket.IPPROTO_TCP)
    with listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=0,
        )
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listening])
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            await server.shutdown([listening])
