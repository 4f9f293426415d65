# SPDX-License-Identifier: BSD-2-Clause
"""A name server on loopback, over UDP and TCP, that answers as a test says (RFC 1035)."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

A, AAAA = 1, 28
NO_ERROR, SERVFAIL, NXDOMAIN, REFUSED = 0, 2, 3, 5
MAX_UDP_BYTES = 512

_HEADER = struct.Struct("!HHHHHH")


@dataclass
class NameServer:
    """The records of the names it knows, all others do not exist; and what it does instead.

    `ttl`: of every record. `fails`: returns an RCODE for a name and type, None to answer by the records.
    `is_silent`: nothing is answered. `garbage`: what is answered in place of everything, behind the id.
    `questions`: name and type of each question that came.
    """

    port: int = 0
    records: dict[str, list[str]] = field(default_factory=dict)
    ttl: int = 0
    fails: Callable[[str, int], int | None] = lambda name, kind: None
    is_silent: bool = False
    garbage: bytes | None = None
    questions: list[tuple[str, int]] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def address(self) -> str:
        """Its address, as a setting has it."""
        return f"127.0.0.1:{self.port}"

    async def asked(self, count: int) -> None:
        """Wait until this many more questions have come. Bound the wait with `asyncio.timeout`."""
        target = len(self.questions) + count
        while len(self.questions) < target:
            self.arrived.clear()
            await self.arrived.wait()

    def answer(self, query: bytes, *, over_udp: bool) -> bytes | None:
        """Return the answer to a query, None for none."""
        labels, at = [], _HEADER.size
        while length := query[at]:
            labels.append(query[at + 1 : at + 1 + length].decode("ascii"))
            at += 1 + length
        name, (kind,) = ".".join(labels).lower(), struct.unpack_from("!H", query, at + 1)
        question = query[_HEADER.size : at + 5]
        self.questions.append((name, kind))
        self.arrived.set()
        if self.is_silent:
            return None
        if self.garbage is not None:
            return query[:2] + self.garbage
        code = self.fails(name, kind)
        if code is None:
            code = NO_ERROR if name in self.records else NXDOMAIN
        found = [ipaddress.ip_address(each) for each in self.records.get(name, []) if code == NO_ERROR]
        data = [each.packed for each in found if each.version == (4 if kind == A else 6)]
        body = b"".join(b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, self.ttl, len(d)) + d for d in data)
        flags = 0x8180 | code
        if over_udp and _HEADER.size + len(question) + len(body) > MAX_UDP_BYTES:
            flags, body, data = flags | 0x0200, b"", []  # TC: to be asked again over TCP
        return query[:2] + _HEADER.pack(0, flags, 1, len(data), 0, 0)[2:] + question + body


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if answer := self._server.answer(data, over_udp=True):
            self._transport.sendto(answer, addr)


@asynccontextmanager
async def name_server(**options: object) -> AsyncIterator[NameServer]:
    """Run a name server. `options`: fields of NameServer."""
    server = NameServer(**options)  # type: ignore[arg-type]
    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError), contextlib.closing(writer):
            while True:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                if answer := server.answer(await reader.readexactly(length), over_udp=False):
                    writer.write(struct.pack("!H", len(answer)) + answer)

    loop = asyncio.get_running_loop()
    streams = await asyncio.start_server(serve, "127.0.0.1", 0)
    server.port = streams.sockets[0].getsockname()[1]
    transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(server), ("127.0.0.1", server.port))
    try:
        yield server
    finally:
        transport.close()
        streams.close()
        for task in filter(None, serving):
            task.cancel()
        await asyncio.gather(*filter(None, serving), return_exceptions=True)
        await asyncio.sleep(0)  # both transports close in the next turn of the loop
