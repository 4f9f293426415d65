# SPDX-License-Identifier: BSD-2-Clause
"""The protocol of one request to upgrade, between uvicorn (uvicorn_adapter.py) and the call."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from gateway.media.accept import SERVE_CALL, ServeCall, Upgrade
from gateway.server.connection_limits import CallCount


class ServerState(Protocol):
    """The part of uvicorn's state of a server that is used here."""

    connections: set[Any]
    tasks: set[asyncio.Task[None]]


class UpgradeProtocol(asyncio.Protocol):
    """The protocol of one request to upgrade, from its head to its answer; what uvicorn takes as `ws=`.

    uvicorn creates one object for each such request, calls `connection_made`, feeds it the request's head,
    rebuilt from what it parsed, and makes it the transport's protocol. This object starts the `ServeCall`
    that the application has put into its lifespan state, and decides nothing. It stays in uvicorn's sets of
    connections and tasks until the call has ended, so that a stop waits for the call.
    """

    __slots__ = (
        "_connections",
        "_loop",
        "_serve_call",
        "_tasks",
        "_transport",
        "address",
        "count",
        "upgrade",
    )

    def __init__(
        self,
        config: object,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._loop = _loop or asyncio.get_running_loop()
        self._connections: set[Any] = server_state.connections
        self._tasks = server_state.tasks
        self._serve_call: ServeCall = app_state[SERVE_CALL]
        self._transport: asyncio.Transport | None = None  # until the head has come
        self.upgrade: Upgrade | None = None
        """The request, once its head has come."""
        self.address = ""
        """The client's address, or "" if there is none; may be changed until the head comes."""
        self.count: CallCount | None = None
        """Where the call is counted; None if it is not."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) else ""
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self.upgrade is not None:
            self.upgrade.data_received(data)
            return
        assert self._transport is not None
        # From here on the transport is the call's: a reference here would keep it for as long as the call.
        self.upgrade, self._transport = Upgrade(self._transport, data, self.address), None
        if self.count is not None:
            self.upgrade.on_verified = self.count.verify
            self.count.preempt = self._preempt
        task = self._loop.create_task(self._serve_call(self.upgrade))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.upgrade is not None:
            self.upgrade.connection_lost()

    def shutdown(self) -> None:
        """Tell the call that uvicorn stops and wants its connections closed."""
        if self.upgrade is not None and self.upgrade.on_shutdown is not None:
            self.upgrade.on_shutdown()

    def _preempt(self) -> bool:
        """End the call in favour of another. Return False if it may be one."""
        if self.upgrade is None or self.upgrade.on_preempted is None:
            return False
        self.upgrade.on_preempted()
        return True

    def _done(self, task: asyncio.Task[None]) -> None:
        self._connections.discard(self)
        self._tasks.discard(task)
        if self.upgrade is not None:
            self.upgrade.abort()  # no effect if it was answered
        if self.count is not None:
            self.count.end(failed=self.upgrade is None or self.upgrade.is_at_fault)
