# SPDX-License-Identifier: BSD-2-Clause
"""A way from a gateway to its Redis server that a test makes slow, stuck, or lose an answer."""

from __future__ import annotations

import asyncio
import contextlib
import threading

from gateway.simulator.waiting import POLL_S


class RedisProxy:
    """Passes bytes on, in a thread of its own; its attributes may be set from any other.

    `delay_s`: by which each answer is late. `is_stuck`: nothing passes, and nothing is closed. `lose`: the
    next command that contains these bytes is done, and its answer lost with the connection. `lost`: how many.
    """

    def __init__(self, port: int) -> None:
        """`port`: of the server on this machine."""
        self.delay_s = 0.0
        self.is_stuck = False
        self.lose: bytes | None = None
        self.lost = 0
        self._target = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        started = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop
        )
        self._server = started.result()
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def stop(self) -> None:
        """Close everything, and end the thread."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # asyncio reports a connection's task that was cancelled as a fault (until Python 3.12).
        with contextlib.suppress(asyncio.CancelledError):
            await self._join(reader, writer)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        loses = asyncio.Event()
        copies = [
            asyncio.create_task(self._commands(reader, to_server, loses)),
            asyncio.create_task(self._answers(from_server, writer, loses)),
        ]
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for copy in copies:
                copy.cancel()
            await asyncio.gather(*copies, return_exceptions=True)
            writer.transport.abort()
            to_server.transport.abort()

    async def _commands(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, loses: asyncio.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._pass()
                if self.lose is not None and self.lose in data:
                    self.lose = None
                    loses.set()
                writer.write(data)

    async def _answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, loses: asyncio.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if loses.is_set():
                    self.lost += 1
                    return
                await asyncio.sleep(self.delay_s)
                await self._pass()
                writer.write(data)

    async def _pass(self) -> None:
        while self.is_stuck:
            await asyncio.sleep(POLL_S)
