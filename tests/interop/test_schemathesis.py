# SPDX-License-Identifier: BSD-2-Clause
"""schemathesis over the running gateway's own document: no answer that the document does not have.

It makes requests from /openapi.json, good ones and bad ones, and holds every answer against the document:
status, content type, headers, body. The agents are sockets of the test's own.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.harness.agent import Agent, AgentCall, AgentPort
from tests.harness.bot_requests import answer_of, body_of
from tests.harness.gateway import Gateway

SCHEMATHESIS = Path(__file__).parents[2] / ".venv-interop" / "bin" / "schemathesis"
RUN_S = 180.0
"""Seconds that the run may take on a busy machine; it takes under a third of that."""

EXAMPLES = 8
"""Random requests per operation, besides those at the limits of the document."""

LEAST_CASES = 1000
"""A run with fewer requests has tested next to nothing; it makes more than two thousand."""

STAY = {"stay": True}
"""The `body` of a session whose bot does not end by itself."""

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
)
"""Not positive_data_acceptance: what a schema cannot say, as that a region must exist, is refused rightly."""

CONFIG = """\
[dictionaries]
organizations = {{ values = ["acme"] }}
agents = {{ values = ["support", "full", "away"] }}
sessions = {{ values = {sessions} }}
keys = {{ values = {keys} }}
waits_s = {{ values = [1] }}

[parameters]
"path.org" = {{ dictionary = "organizations", probability = 0.9 }}
"path.agent" = {{ dictionary = "agents", probability = 0.8 }}
"path.session_id" = {{ dictionary = "sessions", probability = 0.8 }}
"path.key_id" = {{ dictionary = "keys", probability = 0.5 }}
"query.timeout_seconds" = {{ dictionary = "waits_s", probability = 1.0 }}
"body.agent" = {{ dictionary = "agents", probability = 0.8 }}

[checks]
# A gateway's answers, which the document must have: what it cannot have (501), an agent that is away
# (502) or full (503), a session whose caller has not come yet (504). 500 is not.
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 501, 502, 503, 504]
# A body may be refused for its size before anybody has looked into it.
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 409, 413, 422, 429, "5xx"]
"""


async def behaves(agent: Agent, call: AgentCall) -> None:
    """An agent whose bots are done at once, unless they are to stay, and that answers on every route."""
    if call.path != "/bot":
        call.send(answer_of(200, '{"from": "the agent"}', "Connection: close"))
        call.half_close()
    elif json.loads(await body_of(call)) != STAY:
        call.send(answer_of(200, "{}", "Connection: close"))
        call.half_close()


@pytest.fixture(scope="module")
def ports(agent_port: Callable[[], AgentPort]) -> dict[str, AgentPort]:
    return {name: agent_port() for name in ("support", "full", "away")}


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway], ports: dict[str, AgentPort]) -> Gateway:
    """support has room for many, full for one, and nobody listens where away should be."""
    if not SCHEMATHESIS.exists():
        pytest.fail("there is no .venv-interop: `make interop` makes it and runs these tests")
    places = {"support": 50, "full": 1, "away": 50}
    return start_gateway(
        organizations=[{"name": "acme", "public_keys": ["pk_acme"], "private_keys": ["sk_acme"]}],
        agents=[
            {"name": name, "organization": "acme", "instances": [port.url], "max_agents": places[name]}
            | {"sessions_per_instance": places[name]}
            for name, port in ports.items()
        ],
        limits={"requests_per_second": 100_000, "requests_burst": 100_000, "agent_connect_timeout": 1},
    )


async def test_no_answer_is_undocumented(
    gateway: Gateway, ports: dict[str, AgentPort], agent_at: Callable[..., Any], tmp_path: Path
) -> None:
    for name in ("support", "full"):
        await agent_at(ports[name], behaves)
    sessions, keys = await things_to_ask_for(gateway)
    (tmp_path / "schemathesis.toml").write_text(
        CONFIG.format(sessions=json.dumps(sessions), keys=json.dumps(keys))
    )
    process = await asyncio.create_subprocess_exec(
        SCHEMATHESIS,
        *("--config-file", "schemathesis.toml"),
        *("run", f"http://127.0.0.1:{gateway.port}/openapi.json"),
        *("--header", "Authorization: Bearer sk_acme"),
        *("--checks", ",".join(CHECKS)),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES)),
        *("--generation-deterministic", "--no-shrink"),
        *("--continue-on-failure", "--request-timeout", "20", "--warnings", "off", "--no-color"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=tmp_path,
        env={"PATH": os.defpath, "HOME": str(tmp_path), "COLUMNS": "200"},
    )
    try:
        async with asyncio.timeout(RUN_S):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    said = output.decode()
    assert process.returncode == 0, said
    operations = re.search(r"Selected: (\d+)/(\d+)\s+Tested: (\d+)", said)
    assert operations is not None, said
    assert len(set(operations.groups())) == 1, "every operation was tested"
    cases = re.search(r"(\d+) generated", said)
    assert cases is not None, said
    assert int(cases[1]) >= LEAST_CASES, said


async def things_to_ask_for(gateway: Gateway) -> tuple[list[str], list[str]]:
    """Ids of sessions and of keys that exist: sessions that run, wait for their socket, and are over."""
    headers = {"Authorization": "Bearer sk_acme"}
    url = f"http://127.0.0.1:{gateway.port}/v1"
    sessions, keys = [], []
    async with aiohttp.ClientSession(headers=headers, raise_for_status=True) as http:
        stay = {"body": STAY}
        for agent, wanted in [
            ("full", stay),
            *[("support", stay)] * 8,
            *[("support", {})] * 2,
            *[("support", {"transport": "websocket"})] * 4,
        ]:
            async with http.post(f"{url}/public/{agent}/start", json=wanted) as answer:
                sessions.append((await answer.json())["sessionId"])
        for number in range(4):
            async with http.post(f"{url}/apiKeys", json={"name": f"key {number}"}) as answer:
                keys.append((await answer.json())["id"])
    return sessions, keys
