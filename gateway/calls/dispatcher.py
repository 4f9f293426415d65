# SPDX-License-Identifier: BSD-2-Clause
"""Where upgrades and commands go: to a new call, a session socket, or a call that is running."""

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
        """Connects itself to the command bus of `services`."""
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
        """End the session's call and its dialing. False if this worker has neither.

        An outbound call may be stopped at the moment its stream arrives: then both are told.
        """
        dialing = self._outbound.stop(session_id, end)
        return self._active.terminate(session_id, end) or dialing

    def deliver(self, session_id: str, command: CallCommand) -> bool:
        """Give a command to the session's call. False if this worker has none, or it cannot be followed
        now.
        """
        call = self._active.get(session_id)
        if call is None or command is CallCommand.GIVE_UP:
            return self._outbound.handle(session_id, command)
        return call.handle(command)
