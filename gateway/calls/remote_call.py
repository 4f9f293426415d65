# SPDX-License-Identifier: BSD-2-Clause
"""A second socket that came to one worker, for a call that another one carries: docs/sockets.md.

    the opening was read → the socket goes to the call's worker → a leg is made of it there → the call has it

What has come on the socket goes with it, so the other worker has a leg that is as this one was. Whatever is
against it (another machine, TLS, a worker that is gone, a call that cannot) leaves the socket where it came.
"""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import structlog

from gateway.calls.active import ActiveCall, ActiveCalls
from gateway.config import AgentSettings
from gateway.media.leg import Leg
from gateway.media.socket_passing import Listener, PassResult, send_socket
from serializers.dialect import Dialect, DialectError
from serializers.events import Start
from serializers.opening import Opening
from serializers.registry import DIALECTS

if TYPE_CHECKING:
    from gateway.calls.services import CallServices

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RemoteCall:
    """A call that runs in the worker of this id."""

    worker: str
    session_id: str

    async def take(self, leg: Leg, carrier: str, agent: AgentSettings) -> bool:
        """Hands a leg over, of which the opening was read and no more; whether it is here no longer."""
        descriptor = leg.detach_fd()
        if descriptor is None:
            return False
        opening, everything = leg.opening_frames(), leg.buffered_data()
        told = {
            "session": self.session_id,
            "carrier": carrier,
            "agent": agent.service_host,
            "opening": len(opening),
        }
        try:
            passed = await send_socket(
                self.worker, descriptor, json.dumps(told).encode() + b"\n" + everything
            )
        except BaseException:
            leg.discard()  # nobody knows any more whose it is
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
    running: ActiveCall | RemoteCall, leg: Leg, start: Start, carrier: str, agent: AgentSettings
) -> bool:
    """Whether the call that runs has taken another's leg, of which `start` was read, for this agent."""
    if isinstance(running, RemoteCall):
        return await running.take(leg, carrier, agent)
    return running.attach_stream(leg, start)


class StreamHandovers:
    """Takes the sockets that other workers have got for calls of this one."""

    def __init__(self, services: CallServices, active: ActiveCalls, worker: str) -> None:
        """`worker`: the id of this one, as sessions name their owner."""
        self._services = services
        self._active = active
        self._listener = Listener(worker, self._take)

    def start(self) -> None:
        self._listener.start()

    async def stop(self) -> None:
        await self._listener.stop()

    async def _take(self, own: socket.socket, message: bytes) -> bool:
        head, _, came = message.partition(b"\n")
        told = json.loads(head)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_accepted_socket(_Unread, own)
        leg, taken = self._leg(transport), False
        try:
            start = await _read(leg, DIALECTS[told["carrier"]], came[: told["opening"]])
            call = self._active.get(told["session"])
            if call is not None and call.can_attach(told["agent"], start):
                leg.buffer_messages(self._services.settings.limits.max_message_bytes)
                leg.data_received(came[told["opening"] :])
                taken = call.attach_stream(leg, start)
        except DialectError:
            log.warning("a worker has handed over what is no opening", session=told["session"])
        finally:
            if not taken:
                leg.discard()
        if taken:
            loop.call_soon(leg.resume)  # when the other worker has been told that it is here
        return taken

    def _leg(self, transport: asyncio.Transport) -> Leg:
        limits = self._services.settings.limits
        return Leg(
            transport,
            client=False,
            max_opening_bytes=limits.max_opening_bytes,
            max_buffered_bytes=limits.max_early_bytes,
            on_disconnect=lambda _: None,
        )


class _Unread(asyncio.Protocol):
    """Has a socket, and reads nothing: whether it is to be read here is not decided."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).pause_reading()


async def _read(leg: Leg, dialect: Dialect, opening: bytes) -> Start:
    """As the worker has read it where the socket came. Raises DialectError."""
    reading, start = Opening(dialect), None
    leg.data_received(opening)
    while start is None:
        start = reading.feed(await leg.receive())
    return start
