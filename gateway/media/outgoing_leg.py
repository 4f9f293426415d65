# SPDX-License-Identifier: BSD-2-Clause
"""Connects to an agent instance as a WebSocket client (docs/reference/agent-container.md, `WS /ws`)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable, Sequence
from functools import cache

from websockets.uri import WebSocketURI

from gateway.dns.resolver import resolver_of
from gateway.media.disconnect import Disconnect
from gateway.media.leg import Leg
from gateway.media.translated_transport import TranslatedTransport
from gateway.model.connection_errors import cause_without_address
from gateway.model.os_limits import is_out_of_resources
from gateway.model.reasons import CallEnded, Reasons
from gateway.websocket.handshake import ClientHandshake, NotAWebSocketError
from serializers.translation.translator import Translator

MAX_HEAD_BYTES = 65536
_END_OF_HEAD = b"\r\n\r\n"


@cache
def tls_context() -> ssl.SSLContext:
    """Return the context that agents' certificates are verified with, the same for every connection.

    It holds the system's certificate authorities, which take 25 ms and 800 kB to read.
    """
    return ssl.create_default_context()


async def connect_leg_with(
    uri: WebSocketURI,
    headers: Iterable[tuple[str, str]],
    subprotocols: Sequence[str] = (),
    *,
    max_message_bytes: int,
    max_buffered_bytes: int,
    on_disconnect: Callable[[Disconnect], None],
    translator: Translator | None = None,
) -> tuple[Leg, str | None]:
    """Connect to `uri`. Return the agent's leg, which only buffers, and the subprotocol that the agent chose.

    Waits without a limit: the caller sets one. Raises CallEnded(agent_unreachable) if the connection fails or
    the answer is not 101, and CallEnded(overloaded) if this machine has no descriptors or ports left.
    `on_disconnect` is called at most once, if the agent leaves before a relay takes the leg.

    `uri`: its path and query go into the request line unchanged. `headers`: several of one name are allowed,
    those of the handshake itself are not. `subprotocols`: what is offered, the preferred one first.
    `translator`: of an agent that does not speak the carrier's dialect; the leg does all the same.
    """
    try:
        transport, handshake = await _connect(uri, lambda: _Handshake(uri, headers, subprotocols))
    except OSError as error:
        reason = Reasons.overloaded if is_out_of_resources(error) else Reasons.agent_unreachable
        raise CallEnded(
            reason,
            f"connecting to {_where(uri)} failed: {_detail(error)}",
            public_detail=f"connecting to the agent failed: {cause_without_address(error)}",
        ) from None
    try:
        early = await handshake.done
    except BaseException:
        transport.abort()
        raise
    if translator is not None:
        transport = TranslatedTransport(transport, translator, max_message_bytes=max_message_bytes)
    leg = Leg(
        transport,
        client=True,
        max_opening_bytes=max_message_bytes,
        max_buffered_bytes=max_buffered_bytes,
        on_disconnect=on_disconnect,
    )
    leg.buffer_messages(max_message_bytes)
    transport.resume_reading()
    if early:
        (transport if isinstance(transport, TranslatedTransport) else leg).data_received(early)
    return leg, handshake.subprotocol


async def _connect(
    uri: WebSocketURI, protocol: Callable[[], _Handshake]
) -> tuple[asyncio.Transport, _Handshake]:
    """Connect to the first address of the host that takes a connection. Raises OSError."""
    loop = asyncio.get_running_loop()
    failure: OSError | None = None
    for address in await resolver_of(loop).resolve(uri.host):
        try:
            return await loop.create_connection(
                protocol,
                address,
                uri.port,
                ssl=tls_context() if uri.secure else None,
                server_hostname=uri.host if uri.secure else None,
            )
        except OSError as error:
            failure = error
            if is_out_of_resources(error):
                break
    assert failure is not None
    raise failure


class _Handshake(asyncio.Protocol):
    """Sends the request to upgrade and reads its answer.

    `done`: the bytes that came after the answer, or CallEnded(agent_unreachable).
    """

    def __init__(
        self, uri: WebSocketURI, headers: Iterable[tuple[str, str]], subprotocols: Sequence[str]
    ) -> None:
        self._handshake = ClientHandshake(uri, headers, subprotocols)
        self._where = _where(uri)
        self._head = b""
        self.subprotocol: str | None = None
        """The subprotocol that the agent chose, once `done`."""
        self.done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        transport.write(self._handshake.request)

    def data_received(self, data: bytes) -> None:
        self._head += data
        head, end, early = self._head.partition(_END_OF_HEAD)
        if end:
            self._read_answer(head + end, early)
        elif len(self._head) > MAX_HEAD_BYTES:
            self._fail("answered with more than an HTTP head")

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("closed the connection without an answer")

    def _read_answer(self, head: bytes, early: bytes) -> None:
        status = head.split(b" ", 2)[1:2]
        if head.startswith(b"HTTP/1.1 ") and status and status[0] != b"101":
            self._fail(f"answered {status[0][:3].decode('ascii', 'replace')} instead of 101")
            return
        try:
            # Only the head: the bytes behind it are frames.
            self.subprotocol = self._handshake.read_answer(head)
        except NotAWebSocketError as error:
            self._fail(f"did not answer as a WebSocket server: {error}")
            return
        if not self.done.done():
            self._transport.pause_reading()  # until the leg is the protocol
            self.done.set_result(early)

    def _fail(self, detail: str) -> None:
        if not self.done.done():
            end = CallEnded(
                Reasons.agent_unreachable, f"{self._where} {detail}", public_detail=f"the agent {detail}"
            )
            self.done.set_exception(end)


def _where(uri: WebSocketURI) -> str:
    return f"{uri.host}:{uri.port}"


def _detail(error: OSError) -> str:
    return (error.strerror or str(error) or type(error).__name__).lower()
