# SPDX-License-Identifier: BSD-2-Clause
"""A fake agent that keeps the contract of docs/reference/agent-container.md, or breaks it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from gateway.simulator.agent_call import AgentBehaviour, AgentCall
from gateway.simulator.free_ports import LOOPBACK

SESSION_HEADER = "x-daily-session-id"
ROOM_HEADER = "x-daily-room-url"
TRANSPORT_HEADER = "x-daily-transport-type"
MAX_MESSAGE_BYTES = 1 << 20
STOP_TIMEOUT_S = 5
"""Seconds that running calls get to end when the agent is stopped."""

SERVER_OPTIONS: dict[str, Any] = {
    "ws": "websockets-sansio",
    "ws_max_size": MAX_MESSAGE_BYTES,
    "ws_ping_interval": None,
    "ws_per_message_deflate": False,
    "access_log": False,
    "timeout_graceful_shutdown": STOP_TIMEOUT_S,
}
"""Options of uvicorn."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class FakeAgent:
    """An agent with `slots` for sessions. `app` is its ASGI application.

    `session_ids`: of all sessions that it was given, in order.
    """

    def __init__(self, behaviour: AgentBehaviour, slots: int = 1) -> None:
        self.session_ids: list[str] = []
        self._behaviour = behaviour
        self._slots = slots
        self._running = 0
        self.app = Starlette(
            routes=[
                WebSocketRoute("/ws", self._call),
                Route("/bot", self._bot, methods=["POST"]),
                Route("/readyz", self._ready),
                Route("/livez", _alive),
            ]
        )

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Serve in this event loop, on a free port, until the end of the block; give the base URL."""
        config = uvicorn.Config(self.app, lifespan="off", log_config=None, **SERVER_OPTIONS)
        server = uvicorn.Server(config)
        with socket.create_server((LOOPBACK, 0)) as listener:
            serving = asyncio.create_task(server.serve(sockets=[listener]), name="fake agent")
            try:
                yield f"http://{LOOPBACK}:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True
                await serving

    async def _call(self, media: WebSocket) -> None:
        if (status := self._behaviour.refuse_status) is not None:
            await media.send_denial_response(JSONResponse({"error": "this agent refuses"}, status))
            return
        if self._running >= self._slots:
            await media.send_denial_response(JSONResponse({"error": "all sessions are taken"}, 503))
            return
        self._running += 1
        session_id = media.headers.get(SESSION_HEADER)
        self.session_ids.append(session_id or "")
        try:
            await asyncio.sleep(self._behaviour.accept_after)
            await media.accept()
            with structlog.contextvars.bound_contextvars(session=session_id):
                _log_body(media.query_params.get("body"))
                await AgentCall(media, self._behaviour).run()
        finally:
            self._running -= 1

    async def _bot(self, request: Request) -> Response:
        """Run a session until `bot_duration` is over, or its client leaves; then answer `{}`."""
        if self._behaviour.bot_duration is None:
            return JSONResponse({"error": "this agent takes calls on /ws only"}, 501)
        try:
            body = json.loads(await request.body())
        except (ValueError, RecursionError):
            return JSONResponse({"error": "the body is no JSON"}, 422)
        if self._running >= self._slots:
            return JSONResponse({"error": "all sessions are taken"}, 503)
        session_id = request.headers.get(SESSION_HEADER, "")
        self._running += 1
        self.session_ids.append(session_id)
        with structlog.contextvars.bound_contextvars(session=session_id):
            log.info(
                "bot",
                transport=request.headers.get(TRANSPORT_HEADER),
                room=ROOM_HEADER in request.headers,
                keys=_names(body),
            )
            try:
                left = await _client_leaves(request, self._behaviour.bot_duration)
            finally:
                self._running -= 1
            log.info("bot ended", why="its client left" if left else "its time was over")
        return JSONResponse({})

    async def _ready(self, _: Request) -> Response:
        free = self._slots - self._running
        ready = self._behaviour.ready and free > 0
        return JSONResponse({"ready": ready, "sessions_free": free}, 200 if ready else 503)


async def _alive(_: Request) -> Response:
    return JSONResponse({"alive": True})


def _log_body(body: str | None) -> None:
    """Log the names of the query's body at INFO, and its values, which may be personal, at DEBUG only."""
    if body is None:
        return
    try:
        value = json.loads(base64.b64decode(body, validate=True))
    except (binascii.Error, ValueError, RecursionError):
        log.warning("the query's body is not base64 of JSON")
        return
    log.info("body", keys=_names(value))
    log.debug("body in full", body=value)


def _names(value: Any) -> list[str] | str:
    return sorted(value) if isinstance(value, dict) else type(value).__name__


async def _client_leaves(request: Request, limit_s: float) -> bool:
    """Wait until the client of a request has left, for `limit_s` at most. Return True if it has."""
    with suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            while (await request.receive())["type"] != "http.disconnect":
                pass
            return True
    return False


def serve_agent(behaviour: AgentBehaviour, host: str, port: int, slots: int) -> None:
    """Run the agent until SIGTERM or Ctrl-C. Exit the process with 1 if the port is taken."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
    uvicorn.run(FakeAgent(behaviour, slots).app, host=host, port=port, log_level="warning", **SERVER_OPTIONS)
