#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
#
# redis-py 8.1.0 (asyncio) on Python 3.11: a task that is cancelled in the first turns of a command gets the
# answer instead of CancelledError.
#
# Seen on 2026-11-29, Python 3.11.7: a task runs `await client.get("x")`, and is cancelled after so many turns
# of the event loop. `task.cancel()` returns True each time, and the task ends as
#
#     turns          1        2        3        4            5
#     Python 3.11    answer   answer   answer   cancelled    cancelled
#     Python 3.12    cancelled in all five
#
# A good guess was wrong because the package catches no CancelledError there: it sends a command inside
# `asyncio.wait_for`, whose form before Python 3.12 gives the result of what has ended in the same turn, and
# drops the cancellation. `task.cancelling()` still counts it. So `asyncio.timeout`, TaskGroup and whoever
# gives up waiting find a task that goes on, after a command that was done on the server. Who must know that
# it was cancelled compares `asyncio.current_task().cancelling()` after each command.
#
# It fails if that changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python=$(command -v python3.11 || command -v python3)
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "this is about Python 3.11" >&2; exit 2; }
"$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check redis==8.1.0

cat >"$folder/cancelled.py" <<'PYTHON'
import asyncio
import contextlib

from redis.asyncio import Redis


async def answer(reader, writer):
    """A server that knows a value for every key: each command of the protocol is answered with "1"."""
    with contextlib.suppress(ConnectionResetError):
        while line := await reader.readline():
            for _ in range(int(line[1:])):
                size = int((await reader.readline())[1:])
                await reader.readexactly(size + 2)
            writer.write(b"$1\r\n1\r\n")


async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = Redis(port=port, protocol=2, decode_responses=True)
    await client.get("x")
    ends = []
    for turns in range(1, 6):
        task = asyncio.create_task(client.get("x"))
        for _ in range(turns):
            await asyncio.sleep(0)
        assert task.cancel(), "it had not ended"
        try:
            await task
            ends.append("answer" if task.cancelling() else "?")
        except asyncio.CancelledError:
            ends.append("cancelled")
    await client.aclose()
    server.close()
    print(*ends)
    return ends


ends = asyncio.run(main())
assert ends[0] == "answer", "a cancellation in the first turn is not lost any more"
assert ends[-1] == "cancelled", "a later one is lost, too"
PYTHON
"$folder/venv/bin/python" "$folder/cancelled.py"
