# SPDX-License-Identifier: BSD-2-Clause
"""The story of a passage: a WebSocket under the Session API, to the instance that runs the session.

    prove the caller → find the session → connect its instance → relay → end, with one reason

It takes no place and is no session of its own: it lives within one that runs, and ends with it at the latest
(docs/reference/public-api.md, "Session API").
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import structlog
from websockets.exceptions import InvalidHeader
from websockets.headers import parse_subprotocol
from websockets.uri import parse_uri

from gateway.auth.api_keys import Principal
from gateway.calls.session_end import log_end, traffic_of
from gateway.calls.session_events import session_events
from gateway.calls.session_url import PREFIX, SessionUrl, forwarded, read_session_url, running_session
from gateway.calls.termination import Termination
from gateway.media.accept import Upgrade
from gateway.media.disconnect import Disconnect, reason_for_agent, reason_for_carrier
from gateway.media.leg import Leg
from gateway.media.outgoing_leg import connect_leg_with
from gateway.media.relay import Relay
from gateway.media.relay_options import RelayLimits, RelayOptions
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import SessionRecord
from gateway.store.interface import StoreFailed
from gateway.websocket import frames

if TYPE_CHECKING:
    from gateway.calls.services import CallServices

log = structlog.get_logger(__name__)

NO_KEY: Final = replace(Reasons.unauthorized, status=int(HTTPStatus.UNAUTHORIZED))
"""docs/reference/public-api.md, "Keys": 401 where a key is missing; the media sockets' 403 is about
tokens.
"""

LONGEST_S: Final = 14400.0
"""The longest that a session may last (docs/reference/public-api.md, "Management"), and so a passage."""

_HANDSHAKE: Final = b"sec-websocket-"


def is_session_socket(upgrade: Upgrade) -> bool:
    """Whether this upgrade asks for a passage rather than for a media socket."""
    return upgrade.url.path.startswith(PREFIX)


class SessionSocket:
    """One passage: what is known of it so far."""

    def __init__(self, services: CallServices, upgrade: Upgrade) -> None:
        self._services = services
        self._limits = services.settings.limits
        self._upgrade = upgrade
        self._termination = Termination()
        self._log = log
        self._leg: Leg | None = None
        self._agent_leg: Leg | None = None
        self._relay: Relay | None = None
        self._goodbye: tuple[int, str] | None = None  # what who left first said; the other is told the same
        self._began_at = services.now()
        upgrade.on_disconnect = self._client_gone
        upgrade.on_shutdown = lambda: self._termination.set(CallEnded(Reasons.draining, "the gateway stops"))

    async def run(self) -> None:
        """Tells the story and sees to its end. Raises nothing."""
        try:
            end = await self.tell()
        except CallEnded as refusal:
            end = refusal
        except StoreFailed as error:
            end = CallEnded(Reasons.store_failed, str(error))
        except Exception:  # noqa: BLE001 - the edge of the passage's task: it ends this one and no other
            self._log.exception("internal error")
            end = CallEnded(Reasons.internal_error)
        await self._finish(end)

    async def tell(self) -> CallEnded:
        """The story. Returns the end of a passage that was relayed; raises CallEnded for every other."""
        if self._upgrade.fault:
            raise CallEnded(Reasons.bad_request, self._upgrade.fault)
        async with self._termination.cancel_scope():
            principal = await self._prove_caller()
            url = read_session_url(self._upgrade.url.path, self._upgrade.url.query)
            session = await running_session(
                self._services.store, url, principal.organization, wait_s=self._limits.agent_connect_timeout
            )
            self._log = self._log.bind(session=session.session_id, agent=session.agent)
            subprotocol = await self._connect(session, url)
            self._leg = self._upgrade.accept(
                max_opening_bytes=self._limits.max_message_bytes,
                max_buffered_bytes=self._limits.max_early_bytes,
                on_disconnect=self._client_gone,
                subprotocol=subprotocol,
            )
            self._leg.buffer_messages(self._limits.max_message_bytes)
            await asyncio.sleep(0)  # its 101 is on its way before anything else is
        with self._no_longer_than(session):
            return await self._couple()

    # The steps, in their order

    async def _prove_caller(self) -> Principal:
        """Whose key it is, public or private: `Authorization: Bearer`, and no other place."""
        scheme, _, key = self._upgrade.header("Authorization").partition(" ")
        principal = None
        if scheme.lower() == "bearer" and key.strip():
            principal = await self._services.api_keys.identify(key.strip())
        if principal is None:
            raise CallEnded(NO_KEY, "Unauthorized / token expired")
        self._log = self._log.bind(organization=principal.organization, key=principal.key_id)
        return principal

    async def _connect(self, session: SessionRecord, url: SessionUrl) -> str | None:
        """The instance's own WebSocket; gives the subprotocol that it has taken."""
        assert self._upgrade.request is not None
        given = [
            (name.lower().encode("utf-8", "surrogateescape"), value.encode("utf-8", "surrogateescape"))
            for name, value in self._upgrade.request.headers
        ]
        headers = forwarded(
            [(name, value) for name, value in given if not name.startswith(_HANDSHAKE)],
            session.session_id,
            None,
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
                    on_disconnect=self._agent_gone,
                )
        except TimeoutError:
            raise CallEnded(Reasons.agent_start_timeout, f"no answer within {timeout_s:g} s") from None
        return subprotocol

    def _subprotocols(self) -> list[str]:
        """Those that the client names, in its order (RFC 6455 §4.2.2)."""
        named = self._upgrade.header("Sec-WebSocket-Protocol")
        try:
            return list(parse_subprotocol(named)) if named else []
        except InvalidHeader as error:
            raise CallEnded(Reasons.bad_request, str(error)) from None

    async def _couple(self) -> CallEnded:
        """Relays until somebody ends it. Silence ends nothing: it is the session's to last."""
        assert self._leg is not None
        assert self._agent_leg is not None
        options = RelayOptions(
            dialect=None,
            limits=RelayLimits(
                max_duration_s=LONGEST_S,
                idle_s=2 * LONGEST_S,
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

    @contextmanager
    def _no_longer_than(self, session: SessionRecord) -> Iterator[None]:
        """Ends the passage when its session is over: the instance may be the next caller's by then."""

        def is_over(over: asyncio.Future[None]) -> None:
            if not over.cancelled():
                self._termination.set(CallEnded(Reasons.agent_ended, "the session is over"))

        with session_events(self._services.store).waiting(session.session_id) as over:
            over.add_done_callback(is_over)
            yield

    # The end

    async def _finish(self, end: CallEnded) -> None:
        """Tells whoever is still there, and says it in one line."""
        relayed = self._relay is not None
        traffic = traffic_of(self._relay, None)
        if self._relay is not None:
            await self._relay.closed
        else:
            if self._agent_leg is not None:
                code = frames.INTERNAL_ERROR if end.reason.failed else frames.NORMAL_CLOSURE
                self._agent_leg.close(*self._goodbye or (code, end.detail))
            if self._leg is not None:
                self._leg.close(*self._goodbye or (end.reason.close_code, end.detail))
            else:
                self._refuse(end)
        log_end(
            self._log,
            "passage ended" if relayed else "passage refused",
            end,
            seconds=self._services.now() - self._began_at,
            traffic=traffic,
        )

    def _refuse(self, end: CallEnded) -> None:
        if end.reason.status is None:  # the instance has taken it and left again, or the client has
            end = CallEnded(Reasons.agent_lost, end.detail)
        self._upgrade.refuse(end)

    # What the legs report before they are coupled

    def _client_gone(self, gone: Disconnect) -> None:
        self._gone(gone, reason_for_carrier(gone))

    def _agent_gone(self, gone: Disconnect) -> None:
        self._gone(gone, reason_for_agent(gone))

    def _gone(self, gone: Disconnect, end: CallEnded) -> None:
        if self._termination.end is None and gone.has_code:
            self._goodbye = gone.code, gone.reason
        self._termination.set(end)
