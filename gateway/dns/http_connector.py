# SPDX-License-Identifier: BSD-2-Clause
"""aiohttp's connections with the names of resolver.py, in place of the event loop's few threads for names."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from gateway.dns.resolver import resolver_of


def open_connector(**options: Any) -> aiohttp.TCPConnector:
    """Return a connector that asks the loop's resolver for every name. Call it inside the event loop.

    `options`: of aiohttp.TCPConnector. aiohttp keeps no answers of its own.
    """
    return aiohttp.TCPConnector(resolver=LoopResolver(), use_dns_cache=False, **options)


class LoopResolver(AbstractResolver):
    """The resolver of the running event loop, as aiohttp asks for one."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a host. Raises socket.gaierror."""
        found = [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in await resolver_of(asyncio.get_running_loop()).resolve(host)
        ]
        usable = [result for result in found if family in (socket.AF_UNSPEC, result["family"])]
        if not usable:
            raise socket.gaierror(socket.EAI_NONAME, "it has no address of this family")
        return usable

    async def close(self) -> None:
        """Do nothing: the loop's resolver serves others, too."""
