# SPDX-License-Identifier: BSD-2-Clause
"""A gateway that stops: running calls finish, new calls are refused. And what keeps it from starting."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.simulator.gateway_process import to_toml
from gateway.simulator.server_process import PATCHBAY
from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.agent import Agent, AgentPort, hangs
from tests.harness.call_assertions import (
    Call,
    assert_agent_heard,
    assert_caller_heard,
    assert_ended,
    connect,
    hang_up,
)
from tests.harness.gateway import Gateway
from tests.harness.prepared_process import patchbay_starts_anew  # noqa: F401 - a fixture
from tests.harness.transcripts import opening, replies, talk


@pytest.fixture
def start(start_gateway: Callable[..., Gateway], support_port: AgentPort) -> Callable[..., Gateway]:
    """Start a gateway for one test, which stops it."""

    def start_one(**server: Any) -> Gateway:
        agent = {"name": "support", "organization": "acme", "instances": [support_port.url]}
        agent["sessions_per_instance"] = 10
        return start_gateway(server=server, agents=[agent], limits={"close_timeout": 0.3})

    return start_one


async def assert_draining(gateway: Gateway) -> None:
    await eventually(lambda: gateway.get("/readyz")[0] == 503, "/readyz answers 503")


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_running_call_finishes_while_the_gateway_drains(
    start: Callable[..., Gateway], support: Agent, workers: int
) -> None:
    gateway = start(workers=workers, drain_timeout=60)
    call = await connect(gateway, support)
    opening_too = await gateway.dial("/ws/twilio/support.acme") if workers == 1 else None
    gateway.terminate()
    if opening_too is not None:
        await assert_draining(gateway)
        assert gateway.get("/readyz")[1] == {"status": "draining", "calls": 2}
        assert gateway.get("/livez")[0] == 200
        assert gateway.status()["draining"] is True
        for target in ("/ws/twilio/support.acme", "/ws/generic/support.acme", "/ws/plivo"):
            caller = await gateway.dial(target)
            assert caller.refusal == (503, "draining")
            assert caller.headers["retry-after"] == "10"
        sent = [opening_too.say(message) for message in opening("twilio")]  # its upgrade was before
        taken = await support.call()
        await taken.opening(sent)
        await hang_up(Call(opening_too, taken, sent))
    else:  # the other worker, which has nothing to do, is gone by now
        await eventually(lambda: len(gateway.workers()) == 1, "the idle worker leaves")

    await assert_agent_heard(call.agent, [call.caller.say(message) for message in talk("twilio")])
    await assert_caller_heard(call.caller, [call.agent.say(message) for message in replies("twilio")])
    assert gateway.process.poll() is None
    await hang_up(call)
    assert await gateway.ended() == 0
    await assert_ended(gateway, call.session, "caller_hangup", "caller")
    refused = [line["reason"] for line in gateway.ends() if line["reason"] == "draining"]
    assert len(refused) == (3 if workers == 1 else 0)
    assert gateway.workers() == []


async def test_calls_are_closed_after_the_drain_timeout(
    start: Callable[..., Gateway], support: Agent
) -> None:
    """Running calls, one without opening, one whose agent hangs, one whose both ends ignore the close."""
    gateway = start(drain_timeout=0.3)
    calls = [await connect(gateway, support) for _ in range(3)]
    rude = await connect(gateway, support)
    waiting = await gateway.dial("/ws/twilio/support.acme")
    support.answer = hangs
    unanswered = await gateway.dial("/ws/twilio/support.acme")
    for message in opening("twilio"):
        unanswered.say(message)
    asked = await support.next_other_call()
    gateway.terminate()
    for call in calls:
        assert await call.caller.closed() == (1012, "the time to drain is over")
        assert (await call.agent.closed())[0] == 1011
    assert await waiting.closed() == (1012, "the time to drain is over")
    assert await unanswered.closed() == (1012, "the time to drain is over")
    assert await gateway.ended() == 0
    await rude.caller.ended()
    await rude.agent.ended()
    for session in [asked.session, rude.session, *(call.session for call in calls)]:
        await assert_ended(gateway, session, "draining", "gateway")


@pytest.mark.parametrize(
    ("workers", "signals"),
    [(1, [signal.SIGINT, signal.SIGINT]), (2, [signal.SIGQUIT])],
)
async def test_a_second_ctrl_c_or_sigquit_ends_calls_at_once(
    start: Callable[..., Gateway], support: Agent, workers: int, signals: list[signal.Signals]
) -> None:
    gateway = start(workers=workers)
    call = await connect(gateway, support)
    gateway.process.send_signal(signals[0])
    if len(signals) > 1:
        await assert_draining(gateway)
        gateway.process.send_signal(signals[1])
    assert (await call.caller.closed())[0] == 1012
    assert await gateway.ended() == 0
    await assert_ended(gateway, call.session, "draining", "gateway")


# The gateway does not start


def run_serve(directory: Path, settings: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    (directory / "patchbay.toml").write_text(to_toml(settings))
    return subprocess.run(
        [*PATCHBAY, "serve", "--config", directory / "patchbay.toml"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=WAIT_S * 2,
        check=False,
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_a_port_in_use_is_reported(tmp_path: Path, workers: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = {"port": port, "workers": workers, "log_format": "json"}
        agent = {"name": "support", "organization": "acme"}
        failed = run_serve(tmp_path, {"server": server, "agents": [agent]})
    assert failed.returncode == 1
    *_, line = [json.loads(line) for line in failed.stderr.splitlines()]
    assert (line["event"], line["address"]) == ("cannot listen", f"127.0.0.1:{port}")
    assert "in use" in line["error"]


def test_a_store_that_cannot_be_opened_is_reported(tmp_path: Path) -> None:
    (tmp_path / "patchbay.db").write_text("this is no database, and nobody may write to it")
    failed = run_serve(tmp_path, {"server": {"port": 0, "workers": 2, "log_format": "json"}})
    assert failed.returncode == 3
    assert "is not a database" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert (tmp_path / "patchbay.db").read_text().startswith("this is no database")


def test_an_invalid_configuration_is_reported(tmp_path: Path) -> None:
    failed = run_serve(tmp_path, {"server": {"port": 99999}})
    assert failed.returncode == 1
    assert "port" in failed.stderr
    assert "Traceback" not in failed.stderr
