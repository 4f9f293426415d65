# SPDX-License-Identifier: BSD-2-Clause
"""The door: uvicorn's HTTP protocol with what it lacks, limits.

A client has a time to send the head of a request, and a size for it; neither uvicorn nor its parser has one.
Its address is said by gateway/server/client_address.py, for requests and upgrades alike. Who is too many
is refused
before any work is done (gateway/server/connection_limits.py), and so is who asks for a media socket while
there are no
files left to open (gateway/server/fd_reserve.py).

uvicorn promises its protocol class as little as it promises the hand-over to gateway/media/accept.py, so the
same pin and tests like its own watch over this.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.media.accept import Upgrade, plain_answer, refusal_of
from gateway.model.reasons import CallEnded
from gateway.server.connection_limits import ConnectionLimits
from gateway.server.fd_reserve import PATIENCE_S, FdReserve

MAX_HEAD_BYTES: Final = 65536
"""Of one request: its line and all headers, trailers too; and between two pieces of a body."""

_FORWARDED_FOR: Final = b"x-forwarded-for"


class _HeadTooLarge(Exception):  # noqa: N818 - it never leaves the parser
    """Raised inside the parser, which then gives up."""


class HttpProtocol(HttpToolsProtocol):
    """One connection, until it is a media socket or closed."""

    def __init__(  # noqa: PLR0917 - two of ours, then uvicorn's
        self,
        doorman: ConnectionLimits,
        spare: FdReserve,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(config, server_state, app_state, loop)
        self._doorman = doorman
        self._spare = spare
        self._is_proxy = False
        self._counted_as = ""
        self._patience: asyncio.TimerHandle | None = None
        self._fed_bytes = 0  # since the parser was last through with anything
        self._head_bytes = 0
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        self._is_proxy = self._doorman.peers.trusts(address)
        if not self._is_proxy:  # whom a proxy speaks for is known once it says so
            try:
                self._counted_as = self._doorman.enter(address)
            except CallEnded as refusal:
                self._refuse(refusal_of(refusal))
                return
        if self._spare.used_up:
            self._refuse(refusal_of(self._spare.refuse()))
            return
        self._be_patient()

    def connection_lost(self, exc: Exception | None) -> None:
        self._be_patient_no_more()
        self._doorman.leave(self._counted_as)
        self._counted_as = ""
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._fed_bytes += len(data)
        super().data_received(data)
        if self._fed_bytes > MAX_HEAD_BYTES and not self._refused:
            self._refuse_large()

    # What the parser says

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        self._be_patient()

    def on_url(self, url: bytes) -> None:
        self._measure(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._measure(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._fed_bytes = 0
        self._be_patient_no_more()
        if self._is_proxy and self.client is not None:
            self.scope["client"] = self._client(), self.client[1]
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._fed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._fed_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_large()
        elif not self._refused:
            super().send_400_response(msg)

    # A media socket

    def handle_websocket_upgrade(self) -> None:
        address = self._client()
        try:
            if self._spare.given_up:
                raise self._spare.refuse()
            if self._is_proxy:
                self._counted_as = self._doorman.enter(address)
            self._doorman.begin()
        except CallEnded as refusal:
            self._refuse(refusal_of(refusal))
            return
        self.connections.discard(self)
        upgrade = Upgrade(self.config, self.server_state, self.app_state, self.loop)
        counted_as, self._counted_as = self._counted_as, ""
        doorman = self._doorman

        def done() -> None:
            doorman.leave(counted_as)
            doorman.end()

        upgrade.on_done = done
        upgrade.connection_made(self.transport)
        upgrade.address = address
        self.transport.set_protocol(upgrade)
        lines = [self.scope["method"].encode(), b" ", self.url, b" HTTP/1.1\r\n"]
        for name, value in self.headers:
            lines += (name, b": ", value, b"\r\n")
        upgrade.data_received(b"".join([*lines, b"\r\n"]))
        del self.parser  # which holds this object: both go now, and not when a collector finds them

    def _client(self) -> str:
        address = self.client[0] if self.client else ""
        if not self._is_proxy:
            return address
        forwarded = b",".join(value for name, value in self.headers if name == _FORWARDED_FOR)
        return self._doorman.peers.client(address, forwarded.decode("latin-1"))

    # Refusals

    def _measure(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise _HeadTooLarge

    def _refuse_large(self) -> None:
        self._doorman.turned_away("the head of a request is too large")
        self._refuse(plain_answer(431, {"error": f"more than {MAX_HEAD_BYTES} bytes of head", "code": "431"}))

    def _refuse(self, answer: bytes) -> None:
        self._refused = True
        self._be_patient_no_more()
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()

    def _be_patient(self) -> None:
        if self._patience is None and not self._refused:
            timeout_s = self._doorman.handshake_timeout_s
            if self._spare.given_up:
                timeout_s = min(timeout_s, PATIENCE_S)
            self._patience = self.loop.call_later(timeout_s, self._too_slow)

    def _be_patient_no_more(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _too_slow(self) -> None:
        self._patience = None
        self._doorman.turned_away("the head of a request came too slowly")
        self._refuse(plain_answer(408, {"error": "the head of the request came too slowly", "code": "408"}))
