# SPDX-License-Identifier: BSD-2-Clause
"""A session socket: a client's WebSocket under the Session API, to the instance that runs the session.

    authenticate the client → find the session → connect its instance → relay → end, with one reason

It takes no slot and is no session of its own: it belongs to a running session, and ends with it at the latest
(docs/reference/public-api.md, "Session API"), or when the client's key is revoked.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Final

import structlog
from websockets.exceptions import InvalidHeader
from websockets.headers import parse_subprotocol
from websockets.uri import parse_uri

from gateway.auth.api_keys import Principal
from gateway.auth.limited_keys import TooManyRequests
from gateway.calls.services import CallServices
from gateway.calls.session_access import NO_KEY, SessionAccess
from gateway.calls.session_end import log_end, traffic_of
from gateway.calls.session_url import (
    PREFIX,
    KnownClient,
    SessionUrl,
    folded_name,
    forwarded,
    read_session_url,
    refuse_media_path,
    running_session,
)
from gateway.calls.termination import Termination
from gateway.media.accept import Upgrade
from gateway.media.disconnect import Disconnect, reason_for_agent, reason_for_carrier
from gateway.media.leg import Leg
from gateway.media.outgoing_leg import connect_leg_with
from gateway.media.relay import Relay
from gateway.media.relay_options import RelayLimits, RelayOptions
from gateway.model.addresses import service_host
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import SessionRecord
from gateway.store.interface import StoreFailed
from gateway.websocket import frames

log = structlog.get_logger(__name__)

MAX_DURATION_S: Final = 14400.0
"""Limit of every session (docs/reference/public-api.md, "Management"), and so of its sockets."""

MAX_SUBPROTOCOL_CHARACTERS: Final = 4096
"""Of `Sec-WebSocket-Protocol`. A client that carries a token in it has room."""

_HANDSHAKE: Final = b"sec-websocket-"


def is_session_socket(upgrade: Upgrade) -> bool:
    """Return True if the upgrade asks for a session socket, not for a media socket."""
    return upgrade.url.path.startswith(PREFIX)


class SessionSocket:
    """One session socket, from its upgrade to its end."""

    def __init__(self, services: CallServices, upgrade: Upgrade) -> None:
        """Take over the upgrade's callbacks; `run` serves it."""
        self._services = services
        self._limits = services.settings.limits
        self._upgrade = upgrade
        self._termination = Termination()
        self._log = log
        self._leg: Leg | None = None
        self._agent_leg: Leg | None = None
        self._relay: Relay | None = None
        self._close: tuple[int, str] | None = None  # from the leg that closed first; passed on to the other
        self._began_at = services.now()
        upgrade.on_disconnect = self._client_disconnected
        upgrade.on_shutdown = lambda: self._termination.set(CallEnded(Reasons.draining, "the gateway stops"))

    async def run(self) -> None:
        """Serve the socket to its end. Raises nothing."""
        try:
            end = await self._serve()
        except CallEnded as ended:
            end = ended
        except StoreFailed as error:
            end = CallEnded(Reasons.store_failed, str(error))
        except Exception:  # noqa: BLE001 - the edge of the socket's task: it ends this socket and no other
            self._log.exception("internal error")
            end = CallEnded(Reasons.internal_error)
        await self._finish(end)

    async def _serve(self) -> CallEnded:
        """Serve the socket. Return the end of its relay; raise CallEnded if it ends before that starts."""
        if self._upgrade.fault:
            raise CallEnded(Reasons.bad_request, self._upgrade.fault)
        async with AsyncExitStack() as watching:
            async with self._termination.cancel_scope():
                principal = await self._authenticate()
                url = read_session_url(self._upgrade.url.path, self._upgrade.url.query)
                agent = service_host(url.agent, principal.organization)
                refuse_media_path(url, self._services.agents.media_paths(agent))
                session = await running_session(
                    self._services.store,
                    url,
                    principal.organization,
                    wait_s=self._limits.agent_connect_timeout,
                )
                self._log = self._log.bind(session=session.session_id, agent=session.agent)
                access = SessionAccess(self._services, principal, session.session_id)
                await watching.enter_async_context(
                    access.watched(
                        self._termination.set, CallEnded(Reasons.agent_ended, "the session is over")
                    )
                )
                subprotocol = await self._connect(session, url)
                self._leg = self._upgrade.accept(
                    max_opening_bytes=self._limits.max_message_bytes,
                    max_buffered_bytes=self._limits.max_early_bytes,
                    on_disconnect=self._client_disconnected,
                    subprotocol=subprotocol,
                )
                self._leg.buffer_messages(self._limits.max_message_bytes)
                await asyncio.sleep(0)  # its 101 is on its way before anything else is
            return await self._relayed()

    # The steps, in their order

    async def _authenticate(self) -> Principal:
        """Return the owner of the key in `Authorization: Bearer`. Public and private keys are accepted.

        Raises CallEnded: NO_KEY, or rate_limited as a request with this key, or from this address, would be.
        """
        scheme, _, key = self._upgrade.header("Authorization").partition(" ")
        keys, principal = self._services.limited_keys, None
        try:
            if scheme.lower() == "bearer" and key.strip():
                principal = await keys.identify(key.strip(), self._upgrade.address)
            if principal is None:
                raise CallEnded(NO_KEY, "Unauthorized / token expired")
            keys.charge(principal)
        except TooManyRequests as limit:
            reason = replace(Reasons.rate_limited, retry_after=math.ceil(limit.wait_s))
            raise CallEnded(reason, "more requests than this key, or this address, may make") from None
        self._log = self._log.bind(organization=principal.organization, key=principal.key_id)
        self._upgrade.verified()
        return principal

    async def _connect(self, session: SessionRecord, url: SessionUrl) -> str | None:
        """Connect the instance's own WebSocket. Return the subprotocol that the instance chose."""
        assert self._upgrade.request is not None
        received = [
            (name.lower().encode("utf-8", "surrogateescape"), value.encode("utf-8", "surrogateescape"))
            for name, value in self._upgrade.request.headers
        ]
        headers = forwarded(
            [(name, value) for name, value in received if not folded_name(name).startswith(_HANDSHAKE)],
            session.session_id,
            None,
            KnownClient(self._upgrade.address, self._services.settings.server.scheme),
        )
        uri = parse_uri(f"ws{session.instance.removeprefix('http')}")
        timeout_s = self._limits.agent_connect_timeout
        try:
            async with asyncio.timeout(timeout_s):
                self._agent_leg, subprotocol = await connect_leg_with(
                    replace(uri, path=url.path, query=url.query),
                    headers,
                    self._subprotocols(),
                    max_message_bytes=self._limits.max_message_bytes,
                    max_buffered_bytes=self._limits.max_early_bytes,
                    on_disconnect=self._agent_disconnected,
                )
        except TimeoutError:
            raise CallEnded(Reasons.agent_start_timeout, f"no answer within {timeout_s:g} s") from None
        return subprotocol

    def _subprotocols(self) -> list[str]:
        """Return the subprotocols that the client offers, in its order (RFC 6455 §4.2.2)."""
        header = self._upgrade.header("Sec-WebSocket-Protocol")
        if len(header) > MAX_SUBPROTOCOL_CHARACTERS:
            raise CallEnded(Reasons.bad_request, "there are too many subprotocols")
        try:
            return list(parse_subprotocol(header)) if header else []
        except InvalidHeader as error:
            raise CallEnded(Reasons.bad_request, str(error)) from None

    async def _relayed(self) -> CallEnded:
        """Relay frames until one side ends. Silence ends nothing: the session decides how long it lasts."""
        assert self._leg is not None
        assert self._agent_leg is not None
        options = RelayOptions(
            dialect=None,
            limits=RelayLimits(
                max_duration_s=MAX_DURATION_S,
                idle_s=2 * MAX_DURATION_S,
                stall_s=self._limits.stall_timeout,
                close_s=self._limits.close_timeout,
                max_message_bytes=self._limits.max_message_bytes,
                ping_s=self._limits.ping_interval,
            ),
            on_first_sound=lambda: None,
        )
        self._relay = Relay(self._leg, self._agent_leg, options)
        self._leg = self._agent_leg = None  # their sockets are the relay's now
        self._relay.start()
        self._termination.hand_over(self._relay.end)
        return await self._relay.ended

    # The end

    async def _finish(self, end: CallEnded) -> None:
        """Close the sockets that are still open, and log the end."""
        was_relayed = self._relay is not None
        traffic = traffic_of(self._relay, None)
        if self._relay is not None:
            await self._relay.closed
        else:
            if self._agent_leg is not None:
                code = frames.INTERNAL_ERROR if end.reason.failed else frames.NORMAL_CLOSURE
                self._agent_leg.close(*self._close or (code, end.public_detail))
            if self._leg is not None:
                self._leg.close(*self._close or (end.reason.close_code, end.public_detail))
            else:
                self._refuse(end)
        log_end(
            self._log,
            "passage ended" if was_relayed else "passage refused",
            end,
            seconds=self._services.now() - self._began_at,
            ran=was_relayed,
            traffic=traffic,
        )

    def _refuse(self, end: CallEnded) -> None:
        if end.reason.status is None:  # the instance or the client closed between handshake and relay
            end = CallEnded(Reasons.agent_lost, end.detail, public_detail=end.public_detail)
        self._upgrade.refuse(end)

    # What the legs report before the relay has their sockets

    def _client_disconnected(self, disconnect: Disconnect) -> None:
        self._disconnected(disconnect, reason_for_carrier(disconnect))

    def _agent_disconnected(self, disconnect: Disconnect) -> None:
        self._disconnected(disconnect, reason_for_agent(disconnect))

    def _disconnected(self, disconnect: Disconnect, end: CallEnded) -> None:
        if self._termination.end is None and disconnect.has_code:
            self._close = disconnect.code, disconnect.reason
        self._termination.set(end)
