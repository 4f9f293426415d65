# SPDX-License-Identifier: BSD-2-Clause
"""A bot that takes some time to start, speaks at once, and ends after its first call (warm_start.py).

python -m benchmarks.cold_bot PORT SECONDS
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from http import HTTPStatus
from typing import Final

from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

SILENCE: Final = "f39/" * 53 + "fw=="
"""20 ms of μ-law."""


def sound_of(stream_id: str) -> str:
    """Return a message with sound for a stream."""
    return json.dumps({"event": "media", "streamSid": stream_id, "media": {"payload": SILENCE}})


async def main(port: int) -> None:
    """Serve one call."""
    is_over = asyncio.Event()

    def answer_ready(socket: ServerConnection, request: Request) -> Response | None:
        return socket.respond(HTTPStatus.OK, "") if request.path == "/readyz" else None

    async def take_call(socket: ServerConnection) -> None:
        async for message in socket:
            if isinstance(message, str) and '"start"' in message:
                await socket.send(sound_of(json.loads(message)["streamSid"]))
        is_over.set()

    async with serve(take_call, "127.0.0.1", port, process_request=answer_ready):
        await is_over.wait()


if __name__ == "__main__":
    time.sleep(float(sys.argv[2]))
    asyncio.run(main(int(sys.argv[1])))
