# SPDX-License-Identifier: BSD-2-Clause
"""A stream that came to one worker, for a call that another worker has: docs/sockets.md.

    the opening was read → the socket is passed to the call's worker → it makes a leg of it → the call
    attaches it

All data that has come on the socket is passed with it, so the leg in the other worker is what it was in this
one. A socket that cannot be passed stays here, and all that comes on it goes through a tunnel: on the same
machine, where its TLS is ours, to a pair of sockets of which the other worker gets one; on another machine to
a connection that the other worker has accepted. If that cannot be (dead worker, call that cannot continue),
the stream stays in this worker.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import structlog

from gateway.calls.active import ActiveCall, ActiveCalls
from gateway.calls.services import CallServices
from gateway.config import AgentSettings
from gateway.media.leg import Leg
from gateway.media.socket_passing import (
    PassResult,
    SocketListener,
    SocketReturnedError,
    name_of,
    send_socket,
)
from gateway.nodes import remote_connection
from gateway.nodes.node_connection import StreamNotTaken
from gateway.nodes.nodes import Nodes, Reply
from gateway.nodes.tunnel import Tunnel, watch_far_end
from serializers.dialect import Dialect, DialectError
from serializers.events import Start
from serializers.opening import Opening
from serializers.registry import DIALECTS

log = structlog.get_logger(__name__)

TakeConnection = Callable[[socket.socket, bytes], Any]
"""Goes on with a connection of another node, of which these bytes were read; a coroutine."""


@dataclass(frozen=True, slots=True)
class RemoteCall:
    """A call that is active in another worker. `worker`: the worker's id. `nodes`: None for none."""

    worker: str
    session_id: str
    nodes: Nodes | None = None

    async def attach_stream(self, leg: Leg, carrier: str, agent: AgentSettings) -> bool | Tunnel:
        """Pass a leg of which the opening was read, and nothing else, to the call's worker.

        Return False if the leg stays here. Otherwise the leg is no more, and its far end has not noticed; of
        a Tunnel, `run` must be awaited.
        """
        if not leg.hold():
            return False
        opening, data = leg.opening_frames(), leg.buffered_data()
        header = {
            "session": self.session_id,
            "carrier": carrier,
            "agent": agent.service_host,
            "opening": len(opening),
        }
        message = json.dumps(header).encode() + b"\n" + data
        try:
            attached = await self._pass_within_machine(leg, message)
            if attached is None and self.nodes is not None:
                attached = await self._pass_to_node(self.nodes, leg, message)
        except BaseException:
            leg.discard()  # it is not known any more which worker has it
            raise
        if not attached:
            leg.resume()
            return False
        log.info(
            "socket handed over",
            session=self.session_id,
            worker=self.worker,
            tunnelled=isinstance(attached, Tunnel),
        )
        return attached

    async def _pass_within_machine(self, leg: Leg, message: bytes) -> bool | Tunnel | None:
        """Return True, or a tunnel, if the call's worker has the stream; None if it is on no worker here."""
        attached = None
        if self.nodes is not None:
            attached = await self._pass_to(name_of(self.worker, self.nodes.url), leg, message)
        # A gateway that is being replaced may have had no address yet.
        return await self._pass_to(self.worker, leg, message) if attached is None else attached

    async def _pass_to(self, name: str, leg: Leg, message: bytes) -> bool | Tunnel | None:
        descriptor = leg.detach_fd()
        if descriptor is None:
            return await self._tunnel_to(name, leg, message)
        passed = await send_socket(name, descriptor, message, leg.data_received)
        if passed is PassResult.TAKEN:
            leg.discard()
        return self._result(passed, leg)

    async def _tunnel_to(self, name: str, leg: Leg, message: bytes) -> bool | Tunnel | None:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                passed = await send_socket(name, theirs.fileno(), message)
            if passed is not PassResult.TAKEN:
                ours.close()
                return self._result(passed, leg)
            ours.setblocking(False)
            loop = asyncio.get_running_loop()
            transport, early = await loop.connect_accepted_socket(_EarlyData, ours)
        except BaseException:
            ours.close()
            raise
        return Tunnel(leg.give_up(), transport, early.data)

    async def _pass_to_node(self, nodes: Nodes, leg: Leg, message: bytes) -> bool | Tunnel:
        opened = await nodes.open_stream(self.worker, message)
        if isinstance(opened, Reply):
            passed = PassResult.UNKNOWN if opened is Reply.UNREACHABLE else PassResult.NOT_TAKEN
            return bool(self._result(passed, leg))
        watch_far_end(opened.transport)
        return Tunnel(leg.give_up(), opened.transport, opened.early, on_end=nodes.end_stream)

    def _result(self, passed: PassResult, leg: Leg) -> bool | None:
        if passed is PassResult.UNKNOWN:
            leg.discard()
            log.warning("a worker does not say whether it took a socket", session=self.session_id)
        return None if passed is PassResult.NOBODY else passed is not PassResult.NOT_TAKEN


async def attach_to_call(
    call: ActiveCall | RemoteCall, leg: Leg, start: Start | None, carrier: str, agent: AgentSettings
) -> bool | Tunnel:
    """Let an active call continue on this leg, whose `start` was read. Return False if it cannot.

    `start`: None for a generic client, which sends none. Of a Tunnel, `run` must be awaited.
    """
    if isinstance(call, RemoteCall):
        return await call.attach_stream(leg, carrier, agent)
    return call.attach_stream(leg, start)


class StreamHandovers:
    """Receives the streams that came to other workers, for calls of this one."""

    def __init__(
        self,
        services: CallServices,
        active: ActiveCalls,
        worker: str,
        take_connection: TakeConnection | None = None,
    ) -> None:
        """`worker`: this worker's id, which is the `owner` of its sessions in the store.

        `take_connection`: takes what other nodes have sent to another worker of this machine.
        """
        self._services = services
        self._active = active
        self._take_connection = take_connection
        node_url = None if services.nodes is None else services.nodes.url
        self._listener = SocketListener(name_of(worker, node_url), self._receive)

    def start(self) -> None:
        """Begin to accept streams. Call it in the worker's event loop."""
        self._listener.start()

    async def stop(self) -> None:
        """Accept no more streams, and wait for those that are being received."""
        await self._listener.stop()

    async def take_stream(
        self, transport: asyncio.Transport, message: bytes, accept: Callable[[], None]
    ) -> None:
        """Make a connection of another node, which is not read now, the carrier's socket of a call.

        `accept` is called once the call has it. Raises StreamNotTaken.
        """
        leg = await self._attach(transport, message, b"")
        if leg is None:
            raise StreamNotTaken("the call cannot go on with this socket")
        accept()
        asyncio.get_running_loop().call_soon(leg.resume)

    async def _receive(self, passed: socket.socket, message: bytes) -> bool:
        """Return True if the call has attached the stream; otherwise the sender keeps it."""
        if message.startswith(remote_connection.MARK):
            if self._take_connection is None:
                passed.close()
                return False
            await self._take_connection(passed, message.removeprefix(remote_connection.MARK))
            return True
        loop = asyncio.get_running_loop()
        transport, early = await loop.connect_accepted_socket(_EarlyData, passed)
        transport.pause_reading()
        leg = None
        try:
            leg = await self._attach(transport, message, early.data)
        finally:
            if leg is None:
                transport.close()
        if leg is not None:
            loop.call_soon(leg.resume)  # it is read here only after the sender knows that it is here
        elif early.data:
            raise SocketReturnedError(early.data)
        return leg is not None

    async def _attach(self, transport: asyncio.Transport, message: bytes, early: bytes) -> Leg | None:
        """Make a leg of a transport, and let the call that `message` names go on with it; None if it cannot.

        `early`: what was read behind the data of `message`.
        """
        head, _, data = message.partition(b"\n")
        header = json.loads(head)
        leg, is_attached = self._make_leg(transport), False
        try:
            start = None
            if dialect := DIALECTS.get(header["carrier"]):
                start = await _read_opening(leg, dialect, data[: header["opening"]])
            call = self._active.get(header["session"])
            has_ended = transport.is_closing()  # seen before there was a leg: the sender will see it, too
            if not has_ended and call is not None and call.can_attach(header["agent"], start):
                leg.buffer_messages(self._services.settings.limits.max_message_bytes)
                leg.data_received(data[header["opening"] :] + early)
                is_attached = call.attach_stream(leg, start)
        except DialectError:
            log.warning("a worker has handed over what is no opening", session=header["session"])
        finally:
            if not is_attached:
                leg.give_up()
        return leg if is_attached else None

    def _make_leg(self, transport: asyncio.Transport) -> Leg:
        limits = self._services.settings.limits
        return Leg(
            transport,
            client=False,
            max_opening_bytes=limits.max_opening_bytes,
            max_buffered_bytes=limits.max_early_bytes,
            on_disconnect=lambda _: None,
        )


class _EarlyData(asyncio.Protocol):
    """The protocol of a passed socket until it has a leg. `data`: what came meanwhile.

    It should not be read, since the sender may keep it, but uvloop does not stop reading for a
    `pause_reading` in `connection_made`: whatever has come by then is read before `connect_accepted_socket`
    returns.
    """

    def __init__(self) -> None:
        self.data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).pause_reading()

    def data_received(self, data: bytes) -> None:
        self.data += data


async def _read_opening(leg: Leg, dialect: Dialect, data: bytes) -> Start:
    """Read the opening again that the sender has read. Raises DialectError."""
    opening, start = Opening(dialect), None
    leg.data_received(data)
    while start is None:
        start = opening.feed(await leg.receive())
    return start
