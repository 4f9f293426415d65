# SPDX-License-Identifier: BSD-2-Clause
"""The other nodes, as one worker reaches them: commands and questions to calls, and carriers' sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, Final

import structlog

from gateway.nodes.node_client import (
    MAX_ANSWER_BYTES,
    NodeClient,
    NodeRequest,
    NodeUnreachable,
    OpenedStream,
)
from gateway.nodes.node_directory import NodeDirectory
from gateway.nodes.node_signature import NodeSigner
from gateway.store.interface import StoreFailed

log = structlog.get_logger(__name__)

COMMAND_S: Final = 2.0
"""How long a node has to answer; a question has so much longer than its answer may take."""

OUTPUT: Final = "output"
MAX_OUTPUT_BYTES: Final = 4 * 1024 * 1024
"""Bytes of another node's answer about its output; it sends less (gateway/pool/agent_output.py)."""

MAX_TRIED: Final = 2
"""Workers of a node that are asked for its output: one may have ended a moment ago."""

MAX_STREAMS: Final = 500
"""Sockets that one worker passes on to other nodes at the same time."""


class Reply(Enum):
    """The outcome of a request to another node."""

    TAKEN = auto()
    NOT_HERE = auto()
    """The worker is there, and has no such session, or cannot do this now."""
    UNREACHABLE = auto()
    """There is no answer: it may have been taken, or not."""


class Nodes:
    """All other nodes. Every method answers within a bounded time, and raises nothing but what it says."""

    def __init__(
        self, worker: str, directory: NodeDirectory, secret: bytes, now: Callable[[], float]
    ) -> None:
        """`worker`: this worker's id. `now`: Unix seconds."""
        self.worker = worker
        self.url = directory.url
        self.directory = directory
        self._client = NodeClient(NodeSigner(secret, now))
        self._silent: set[str] = set()  # nodes that have not answered the last time, by URL
        self._streams = 0
        self.passing = 0
        """Streams between other nodes and other workers of this one that go through this worker."""

    async def command(self, worker: str, session_id: str, command: str) -> Reply:
        """Give a command to a worker, for a session of its own."""
        request = {"session": session_id, "command": command}
        return (await self._ask(worker, "command", request, COMMAND_S))[0]

    async def question(
        self, worker: str, session_id: str, command: str, timeout_s: float
    ) -> tuple[Reply, str | None]:
        """Put a question to a worker, and return its answer: JSON text, None if there is none in time."""
        request = {"session": session_id, "command": command, "seconds": timeout_s}
        reply, answer = await self._ask(worker, "question", request, timeout_s + COMMAND_S)
        text = answer.get("answer")
        return reply, text if isinstance(text, str) else None

    async def stop(self, worker: str, session_id: str) -> Reply:
        """Have a worker end a session of its own, which the store says is to stop."""
        return (await self._ask(worker, "stop", {"session": session_id}, COMMAND_S))[0]

    async def others(self) -> dict[str, list[str]]:
        """Return the workers of the other nodes, by their node's URL; none if the store does not answer."""
        try:
            async with asyncio.timeout(COMMAND_S):
                workers = await self.directory.all()
        except (StoreFailed, TimeoutError):
            return {}
        return {url: ids for url, ids in workers.items() if url != self.url}

    async def output(
        self, workers: Sequence[str], query: Mapping[str, Any], timeout_s: float
    ) -> Mapping[str, Any] | None:
        """Search what the instances of another node have printed; None if none of these workers answers."""
        for worker in workers[:MAX_TRIED]:
            reply, answer = await self._ask(worker, OUTPUT, {"query": query}, timeout_s)
            if reply is Reply.TAKEN:
                return answer
        return None

    async def open_stream(self, worker: str, message: bytes) -> OpenedStream | Reply:
        """Offer a worker a carrier's socket, and return the connection that stands for it.

        `message`: as one that passes a socket within the machine. While the stream is open, call `end_stream`
        at its end.
        """
        if self._streams >= MAX_STREAMS:
            log.warning("too many sockets are passed on to other nodes", sockets=self._streams)
            return Reply.NOT_HERE
        target = await self._request(worker, "stream", message)
        if target is None:
            return Reply.NOT_HERE
        try:
            opened = await self._client.open_stream(target, COMMAND_S)
        except NodeUnreachable as failure:
            self._note_silent(target.url, failure)
            return Reply.UNREACHABLE if failure.was_sent else Reply.NOT_HERE
        self._note_answer(target.url)
        if isinstance(opened, OpenedStream):
            self._streams += 1
            return opened
        self._note_status(worker, target.url, opened.status)
        return Reply.NOT_HERE

    def note_passing(self, change: int) -> None:
        """Note that so many more streams for other workers go through this one."""
        self.passing += change

    def end_stream(self) -> None:
        """Note that a stream has ended."""
        self._streams -= 1

    @property
    def streams(self) -> int:
        """How many sockets this worker passes on to other nodes."""
        return self._streams

    def close(self) -> None:
        """Close the connections that serve nothing."""
        self._client.close()

    async def _ask(
        self, worker: str, kind: str, request: Mapping[str, Any], timeout_s: float
    ) -> tuple[Reply, Mapping[str, Any]]:
        target = await self._request(worker, kind, json.dumps(request).encode())
        if target is None:
            return Reply.UNREACHABLE, {}
        try:
            answer = await self._client.ask(target, timeout_s)
        except NodeUnreachable as failure:
            self._note_silent(target.url, failure)
            return Reply.UNREACHABLE, {}
        self._note_answer(target.url)
        if answer.status != HTTPStatus.OK:
            self._note_status(worker, target.url, answer.status)
            return Reply.UNREACHABLE, {}
        content = json.loads(answer.body)  # of a node: it is signed
        return (Reply.TAKEN if content.get("taken") is True else Reply.NOT_HERE), content

    async def _request(self, worker: str, kind: str, body: bytes) -> NodeRequest | None:
        """Return the request, None if it is not known where the worker is, or it is this one."""
        if worker == self.worker:
            return None
        try:
            async with asyncio.timeout(COMMAND_S):
                url = await self.directory.url_of(worker)
        except (StoreFailed, TimeoutError):
            return None
        if url is None:
            return None
        most = MAX_OUTPUT_BYTES if kind == OUTPUT else MAX_ANSWER_BYTES
        return NodeRequest(worker, url, f"/nodes/1/{worker}/{kind}", body, most)

    # The log: one line when a node falls silent, one when it answers again

    def _note_silent(self, url: str, failure: NodeUnreachable) -> None:
        if url not in self._silent:
            self._silent.add(url)
            log.warning("a node does not answer", node=url, words=str(failure))

    def _note_answer(self, url: str) -> None:
        if url in self._silent:
            self._silent.discard(url)
            log.info("a node answers again", node=url)

    def _note_status(self, worker: str, url: str, status: int) -> None:
        if status == HTTPStatus.NOT_FOUND:  # the worker has ended, or the address is another machine's by now
            self.directory.forget(worker)
        elif status not in (HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY):
            log.warning("a node refuses a request", node=url, status=status)
