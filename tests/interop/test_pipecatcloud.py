# SPDX-License-Identifier: BSD-2-Clause
"""Pipecat Cloud's own SDK and CLI, as published, with nothing set but the host and the key.

What they send and read: docs/reference/public-api.md. The agent is a socket of the test's own, so that a
test sees what reached it and says when it ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.model.session_ids import ulid_of
from gateway.pool.pool_manager import USAGE_S
from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.bot_requests import bot_of, holds
from tests.harness.daily_server import API_KEY, DailyServer
from tests.harness.gateway import Gateway
from tests.pool.bots import BOT

HERE = Path(__file__).parent
PYTHON = HERE.parents[1] / ".venv-interop" / "bin" / "python"
CLI = "from pipecatcloud.cli.entry_point import entrypoint_cli_typer as cli; cli()"
SEES_POLL_S = 0.1  # fewer requests than a key may make
RUN_S = 60.0
"""Seconds that a run may take: the libraries are large, and not cached at first."""


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: its exit status and its output."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class PipecatCloud:
    """The SDK and the CLI, each run a process of its own, with this gateway as their host."""

    def __init__(self, gateway: Gateway, home: Path) -> None:
        self._home = home
        self._environment = {
            "PATH": os.defpath,
            "HOME": str(home),
            "PIPECAT_API_HOST": f"http://127.0.0.1:{gateway.port}",
        }

    async def starts(self, agent: str, api_key: str, **params: Any) -> dict[str, Any]:
        """`Session(...).start()`: `returned`, or `raised` and its `code`."""
        wanted = {"agent": agent, "api_key": api_key, "params": params}
        run = await self._run([str(HERE / "pcc_start.py"), json.dumps(wanted)], {})
        assert run.status == 0, run.err
        return run.json

    async def cli(
        self, *arguments: str, token: str = "sk_acme", answers: bytes | None = None, **environment: str
    ) -> Run:
        """A command of the CLI. `answers`: what is typed at its terminal; without, it has none."""
        more = {"PIPECAT_TOKEN": token, "PIPECAT_OUTPUT": "json", **environment}
        return await self._run(["-c", CLI, *arguments], more, answers)

    async def _run(
        self, arguments: list[str], environment: dict[str, str], answers: bytes | None = None
    ) -> Run:
        typed, terminal = pty.openpty()
        try:
            process = await asyncio.create_subprocess_exec(
                PYTHON,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL if answers is None else terminal,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd=self._home,
                env=self._environment | environment,
            )
            if answers is not None:
                os.write(typed, answers)
            try:
                async with asyncio.timeout(RUN_S):
                    out, err = await process.communicate()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        finally:
            os.close(typed)
            os.close(terminal)
        assert process.returncode is not None
        run = Run(process.returncode, out.decode(), err.decode())
        assert "Traceback" not in run.out + run.err, run.out + run.err
        return run


@pytest.fixture(scope="module")
def bot_port(agent_port: Callable[[], AgentPort]) -> AgentPort:
    return agent_port()


@pytest.fixture(scope="module")
def daily_port(agent_port: Callable[[], AgentPort]) -> AgentPort:
    return agent_port()


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., Gateway],
    bot_port: AgentPort,
    daily_port: AgentPort,
    tmp_path_factory: pytest.TempPathFactory,
) -> Gateway:
    """A gateway: support.acme has one slot, night.acme is in another region, it starts bot.acme itself."""
    if not PYTHON.exists():
        pytest.fail("there is no .venv-interop: `make interop` makes it and runs these tests")
    support = {"name": "support", "organization": "acme", "instances": [bot_port.url], "max_agents": 1}
    night = {"name": "night", "organization": "acme", "region": "eu-central", "instances": [bot_port.url]}
    night |= {"max_session_duration": 900}
    # The gateway starts this one itself, as `python bot.py --port PORT` would be.
    bot = {"name": "bot", "organization": "acme", "environment": {"LOG_LEVEL": "INFO"}, "buffer": 0}
    bot |= {"command": [sys.executable, "-S", str(BOT), "{port}"], "max_agents": 3, "stop_timeout": 0}
    return start_gateway(
        server={"pool_folder": str(tmp_path_factory.mktemp("pool"))},
        organizations=[
            {"name": "globex", "public_keys": ["pk_globex"], "private_keys": ["sk_globex"]},
            {"name": "acme", "public_keys": ["pk_acme"], "private_keys": ["sk_acme"]},
        ],
        agents=[support, night, bot],
        # A table inside a list item: TOML counts it to the last of the organisations.
        **{"organizations.daily": {"api_key": API_KEY, "api_url": f"{daily_port.url}/v1"}},
    )


async def sees(gateway: Gateway, *, ready: bool) -> None:
    """Wait until the gateway has this health of support.acme."""
    url = f"http://127.0.0.1:{gateway.port}/v1/agents/support"
    async with asyncio.timeout(RUN_S), aiohttp.ClientSession() as client:
        while True:
            async with client.get(url, headers={"Authorization": "Bearer sk_acme"}) as answer:
                if (await answer.json())["ready"] is ready:
                    return
            await asyncio.sleep(SEES_POLL_S)


@pytest.fixture
async def bot(agent_at: Callable[..., Any], bot_port: AgentPort, gateway: Gateway) -> AsyncIterator[Agent]:
    """The agent support.acme, which keeps its sessions until the test ends them; then no slot is taken."""
    agent: Agent = await agent_at(bot_port, holds)
    await eventually(lambda: agent.health, "it is asked whether it is ready")  # not the one before it
    await sees(gateway, ready=True)
    yield agent
    await agent.stop()
    await eventually(lambda: gateway.status()["sessions"]["active"] == 0, "every place is free")


@pytest.fixture
async def daily(daily_port: AgentPort, gateway: Gateway) -> AsyncIterator[DailyServer]:
    server = await DailyServer(daily_port).start()
    yield server
    await server.stop()


@pytest.fixture
def theirs(gateway: Gateway, tmp_path: Path) -> PipecatCloud:
    return PipecatCloud(gateway, tmp_path)


# The SDK


async def test_sdk_starts_a_session_with_its_data(theirs: PipecatCloud, bot: Agent) -> None:
    started = await theirs.starts("support", "pk_acme", data={"name": "Ada", "words": "ä\n"})
    held = await bot_of(bot)
    assert started["returned"] == {"sessionId": held.session}
    assert held.json == {"name": "Ada", "words": "ä\n"}
    held.end()


async def test_sdk_starts_a_session_in_a_room_of_dailys(
    theirs: PipecatCloud, bot: Agent, daily: DailyServer
) -> None:
    properties = {"start_video_off": True}
    started = await theirs.starts("support", "pk_acme", use_daily=True, daily_room_properties=properties)
    held = await bot_of(bot)
    (room,) = daily.rooms.values()
    assert started["returned"]["dailyRoom"] == room["url"] == held.headers["x-daily-room-url"]
    assert started["returned"]["dailyToken"] in daily.tokens
    assert started["returned"]["sessionId"] == held.session
    assert room["config"]["start_video_off"] is True
    held.end()


@pytest.mark.parametrize("key", ["", "pk_nobody"])
async def test_sdk_says_that_a_key_is_missing(theirs: PipecatCloud, key: str) -> None:
    answer = await theirs.starts("support", key)
    assert answer["code"] == "PCC-1002"


@pytest.mark.parametrize(("agent", "key"), [("nobody", "pk_acme"), ("support", "pk_globex")])
async def test_sdk_says_that_there_is_no_such_agent(theirs: PipecatCloud, agent: str, key: str) -> None:
    answer = await theirs.starts(agent, key)
    assert (answer["code"], answer["raised"][:6]) == ("404", "404 - ")


async def test_sdk_says_that_the_agent_is_at_capacity(theirs: PipecatCloud, bot: Agent) -> None:
    await theirs.starts("support", "pk_acme")
    answer = await theirs.starts("support", "pk_acme")
    assert answer["code"] == "429"
    assert "PCC-AGENT-AT-CAPACITY" in answer["raised"]
    (await bot_of(bot)).end()


async def test_sdk_says_that_the_agent_is_not_ready(
    theirs: PipecatCloud, agent_at: Callable[..., Any], bot_port: AgentPort, gateway: Gateway
) -> None:
    agent = await agent_at(bot_port, ready=503)
    await eventually(lambda: agent.health, "it is asked whether it is ready")  # and not only away, as before
    await sees(gateway, ready=False)
    answer = await theirs.starts("support", "pk_acme")
    assert answer["code"] == "PCC-1001"


# The CLI


async def test_cli_learns_its_organisation_from_its_key(theirs: PipecatCloud) -> None:
    run = await theirs.cli("organizations", "list")
    assert run.status == 0
    assert [(each["name"], each["verboseName"]) for each in run.json["organizations"]] == [("acme", "acme")]
    who = await theirs.cli("auth", "whoami")
    assert who.json["organization"] == {"name": "acme", "verbose_name": "acme"}
    assert who.json["dailyApiKey"] == {"apiKey": API_KEY}


async def test_cli_with_a_bad_key_is_told_to_log_in(theirs: PipecatCloud) -> None:
    run = await theirs.cli("agent", "list", token="sk_nobody", PIPECAT_ORG="acme")
    assert run.status == 1
    assert '"code": "401"' in run.out


async def test_cli_finds_nothing_of_another_organisation(theirs: PipecatCloud) -> None:
    run = await theirs.cli("agent", "list", token="sk_globex", PIPECAT_ORG="acme")
    assert (run.status, '"code": "404"' in run.out) == (1, True)


async def test_cli_lists_regions(theirs: PipecatCloud) -> None:
    run = await theirs.cli("regions", "list")
    assert [each["code"] for each in run.json["regions"]] == ["us-west", "us-east", "eu-central", "ap-south"]


async def test_cli_lists_agents_and_those_of_a_region(theirs: PipecatCloud) -> None:
    run = await theirs.cli("agent", "list")
    assert [each["name"] for each in run.json["agents"]] == ["support", "night", "bot"]
    run = await theirs.cli("agent", "list", "-r", "eu-central")
    assert [each["name"] for each in run.json["agents"]] == ["night"]


async def test_cli_starts_lists_shows_and_stops_a_session(theirs: PipecatCloud, bot: Agent) -> None:
    started = await theirs.cli("agent", "start", "support", "-f", "-k", "pk_acme", "-d", '{"name": "Ada"}')
    assert started.status == 0, started.err
    session = started.json["sessionId"]
    held = await bot_of(bot)
    assert (held.session, held.json) == (session, {"name": "Ada"})

    status = (await theirs.cli("agent", "status", "support")).json
    assert (status["ready"], status["activeSessionCount"]) == (True, 1)
    assert status["autoScaling"]["maxReplicas"] == 1

    listed = await theirs.cli("agent", "sessions", "support", "--end-state", "active")
    assert [each["sessionId"] for each in listed.json["sessions"]] == [session]

    stopped = await theirs.cli("agent", "stop", "support", "-s", session, "-f")
    assert stopped.status == 0, stopped.err
    await held.broken_off()
    shown = (await theirs.cli("agent", "sessions", "support", "--id", session)).json
    assert shown["endState"] == "active", "its bot may still be busy, so it keeps its slot"
    held.end()  # as a bot that can be stopped does

    async with asyncio.timeout(WAIT_S):
        while shown["endState"] == "active":
            shown = (await theirs.cli("agent", "sessions", "support", "--id", session)).json
    assert (shown["sessionId"], shown["endState"]) == (session, "terminated")
    assert [event["eventCode"] for event in shown["events"]][-1] == "SESSION_COMPLETED"
    assert shown["endedAt"].endswith("Z")
    listed = await theirs.cli("agent", "sessions", "support", "--end-state", "active")
    assert listed.json["sessions"] == []


@pytest.mark.parametrize("output", ["plain", "rich"])
async def test_cli_shows_an_agents_longest_session_and_its_dates(theirs: PipecatCloud, output: str) -> None:
    run = await theirs.cli("agent", "status", "night", PIPECAT_OUTPUT=output, COLUMNS="250")
    assert run.status == 0, run.err
    shown = " ".join((run.out + run.err).split())
    assert "Max Session Duration: 900s" in shown
    for date in ("Created At", "Updated At"):
        assert re.search(rf"{date}: 20\d\d-\d\d-\d\dT", shown), shown


async def test_cli_shows_a_stopped_session_and_its_other_spelling(theirs: PipecatCloud, bot: Agent) -> None:
    session = (await theirs.starts("support", "pk_acme"))["returned"]["sessionId"]
    held = await bot_of(bot)
    assert (await theirs.cli("agent", "stop", "support", "-s", session, "-f")).status == 0
    held.end()
    ulid = ulid_of(session)
    assert ulid is not None
    async with asyncio.timeout(WAIT_S):
        while True:
            shown = (await theirs.cli("agent", "sessions", "support", "--id", ulid)).json
            if shown["endState"] != "active":
                break
    assert (shown["sessionId"], shown["completionStatus"]) == (session, "HTTP_COMPLETED")


async def test_cli_starts_a_session_in_a_room_of_dailys(
    theirs: PipecatCloud, bot: Agent, daily: DailyServer
) -> None:
    started = await theirs.cli("agent", "start", "support", "-f", "-k", "pk_acme", "-D")
    assert started.json["dailyRoom"] in [room["url"] for room in daily.rooms.values()]
    assert started.json["dailyToken"] in daily.tokens
    (await bot_of(bot)).end()


async def test_cli_prints_for_people_without_stumbling(theirs: PipecatCloud, bot: Agent) -> None:
    """In its rich output it reads more than in JSON, and crashes where it finds less than it expects."""
    await theirs.starts("support", "pk_acme")
    held = await bot_of(bot)
    for command, detail in (
        (("organizations", "list"), "acme"),
        (("organizations", "keys", "list"), "configured-public-0"),
        (("organizations", "properties", "schema"), "defaultRegion"),
        (("regions", "list"), "Frankfurt"),
        (("agent", "list"), "support"),
        (("agent", "status", "support"), "support"),
        (("agent", "sessions", "support"), held.session[:8]),
        (("agent", "sessions", "support", "--id", held.session), held.session[:8]),
        (("auth", "whoami"), "acme"),
    ):
        run = await theirs.cli(*command, PIPECAT_OUTPUT="rich", COLUMNS="250")
        assert run.status == 0, (command, run.out + run.err)
        assert detail in run.out + run.err, command
    held.end()


async def test_cli_makes_lists_and_revokes_keys_that_open(theirs: PipecatCloud, bot: Agent) -> None:
    made = await theirs.cli("organizations", "keys", "create", "-n", "web site")
    assert made.status == 0, made.err
    key = made.json["key"]
    assert "returned" in await theirs.starts("support", key)
    (await bot_of(bot)).end()
    listed = (await theirs.cli("organizations", "keys", "list")).json["public"]
    (entry,) = [each for each in listed if each["metadata"]["name"] == "web site"]
    assert (entry["revoked"], key in json.dumps(listed)) == (False, False)
    # It asks which: one up from the first is the last, which is the newest.
    await theirs.cli("organizations", "keys", "revoke", answers=b"\x1b[A\r")
    listed = (await theirs.cli("organizations", "keys", "list")).json["public"]
    (entry,) = [each for each in listed if each["metadata"]["name"] == "web site"]
    assert entry["revoked"] is True
    assert (await theirs.starts("support", key))["code"] == "PCC-1002"


async def test_cli_shows_and_sets_the_default_region(theirs: PipecatCloud) -> None:
    assert (await theirs.cli("organizations", "properties", "list")).json == {"defaultRegion": "us-west"}
    assert (await theirs.cli("organizations", "default-region", "eu-central")).status == 0
    assert (await theirs.cli("organizations", "properties", "list")).json == {"defaultRegion": "eu-central"}
    run = await theirs.cli("organizations", "default-region", "moon")
    assert run.status == 1
    assert (await theirs.cli("organizations", "properties", "set", "defaultRegion", "us-west")).status == 0


@pytest.mark.parametrize(
    ("command", "detail"),
    [
        (("agent", "logs", "support"), "does not see what instances print"),
        (("secrets", "list"), "keeps no secrets"),
        (("github", "status"), "not linked to GitHub"),
        (("github", "disconnect", "--yes"), "not linked to GitHub"),
        (("github", "branches", "owner/name"), "not linked to GitHub"),
        (("spend-limit", "show"), "bills nothing"),
        (("deploy", "fresh", "acme/fresh:1", "--yes"), "runs no containers"),
    ],
)
async def test_cli_is_told_what_a_gateway_cannot_have(
    theirs: PipecatCloud, command: tuple[str, ...], detail: str
) -> None:
    run = await theirs.cli(*command)
    assert run.status == 1
    assert detail in " ".join((run.out + run.err).split())


async def test_cli_prints_an_answer_as_it_is_worded(theirs: PipecatCloud) -> None:
    """It prints answers as markup, which swallows a word in square brackets."""
    run = await theirs.cli("deploy", "fresh", "acme/fresh:1", "--yes", PIPECAT_OUTPUT="plain")
    assert "runs no containers" in run.out + run.err
    run = await theirs.cli("organizations", "properties", "set", "[bold]", "x", PIPECAT_OUTPUT="plain")
    assert run.status == 1
    assert "(bold)" in run.out + run.err


async def test_cli_cannot_delete_an_agent_of_the_configuration(theirs: PipecatCloud) -> None:
    run = await theirs.cli("agent", "delete", "support", "-f")
    assert (run.status, "configuration file" in run.out) == (1, True)
    assert (await theirs.cli("agent", "status", "support")).status == 0


# Agents that the gateway starts itself


async def test_cli_scales_an_agent_and_lists_what_it_deployed(theirs: PipecatCloud) -> None:
    deployed = await theirs.cli("deploy", "bot", "command", "--min-agents", "1", "--max-agents", "2", "--yes")
    assert deployed.status == 0, deployed.out + deployed.err
    result = deployed.json
    assert (result["ready"], result["available"]) == (True, True)
    listed = (await theirs.cli("agent", "deployments", "bot")).json["deployments"]
    assert [(each["number"], each["status"]) for each in listed] == [(1, "current"), (0, "replaced")]
    assert listed[0]["id"] == result["deploymentId"]
    async with asyncio.timeout(RUN_S):
        while (status := (await theirs.cli("agent", "status", "bot")).json)["scaling"]["ready"] != 1:
            await asyncio.sleep(SEES_POLL_S)
    assert status["autoScaling"] == {"minReplicas": 1, "maxReplicas": 2}
    again = await theirs.cli("deploy", "bot", "command", "--min-agents", "1", "--max-agents", "2", "--yes")
    assert "no new one" in " ".join((again.out + again.err).split())
    assert again.json["deploymentId"] == result["deploymentId"]
    for output in ("plain", "rich"):
        shown = await theirs.cli("agent", "deployments", "bot", PIPECAT_OUTPUT=output, COLUMNS="250")
        assert shown.status == 0, shown.out + shown.err
        assert result["deploymentId"] in shown.out + shown.err
        assert "command" in shown.out + shown.err
    more = await theirs.cli("deploy", "bot", "command", "--max-agents", "9", "--yes")
    assert (more.status, "at most 3" in " ".join((more.out + more.err).split())) == (1, True)


async def test_cli_starts_a_session_on_a_started_instance_and_reads_what_it_prints(
    theirs: PipecatCloud,
) -> None:
    started = await theirs.cli("agent", "start", "bot", "-f", "-k", "pk_acme", "-d", '{"name": "Ada"}')
    assert started.status == 0, started.out + started.err
    session = started.json["sessionId"]

    async def logs(*more: str) -> Run:
        return await theirs.cli("agent", "logs", "bot", *more)

    async with asyncio.timeout(RUN_S):
        while f"session {session} begins" not in (run := await logs("-s", session)).out:
            await asyncio.sleep(SEES_POLL_S)
    assert run.status == 0, run.err
    assert {line["timestamp"][-1] for line in run.json["logs"]} == {"Z"}
    deployment = (await theirs.cli("agent", "status", "bot")).json["activeDeploymentId"]
    assert f"session {session} begins" in (await logs("-d", deployment, "-n", "50")).out
    assert (await logs("-d", "another")).status == 1, "as it says that there are none"
    for output in ("plain", "rich"):
        shown = await theirs.cli("agent", "logs", "bot", PIPECAT_OUTPUT=output, COLUMNS="250")
        assert f"session {session} begins" in shown.out + shown.err
        shown = await theirs.cli("agent", "logs", "bot", "-l", "ERROR", PIPECAT_OUTPUT=output, COLUMNS="250")
        assert session not in shown.out + shown.err
    assert (await theirs.cli("agent", "stop", "bot", "-s", session, "-f")).status == 0


async def test_cli_draws_what_a_session_used(theirs: PipecatCloud, gateway: Gateway) -> None:
    started = await theirs.cli("agent", "start", "bot", "-f", "-k", "pk_acme", "-d", '{"name": "Ada"}')
    session = started.json["sessionId"]
    await asyncio.sleep(3 * USAGE_S)  # the pool's manager takes a sample every five seconds
    assert (await theirs.cli("agent", "stop", "bot", "-s", session, "-f")).status == 0
    async with asyncio.timeout(RUN_S):
        while True:
            shown = (await theirs.cli("agent", "sessions", "bot", "--id", session)).json
            if (metrics := shown["resourceMetrics"]) is not None:
                break
            await asyncio.sleep(SEES_POLL_S)
    assert metrics["sessionId"] == session
    assert metrics["sampleCount"] == len(metrics["timeseries"]) >= 1
    assert metrics["memoryBytesP50"] > 1_000_000
    run = await theirs.cli("agent", "sessions", "bot", "--id", session, PIPECAT_OUTPUT="rich", COLUMNS="250")
    assert run.status == 0, run.err
    assert re.search(r"Memory: \S+ +p50: \d+MB +p99: \d+MB", run.out + run.err), run.out
