# SPDX-License-Identifier: BSD-2-Clause
"""SIGHUP: agents, numbers, keys and accounts are read again, all or nothing, while calls run."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.config import load
from gateway.server.configuration_source import ConfigurationSource
from gateway.simulator.gateway_process import to_toml
from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import assert_both_hear, assert_ended, connect, hang_up
from tests.harness.gateway import Gateway
from tests.harness.transcripts import opening

READ_AGAIN = "configuration read again"
AS_IT_WAS = "the configuration stays as it was"
OLD_KEY, NEW_KEY, OTHER_KEY = "sk_the_old_key_of_acme", "sk_the_new_key_of_acme", "sk_the_key_of_globex"
IN_A_ROW = 8
"""Requests in a row that must have the same answer, so that each worker has given it."""


@pytest.fixture(scope="module")
def begin(start_gateway: Callable[..., Gateway], support_port: AgentPort) -> Callable[..., Gateway]:
    """Start a gateway with the agents support and sales of acme, and an organisation globex."""

    def start(workers: int) -> Gateway:
        agent = {"organization": "acme", "instances": [support_port.url], "sessions_per_instance": 50}
        return start_gateway(
            server={"workers": workers, "public_url": "https://voice.example.com", "websocket_auth": "none"},
            organizations=[
                {"name": "acme", "private_keys": [OLD_KEY, NEW_KEY]},
                {"name": "globex", "private_keys": [OTHER_KEY]},
            ],
            agents=[agent | {"name": "support"}, agent | {"name": "sales"}],
        )

    return start


@pytest.fixture(scope="module")
def gateway(begin: Callable[..., Gateway]) -> Gateway:
    return begin(2)


def tables(gateway: Gateway) -> dict[str, Any]:
    return tomllib.loads((gateway.directory / "patchbay.toml").read_text())


def logged(gateway: Gateway, event: str) -> list[dict[str, Any]]:
    return [line for line in gateway.log_lines() if line["event"] == event]


async def reload(gateway: Gateway, content: dict[str, Any] | str) -> dict[str, Any]:
    """Replace the file's content, and send SIGHUP. Return the line that says what came of it."""
    (gateway.directory / "patchbay.toml").write_text(
        content if isinstance(content, str) else to_toml(content)
    )

    def answers() -> list[dict[str, Any]]:
        return logged(gateway, READ_AGAIN) + logged(gateway, AS_IT_WAS)

    before = len(answers())
    os.kill(gateway.process.pid, signal.SIGHUP)
    (line,) = [
        line
        for line in await eventually(lambda: len(answers()) > before and answers(), "it is read")
        if line["timestamp"] == max(each["timestamp"] for each in answers())
    ]
    assert len(answers()) == before + 1, "one line says it, and not one of each worker"
    return line


def ask(gateway: Gateway, path: str, key: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=WAIT_S)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


async def at_every_worker(gateway: Gateway, path: str, key: str, status: int) -> None:
    """Wait until a request, on a connection of its own, is answered so whichever worker gets it."""
    await eventually(
        lambda: {ask(gateway, path, key)[0] for _ in range(IN_A_ROW)} == {status}, f"it is {status}"
    )


def named(tables: dict[str, Any], name: str) -> Any:
    return next(agent for agent in tables["agents"] if agent["name"] == name)


async def test_a_running_call_goes_on_while_agents_keys_and_accounts_change(
    gateway: Gateway, support: Agent
) -> None:
    running = await connect(gateway, support, "/ws/twilio/sales.acme")
    changed = tables(gateway)
    changed["agents"] = [
        named(changed, "support") | {"max_session_duration": 600},
        named(changed, "support") | {"name": "new"},
        named(changed, "support") | {"name": "signed", "organization": "globex"},
    ]
    changed["numbers"] = [{"number": "+15559876543", "agent": "new.acme"}]
    acme, globex = changed["organizations"]
    acme["private_keys"] = [NEW_KEY]
    globex["carriers"] = [{"carrier": "twilio", "auth_tokens": ["a-token-of-globex"]}]
    assert await reload(gateway, changed) | {"timestamp": ""} == {
        "event": READ_AGAIN,
        "level": "info",
        "timestamp": "",
        "added": [
            "agent new.acme",
            "agent signed.globex",
            "numbers of new.acme",
            "twilio accounts of globex",
        ],
        "changed": ["agent support.acme", "private keys of acme"],
        "removed": ["agent sales.acme"],
    }
    await at_every_worker(gateway, "/v1/agents/new", NEW_KEY, 200)
    await at_every_worker(gateway, "/v1/agents/sales", NEW_KEY, 404)
    await at_every_worker(gateway, "/v1/agents/new", OLD_KEY, 401)
    await at_every_worker(gateway, "/v1/agents/signed", OTHER_KEY, 200)

    for target, status in (("sales.acme", 404), ("signed.globex", 403)):
        refused = await gateway.dial(f"/ws/twilio/{target}")
        assert refused.status == status
    called = await gateway.dial("/ws/twilio")
    for message in opening("twilio", to_number="+15559876543"):
        called.say(message)
    taken = await support.call()
    fresh = await connect(gateway, support, "/ws/twilio/new.acme")

    await assert_both_hear(running)
    for call in (running, fresh):
        await hang_up(call)
        await assert_ended(gateway, call.session, "caller_hangup", "caller")
    called.send(called.close_frame(1000))
    await assert_ended(gateway, taken.session, "caller_hangup", "caller")
    for secret in (OLD_KEY, NEW_KEY, OTHER_KEY, "a-token-of-globex", "5559876543"):
        assert secret not in gateway.log_text()


async def test_a_worker_that_is_started_later_has_the_new_configuration(
    gateway: Gateway, support: Agent
) -> None:
    changed = tables(gateway)
    changed["agents"].append(named(changed, "support") | {"name": "later"})
    await reload(gateway, changed)
    victim = gateway.workers()[0]["pid"]
    os.kill(victim, signal.SIGKILL)
    await eventually(
        lambda: gateway.listening() == 2 and victim not in [worker["pid"] for worker in gateway.workers()],
        "another is started",
    )
    await at_every_worker(gateway, "/v1/agents/later", NEW_KEY, 200)
    await at_every_worker(gateway, "/v1/agents/later", OLD_KEY, 401)


async def test_a_worker_that_is_starting_outlives_any_number_of_reloads(
    begin: Callable[..., Gateway],
) -> None:
    gateway = begin(2)
    victim = gateway.workers()[0]["pid"]
    os.kill(victim, signal.SIGKILL)

    def serves_again() -> bool:
        os.kill(gateway.process.pid, signal.SIGHUP)
        return gateway.listening() == 2 and victim not in [worker["pid"] for worker in gateway.workers()]

    await eventually(serves_again, "another is started")
    assert [line["pid"] for line in logged(gateway, "a worker died and is started again")] == [victim]


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("this is no TOML", "is not TOML"),
        ("", "agents: there are none"),
        ("unknown_table = 1\n", "unknown_table (patchbay.toml, line 1): is not a known key"),
        ('[[agents]]\nname = "support"\norganization = "none"\n', "there is no organisation 'none'"),
    ],
    ids=["no TOML", "empty", "a misspelt key", "another organisation"],
)
async def test_a_faulty_file_changes_nothing_and_one_line_says_why(
    gateway: Gateway, support: Agent, broken: str, words: str
) -> None:
    before = tables(gateway)
    whole = broken if broken in ("", "this is no TOML") else broken + to_toml(before)
    try:
        line = await reload(gateway, whole)
    finally:
        (gateway.directory / "patchbay.toml").write_text(to_toml(before))
    assert (line["event"], line["level"]) == (AS_IT_WAS, "error")
    assert words in line["error"].replace(f"{gateway.directory}/", "")
    call = await connect(gateway, support)
    await hang_up(call)
    await assert_ended(gateway, call.session, "caller_hangup", "caller")
    assert ask(gateway, "/v1/agents/support", NEW_KEY)[0] == 200


async def test_what_cannot_change_is_named_and_left(gateway: Gateway, support: Agent) -> None:
    before = tables(gateway)
    changed = tables(gateway)
    changed["server"] |= {"workers": 7, "port": 1}
    changed["store"] = {"url": "sqlite:///elsewhere.db"}
    changed["limits"] = changed.get("limits", {}) | {"start_timeout": 99}
    changed["agents"].append(named(changed, "support") | {"name": "beside"})
    line = await reload(gateway, changed)
    assert line["added"] == ["agent beside.acme"]
    (left,) = logged(gateway, "settings that need a restart stay as they were")
    assert sorted(left["settings"]) == ["limits.start_timeout", "server.port", "server.workers", "store.url"]
    await at_every_worker(gateway, "/v1/agents/beside", NEW_KEY, 200)
    assert gateway.status()["workers"] == 2

    changed["regions"] = [
        {"code": "us-west", "display_name": "West"},
        {"code": "mars", "display_name": "Mars"},
    ]
    changed["agents"][-1]["region"] = "mars"
    line = await reload(gateway, changed)
    assert line["event"] == AS_IT_WAS
    assert "there is no region 'mars'" in line["error"], "the regions are those of the start"
    assert re.search(r"regions \(.*, line \d+\): differs now, which needs a restart", line["error"])
    assert (await reload(gateway, before))["removed"] == ["agent beside.acme"]


def test_what_works_only_after_a_restart_is_said_to_need_one(tmp_path: Path) -> None:
    """`patchbay check` finds nothing in such a file, and the gateway that runs cannot take it."""
    file = tmp_path / "patchbay.toml"
    source = ConfigurationSource(file, {})
    content: dict[str, Any] = {
        "server": {"host": "127.0.0.1"},
        "organizations": [{"name": "acme"}],
        "agents": [{"name": "support", "organization": "acme", "instances": ["http://127.0.0.1:8080"]}],
    }
    file.write_text(to_toml(content))
    running = load(file, {})
    content["server"]["public_url"] = "https://voice.example.com"
    content["organizations"][0]["carriers"] = [{"carrier": "twilio", "auth_tokens": ["a-token-of-acme"]}]
    file.write_text(to_toml(content))
    with capture_logs() as lines:
        assert source.read_again(running) is None
    (line,) = lines
    place = f"server.public_url ({file}, line 3)"
    first, second = line["error"].split("; ", 1)
    assert first == f"{place}: differs now, which needs a restart: it counts as it was at the start"
    assert second.startswith(f"{place}: is not set, and no request of Twilio authenticates without it")


async def test_a_gateway_of_one_process_does_the_same(
    begin: Callable[..., Gateway], support: Agent, agent_port: Callable[[], AgentPort], agent_at: Any
) -> None:
    """And a caller who waits for a place gets one that was added, or is told that the agent is gone."""
    gateway = begin(1)
    other = agent_port()
    changed = tables(gateway)
    named(changed, "support").update(sessions_per_instance=1, queue_size=5, queue_timeout=WAIT_S)
    line = await reload(gateway, changed)
    assert line["changed"] == ["agent support.acme"]
    await eventually(lambda: sessions_per_instance(gateway) == 1, "it has them")
    running = await connect(gateway, support)
    waiting = await gateway.dial("/ws/twilio/support.acme")
    for message in opening("twilio"):
        waiting.say(message)
    await eventually(lambda: logged(gateway, "call waits for a place"), "it waits")

    second: Agent = await agent_at(other)
    named(changed, "support")["instances"] = [running_url(changed), other.url]
    await reload(gateway, changed)
    taken = await second.call()
    third = await gateway.dial("/ws/twilio/support.acme")
    for message in opening("twilio"):
        third.say(message)
    await eventually(lambda: len(logged(gateway, "call waits for a place")) == 2, "another one waits")

    changed["agents"] = [named(changed, "sales")]
    assert (await reload(gateway, changed))["removed"] == ["agent support.acme"]
    await third.closed()
    (refused,) = await eventually(gateway.ends, "the one that waits is refused")
    assert (refused["reason"], refused["event"]) == ("unknown_agent", "call refused")
    await assert_both_hear(running)
    await hang_up(running)
    waiting.send(waiting.close_frame(1000))
    for session in (running.session, taken.session):
        await assert_ended(gateway, session, "caller_hangup", "caller")


def sessions_per_instance(gateway: Gateway) -> Any:
    return ask(gateway, "/v1/agents/support", NEW_KEY)[1]["sessionsPerInstance"]


def running_url(tables: dict[str, Any]) -> str:
    return str(named(tables, "support")["instances"][0])
