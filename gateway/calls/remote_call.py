# SPDX-License-Identifier: BSD-2-Clause
"""A stream that came to one worker, for a call that another worker has: docs/sockets.md.

    the opening was read → the socket is passed to the call's worker → it makes a leg of it → the call
    attaches it

All data that has come on the socket is passed with it, so the leg in the other worker is what it was in this
one. If the socket cannot be passed (other machine, TLS, dead worker, call that cannot continue), it stays in
this worker.
"""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import dataclass
from typing import cast

import structlog

from gateway.calls.active import ActiveCall, ActiveCalls
from gateway.calls.services import CallServices
from gateway.config import AgentSettings
from gateway.media.leg import Leg
from gateway.media.socket_passing import PassResult, SocketListener, SocketReturnedError, send_socket
from serializers.dialect import Dialect, DialectError
from serializers.events import Start
from serializers.opening import Opening
from serializers.registry import DIALECTS

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RemoteCall:
    """A call that is active in another worker. `worker`: the worker's id."""

    worker: str
    session_id: str

    async def attach_stream(self, leg: Leg, carrier: str, agent: AgentSettings) -> bool:
        """Pass a leg of which the opening was read, and nothing else, to the call's worker.

        Return False if the leg stays here. If True, the leg is closed here, and its far end has not noticed.
        """
        descriptor = leg.detach_fd()
        if descriptor is None:
            return False
        opening, data = leg.opening_frames(), leg.buffered_data()
        header = {
            "session": self.session_id,
            "carrier": carrier,
            "agent": agent.service_host,
            "opening": len(opening),
        }
        try:
            message = json.dumps(header).encode() + b"\n" + data
            passed = await send_socket(self.worker, descriptor, message, leg.data_received)
        except BaseException:
            leg.discard()  # it is not known any more which worker has it
            raise
        if passed is PassResult.NOT_TAKEN:
            leg.resume()
            return False
        leg.discard()
        if passed is PassResult.UNKNOWN:
            log.warning("a worker does not say whether it took a socket", session=self.session_id)
        else:
            log.info("socket handed over", session=self.session_id, worker=self.worker)
        return True


async def attach_to_call(
    call: ActiveCall | RemoteCall, leg: Leg, start: Start | None, carrier: str, agent: AgentSettings
) -> bool:
    """Let an active call continue on this leg, whose `start` was read. Return False if it cannot.

    `start`: None for a generic client, which sends none.
    """
    if isinstance(call, RemoteCall):
        return await call.attach_stream(leg, carrier, agent)
    return call.attach_stream(leg, start)


class StreamHandovers:
    """Receives the streams that came to other workers, for calls of this one."""

    def __init__(self, services: CallServices, active: ActiveCalls, worker: str) -> None:
        """`worker`: this worker's id, which is the `owner` of its sessions in the store."""
        self._services = services
        self._active = active
        self._listener = SocketListener(worker, self._receive)

    def start(self) -> None:
        """Begin to accept streams. Call it in the worker's event loop."""
        self._listener.start()

    async def stop(self) -> None:
        """Accept no more streams, and wait for those that are being received."""
        await self._listener.stop()

    async def _receive(self, passed: socket.socket, message: bytes) -> bool:
        """Return True if the call has attached the stream; otherwise the sender keeps it."""
        head, _, data = message.partition(b"\n")
        header = json.loads(head)
        loop = asyncio.get_running_loop()
        transport, early = await loop.connect_accepted_socket(_EarlyData, passed)
        transport.pause_reading()
        leg, is_attached = self._make_leg(transport), False
        try:
            start = None
            if dialect := DIALECTS.get(header["carrier"]):
                start = await _read_opening(leg, dialect, data[: header["opening"]])
            call = self._active.get(header["session"])
            has_ended = transport.is_closing()  # seen before there was a leg: the sender will see it, too
            if not has_ended and call is not None and call.can_attach(header["agent"], start):
                leg.buffer_messages(self._services.settings.limits.max_message_bytes)
                leg.data_received(data[header["opening"] :] + early.data)
                is_attached = call.attach_stream(leg, start)
        except DialectError:
            log.warning("a worker has handed over what is no opening", session=header["session"])
        finally:
            if not is_attached:
                leg.discard()
        if is_attached:
            loop.call_soon(leg.resume)  # it is read here only after the sender knows that it is here
        elif early.data:
            raise SocketReturnedError(early.data)
        return is_attached

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
