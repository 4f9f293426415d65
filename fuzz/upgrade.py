# SPDX-License-Identifier: BSD-2-Clause
"""Any request for a media socket, from uvicorn's parser to the gateway's reading of its URL.

The request comes in two pieces. It is answered, or refused by the parser, or it is incomplete.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.calls.target import read_target
from gateway.media.accept import SERVE_CALL, Upgrade
from gateway.model.reasons import CallEnded, Reasons
from gateway.server.uvicorn_adapter import UpgradeProtocol
from serializers.registry import DIALECTS

REGIONS = ("us-west", "eu-central")
MAX_BODY_BYTES = 4096
PEER = ("127.0.0.1", 40000)
HERE = ("127.0.0.1", 7860)
ITERATIONS = 8
"""Iterations of the event loop: more than an answer takes."""


class _Wire(asyncio.Transport):
    """A connection that records what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": PEER, "sockname": HERE})
        self.written = b""
        self.protocol: Any = None
        self.closing = False

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def pause_reading(self) -> None:
        """Do nothing: nothing is read here."""

    def resume_reading(self) -> None:
        """Do nothing: nothing is read here."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing: nothing is buffered here."""


async def _not_found(scope: Any, receive: Any, send: Any) -> None:
    """Answer 404 to a plain request."""
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def _serve(upgrade: Upgrade) -> None:
    """Answer as a call does: for the request's fault or its URL, else with 101."""
    try:
        if upgrade.fault:
            raise CallEnded(Reasons.bad_request, upgrade.fault)
        upgrade.header("Authorization")
        read_target(
            upgrade.url,
            upgrade.header("Host"),
            carriers=DIALECTS.keys(),
            regions=REGIONS,
            region=REGIONS[0],
            max_body_bytes=MAX_BODY_BYTES,
        )
    except CallEnded as end:
        upgrade.refuse(end)
        return
    upgrade.accept(max_opening_bytes=1000, max_buffered_bytes=1000, on_disconnect=lambda _: None)


_loop = asyncio.new_event_loop()
_config = Config(
    _not_found, http="httptools", ws=UpgradeProtocol, log_config=None, access_log=False, lifespan="off"
)
_config.load()
logging.getLogger("uvicorn.error").disabled = True  # it logs each request that it cannot parse


def send_request(data: bytes) -> None:
    """Check that an upgrade is answered with 101 or an HTTP status of 4xx, and that nothing is raised."""
    _loop.run_until_complete(_send_request(data))


async def _send_request(data: bytes) -> None:
    wire = _Wire()
    upgrades: list[Upgrade] = []
    failures: list[BaseException] = []

    async def serve(upgrade: Upgrade) -> None:
        upgrades.append(upgrade)
        try:
            await _serve(upgrade)
        except BaseException as failure:
            failures.append(failure)
            raise

    state = ServerState()
    first = HttpToolsProtocol(config=_config, server_state=state, app_state={SERVE_CALL: serve}, _loop=_loop)
    wire.protocol = first
    first.connection_made(wire)
    half = len(data) // 2
    for piece in (data[:half], data[half:]):
        if piece and not wire.closing:
            wire.protocol.data_received(piece)
    for _ in range(ITERATIONS):
        await asyncio.sleep(0)
    for task in list(state.tasks):
        task.cancel()
    if failures:
        raise failures[0]
    if upgrades:
        assert wire.written.startswith(b"HTTP/1.1 "), wire.written
        status = int(wire.written[9:12])
        assert status == 101 or 400 <= status < 500, wire.written
    if hasattr(first, "timeout_keep_alive_task") and first.timeout_keep_alive_task is not None:
        first.timeout_keep_alive_task.cancel()
