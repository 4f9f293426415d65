#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
#
# redis-py 8.1.0: the code of an error is cut from its text if the package knows it, and stays if it does not. A
# pipeline rewords the text.
#
# Seen on 2026-11-30, Python 3.11, hiredis or not: a server answers GET with an error, and what the program gets:
#
#     the server says                   str(error) of get()        error.status_code
#     -READONLY You can't write.        You can't write.           READONLY
#     -MOVED 866 127.0.0.1:7001         866 127.0.0.1:7001         MOVED
#     -ASK 866 127.0.0.1:7001           866 127.0.0.1:7001         ASK
#     -ERR syntax error                 syntax error               ERR
#     -WRONGTYPE Not a string.          WRONGTYPE Not a string.    None
#     -NOREPLICAS Too few.              NOREPLICAS Too few.        None
#
#     of execute() of a pipeline        Command # 1 (GET x) of pipeline caused error: ("You can't write.",)
#
# A good guess was wrong because Redis defines the first word of an error as its code, so `str(error)` that begins
# with it is what one tests: that works with the servers' rarer codes and with none of the well-known ones.
# `status_code` is the other way round. In a pipeline neither the beginning nor the whole text is the server's.
# What tells READONLY in every case is the class (ReadOnlyError), what tells WRONGTYPE is a search in the text.
#
# It fails if that changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat >"$folder/errors.py" <<'PYTHON'
import asyncio
import contextlib

from redis.asyncio import Redis
from redis.exceptions import ResponseError

ERRORS = {
    "READONLY You can't write.": ("You can't write.", "READONLY"),
    "MOVED 866 127.0.0.1:7001": ("866 127.0.0.1:7001", "MOVED"),
    "ASK 866 127.0.0.1:7001": ("866 127.0.0.1:7001", "ASK"),
    "ERR syntax error": ("syntax error", "ERR"),
    "WRONGTYPE Not a string.": ("WRONGTYPE Not a string.", None),
    "NOREPLICAS Too few.": ("NOREPLICAS Too few.", None),
}
error = ""


async def answer(reader, writer):
    """A server that answers each GET with `error`, and everything else with OK."""
    with contextlib.suppress(ConnectionResetError):
        while line := await reader.readline():
            words = []
            for _ in range(int(line[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2])
            writer.write(f"-{error}\r\n".encode() if words[0] == b"GET" else b"+OK\r\n")


async def main():
    global error
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    client = Redis(port=server.sockets[0].getsockname()[1], protocol=2)
    for error, (text, code) in ERRORS.items():
        try:
            await client.get("x")
        except ResponseError as raised:
            print(repr(error), "->", type(raised).__name__, repr(str(raised)), raised.status_code)
            assert (str(raised), raised.status_code) == (text, code), "that has changed"
        else:
            raise AssertionError("it was no error")
        try:
            await client.pipeline(transaction=False).get("x").execute()
        except ResponseError as raised:
            print("    in a pipeline", repr(str(raised)))
            assert str(raised) == f"Command # 1 (GET x) of pipeline caused error: {(text,)}", "that has changed"
        else:
            raise AssertionError("it was no error")
    await client.aclose()
    server.close()


asyncio.run(main())
PYTHON

python3 -m venv "$folder/venv"
for package in redis==8.1.0 hiredis==3.5.0; do
    "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$package"
    echo "with $package"
    timeout 60 "$folder/venv/bin/python" "$folder/errors.py"
done
