# SPDX-License-Identifier: BSD-2-Clause
"""Workers of nodes in the test's process: what they were asked, and how they reach each other."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from gateway.media.socket_passing import SocketListener, name_of
from gateway.nodes.node_connection import NodeConnection, StreamNotTaken
from gateway.nodes.node_directory import NodeDirectory
from gateway.nodes.node_listener import NodeListener
from gateway.nodes.node_signature import NodeVerifier
from gateway.nodes.nodes import Nodes
from gateway.nodes.remote_connection import MARK, hand_on
from gateway.simulator.free_ports import free_port
from gateway.store.interface import StoredValue

SECRET = b"s" * 32


class Values:
    """The part of a store's key-values that a directory of nodes uses."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], StoredValue] = {}

    async def put(
        self, kind: str, key: str, value: str, *, now: float, expires_at: float | None = None
    ) -> None:
        self.values[kind, key] = StoredValue(kind, key, value, now, expires_at)

    async def get(self, kind: str, key: str, now: float) -> StoredValue | None:
        found = self.values.get((kind, key))
        return found if found is not None and (found.expires_at is None or now < found.expires_at) else None

    async def delete(self, kind: str, key: str) -> bool:
        return self.values.pop((kind, key), None) is not None


class Ear(asyncio.Protocol):
    """The end of a stream, and what it has heard."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.heard = b""
        self.has_ended = False
        transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.has_ended = True


class Echo(Ear):
    """The end of a stream at the call: it says again what it hears."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.transport.write(data)


class NodeWorker:
    """One worker at an address, and what others have asked of it."""

    def __init__(
        self, values: Any, url: str, *, secret: bytes = SECRET, clock: Callable[[], float] = time.time
    ) -> None:
        self.id = uuid.uuid4().hex
        self.url = url
        self.secret = secret
        self.clock = clock
        self.sessions: set[str] = set()
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        self.answer_to_questions: str | None = json.dumps({"heard_ms": 420})
        self.streams: list[tuple[bytes, Echo]] = []
        self.begun = 0
        self.nodes = Nodes(self.id, NodeDirectory(values, self.id, url, clock), secret, clock)
        self.listener: NodeListener
        self._passing: SocketListener

    async def start(self, tls: Any = None, *, accepts: bool = True) -> NodeWorker:
        """Listen. `accepts`: if not, only what other workers of the node hand on comes here."""
        self.listener = NodeListener(self.url, tls)
        name = name_of(self.id, self.url)
        self._passing = SocketListener(name, self._take)
        self._passing.start()

        async def pass_on(transport: asyncio.Transport, worker: str, read: bytes, is_stream: bool) -> bool:
            note = self.nodes.note_passing if is_stream else lambda _: None
            return await hand_on(transport, name_of(worker, self.url), read, note)

        await self.listener.start(self.id, NodeVerifier(self.secret, self.clock), self, pass_on)
        services = self.listener._services
        assert services is not None

        def begin(connection: NodeConnection) -> None:
            self.begun += 1
            services.on_begin(connection)

        self.listener._services = replace(services, on_begin=begin)
        if not accepts:
            assert self.listener._server is not None
            self.listener._server.close()
        await self.nodes.directory.announce()
        return self

    async def stop(self) -> None:
        self.nodes.close()
        await self.listener.stop()
        await self._passing.stop()
        for _, stream in self.streams:
            stream.transport.abort()

    @property
    def connections(self) -> int:
        return len(self.listener._connections)

    async def _take(self, passed: Any, message: bytes) -> bool:
        assert message.startswith(MARK)
        await self.listener.take(passed, message.removeprefix(MARK))
        return True

    # NodeHandlers

    async def answer(self, kind: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        self.asked.append((kind, request))
        if request.get("command") == "of a newer release":
            raise ValueError
        taken = request["session"] in self.sessions
        return {"taken": taken, "answer": self.answer_to_questions if taken else None}

    async def take_stream(
        self, transport: asyncio.Transport, message: bytes, accept: Callable[[], None]
    ) -> None:
        if message.decode() not in self.sessions:
            raise StreamNotTaken("no such call")
        accept()
        self.streams.append((message, Echo(transport)))
        transport.resume_reading()


def address(host: str = "127.0.0.1", scheme: str = "http") -> str:
    return f"{scheme}://{host}:{free_port()}"
