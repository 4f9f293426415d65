# SPDX-License-Identifier: BSD-2-Clause
"""The dispatcher: it takes each upgrade and each command to the call that it is for.

An upgrade becomes an inbound call or a session socket. A command goes to an active call, or to an outbound
call that is being dialed.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from gateway.calls.active import ActiveCalls
from gateway.calls.command_bus import CallCommand
from gateway.calls.inbound import InboundCall
from gateway.calls.outbound.outbound_calls import OutboundCalls
from gateway.calls.services import CallServices
from gateway.calls.session_socket import SessionSocket, is_session_socket
from gateway.media.accept import Upgrade
from gateway.model.reasons import CallEnded


class Dispatcher:
    """One worker's dispatcher. It alone makes inbound calls and session sockets."""

    def __init__(self, services: CallServices, active: ActiveCalls, outbound: OutboundCalls) -> None:
        """Connect to the command bus of `services`."""
        self._services = services
        self._active = active
        self._outbound = outbound
        services.commands.connect(self.deliver)

    def serve(self, upgrade: Upgrade) -> Coroutine[Any, Any, None]:
        """Serve one WebSocket from its upgrade to its end."""
        if is_session_socket(upgrade):
            return SessionSocket(self._services, upgrade).run()
        return InboundCall(self._services, self._active, upgrade).run()

    def terminate(self, session_id: str, end: CallEnded) -> bool:
        """End the session's call and its dialing. Return False if this worker has neither.

        An outbound call can be stopped at the moment its stream arrives; then both exist and both are ended.
        So can a call whose stream is awaited.
        """
        was_dialing = self._outbound.stop(session_id, end)
        was_awaited = self._services.awaited.stop(session_id, end)
        return self._active.terminate(session_id, end) or was_dialing or was_awaited

    def deliver(self, session_id: str, command: CallCommand) -> bool:
        """Deliver a command to the session's call.

        Return False if this worker has no such call, or the call cannot follow the command now.
        """
        call = self._active.get(session_id)
        if call is None or command is CallCommand.CANCEL:
            return self._outbound.handle(session_id, command) or self._services.awaited.handle(
                session_id, command
            )
        return call.handle(command)
