# SPDX-License-Identifier: BSD-2-Clause
"""The demonstration agent: a small program that keeps the agent contract
(docs/reference/agent-container.md).
"""

from __future__ import annotations

import base64
import binascii
import json
import logging

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from gateway.simulator.agent_call import AgentCall, Manners

SESSION_HEADER = "x-daily-session-id"
MAX_MESSAGE_BYTES = 1 << 20
STOP_TIMEOUT_S = 5
"""How long running calls may take to end when the agent is told to stop."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class FakeAgent:
    """Serves up to `sessions` calls at a time. `app` is its ASGI application."""

    def __init__(self, manners: Manners, sessions: int) -> None:
        self._manners = manners
        self._places = sessions
        self._running = 0
        self.app = Starlette(
            routes=[
                WebSocketRoute("/ws", self._call),
                Route("/bot", _no_bot, methods=["POST"]),
                Route("/readyz", self._ready),
                Route("/livez", _alive),
            ]
        )

    async def _call(self, socket: WebSocket) -> None:
        if self._running >= self._places:
            await socket.send_denial_response(JSONResponse({"error": "all sessions are taken"}, 503))
            return
        self._running += 1
        try:
            await socket.accept()
            with structlog.contextvars.bound_contextvars(session=socket.headers.get(SESSION_HEADER)):
                _log_body(socket.query_params.get("body"))
                await AgentCall(socket, self._manners).run()
        finally:
            self._running -= 1

    async def _ready(self, _: Request) -> Response:
        free = self._places - self._running
        return JSONResponse({"ready": free > 0, "sessions_free": free}, 200 if free > 0 else 503)


async def _alive(_: Request) -> Response:
    return JSONResponse({"alive": True})


async def _no_bot(_: Request) -> Response:
    return JSONResponse({"error": "the demonstration agent takes calls on /ws only"}, 501)


def _log_body(body: str | None) -> None:
    """The names at INFO, the values, which may be anybody's, at DEBUG only."""
    if body is None:
        return
    try:
        value = json.loads(base64.b64decode(body, validate=True))
    except (binascii.Error, ValueError, RecursionError):
        log.warning("the query's body is not base64 of JSON")
        return
    log.info("body", keys=sorted(value) if isinstance(value, dict) else type(value).__name__)
    log.debug("body in full", body=value)


def serve_agent(manners: Manners, host: str, port: int, sessions: int) -> None:
    """Runs the agent until it is told to stop. Exits the process with 1 if the port cannot be had."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
    uvicorn.run(
        FakeAgent(manners, sessions).app,
        host=host,
        port=port,
        ws="websockets-sansio",
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=STOP_TIMEOUT_S,
    )
