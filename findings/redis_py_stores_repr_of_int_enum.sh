#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
#
# redis-py 8.1.0: an IntEnum as a value is stored as the text "<Rank.HIGH: 3>". Only the blocking client with
# hiredis 3.5.0 beside it refuses instead.
#
# Seen on 2026-11-30, Python 3.11: `client.set("key", value)`, and what reached the server:
#
#     value                redis.asyncio; redis without hiredis     redis with hiredis
#     3                    3                                        3
#     StrEnum "high"       high                                     high
#     IntEnum 3            <Rank.HIGH: 3>                           DataError: A tuple item must be str, int, ...
#     subclass of int 3    3                                        DataError, the same
#     True                 DataError                                DataError
#
# A good guess was wrong because an IntEnum is an int, and is "3" to `str`, in an f-string and to `json.dumps`; a
# StrEnum is taken as it should be. The packer in Python writes the `repr` of a number; the one in C takes int and
# float and none of their subclasses, though those of str. `redis.asyncio` never packs with hiredis, installed or
# not. So the same call is a wrong value that nothing reports, or an error, by the client and by a package that
# only makes it faster. `int(value)` is right everywhere.
#
# It fails if that changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat >"$folder/stored.py" <<'PYTHON'
import asyncio
import contextlib
import enum

import redis
from redis.exceptions import DataError


class Rank(enum.IntEnum):
    HIGH = 3


class Name(enum.StrEnum):
    HIGH = "high"


class Number(int):
    pass


VALUES = (3, Name.HIGH, Rank.HIGH, Number(3), True)
seen = []


async def answer(reader, writer):
    """A server that says OK to every command, and remembers the last word of each SET."""
    with contextlib.suppress(ConnectionResetError):
        while line := await reader.readline():
            words = []
            for _ in range(int(line[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2].decode())
            if words[0] == "SET":
                seen.append(words[2])
            writer.write(b"+OK\r\n")


def store(port):
    with redis.Redis(port=port, protocol=2) as client:
        for value in VALUES:
            try:
                client.set("key", value)
            except DataError:
                seen.append("DataError")


async def store_async(port):
    async with redis.asyncio.Redis(port=port, protocol=2) as client:
        for value in VALUES:
            try:
                await client.set("key", value)
            except DataError:
                seen.append("DataError")


async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await asyncio.to_thread(store, port)
    seen.append("| asyncio")
    await store_async(port)
    server.close()
    print(*seen)


asyncio.run(main())
PYTHON

python3 -m venv "$folder/venv"
python="3 high <Rank.HIGH: 3> 3 DataError"
refused="3 high DataError DataError DataError"
for package in redis==8.1.0 hiredis==3.5.0; do
    "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$package"
    said=$(timeout 60 "$folder/venv/bin/python" "$folder/stored.py")
    echo "with $package: $said"
    case $package in
        redis*) expected="$python | asyncio $python" ;;
        *) expected="$refused | asyncio $python" ;;
    esac
    [ "$said" = "$expected" ] || { echo "that has changed" >&2; exit 1; }
done
