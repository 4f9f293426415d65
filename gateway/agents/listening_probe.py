# SPDX-License-Identifier: BSD-2-Clause
"""Look whether something listens at an instance's address, without a word and without being noticed.

On Linux the last packet of TCP's handshake is held back and a reset sent in its place, so the server's kernel
forgets the connection before any program accepts it (tcp(7), TCP_QUICKACK; socket(7), SO_LINGER). A server
that reports each connection without a request, as `websockets` 13 to 16 do with a traceback, has nothing to
report (docs/decisions/0057-quiet-health-checks.md). Elsewhere the connection is made, and reset.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Final
from urllib.parse import urlsplit

from gateway.dns.resolver import resolver_of
from gateway.model.os_limits import is_out_of_resources

_RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


async def look_for_listener(instance: str) -> None:
    """Return if something listens at an instance's URL, at one of its addresses. Bound the wait.

    Raises OSError.
    """
    url = urlsplit(instance)
    host, port = url.hostname or "", url.port or _DEFAULT_PORTS[url.scheme]
    failure: OSError | None = None
    for address in await resolver_of(asyncio.get_running_loop()).resolve(host):
        try:
            await _look(address, port)
        except OSError as error:
            failure = error
            if is_out_of_resources(error):
                break
        else:
            return
    assert failure is not None
    raise failure


async def _look(address: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        if hasattr(socket, "TCP_QUICKACK"):  # Linux
            probe.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        await asyncio.get_running_loop().sock_connect(probe, (address, port))
