#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
#
# pipecatcloud 1.4.0: `pipecat cloud agent deployments` reads the answer's body after it has closed its session. It
# succeeds only if the body came together with the head.
#
# Seen on 2026-11-30, Python 3.11, aiohttp 3.14.5: a server that answers with a valid list of one deployment, with
# its Content-Length.
#
#     head and body in one write     the list, exit status 0
#     the body after the head        "Unable to get deployments for reception: Unknown error", exit status 1
#
# A good guess was wrong because both answers are the same bytes of HTTP, and the CLI's other commands take either.
# This one leaves `async with aiohttp.ClientSession()` first and calls `response.json()` then, where aiohttp raises
# RuntimeError('Connection closed.') if something is still to come; the CLI reports no reason. A server, proxy or
# framework that writes head and body apart (uvicorn does) fails now and then, as the network pleases.
#
# It fails if that changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pipecatcloud==1.4.0 aiohttp==3.14.5

cat >"$folder/deployments.py" <<'PYTHON'
import asyncio
import json
import os
import sys

folder = sys.argv[1]
CLI = "from pipecatcloud.cli.entry_point import entrypoint_cli_typer as cli; cli()"  # as `pipecat cloud` calls it
BODY = json.dumps({"deployments": [{"id": "d-0001", "manifest": {"spec": {}}, "createdAt": "", "updatedAt": ""}]})
HEAD = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"


async def together(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(HEAD.encode() + BODY.encode())
    await reader.read()  # until the client closes
    writer.close()


async def apart(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(HEAD.encode())
    try:
        await asyncio.wait_for(reader.read(), 1)  # the client closes before the body is there
    except TimeoutError:
        writer.write(BODY.encode())
        await reader.read()
    writer.close()


async def list_deployments(answer):
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    environment = os.environ | {
        "PIPECAT_API_HOST": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",
        "PIPECAT_CONFIG_PATH": f"{folder}/settings.toml",
        "PIPECAT_TOKEN": "any",
        "PIPECAT_ORG": "acme",
        "HOME": folder,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLI, "agent", "deployments", "reception",
        env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    server.close()
    return process.returncode, said.decode()


status, said = asyncio.run(list_deployments(together))
print(f"together: exit status {status}\n{said}")
assert status == 0 and "d-0001" in said, "an answer in one piece is not taken any more"
status, said = asyncio.run(list_deployments(apart))
print(f"apart: exit status {status}\n{said}")
assert status == 1 and "Unable to get deployments" in said, "an answer in two pieces is taken now"
PYTHON
timeout 120 "$folder/venv/bin/python" "$folder/deployments.py" "$folder"
