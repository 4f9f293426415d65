# SPDX-License-Identifier: BSD-2-Clause
"""streamdouble, another project's stand-in for Twilio, calls through a gateway: scenarios and bad networks.

It judges what it is sent by its own reading of Twilio's Media Streams: `violations`. The agent is the
demonstration agent, which greets, marks the greeting's end, and clears on the key *.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.simulator.free_ports import LOOPBACK, free_port
from gateway.simulator.gateway_process import GatewayProcess
from gateway.simulator.server_process import PATCHBAY, ServerProcess, answers
from gateway.simulator.waiting import WAIT_S, wait_until
from gateway.simulator.wav import read_speech, write_wav

SPEECH = read_speech("caller")

INTERRUPTS = """
name: the caller presses a key while the agent speaks
steps:
  - wait_for: audio
  - dtmf: "*"
  - wait_for: clear
  - expect: clear
  - say: words.wav
  - wait: 0.3
"""

SAYS_NOTHING = """
name: the caller says nothing, and hears the agent out
steps:
  - wait_for: audio
  - wait_for: mark
  - expect: mark
  - hangup
"""

HANGS_UP = """
name: the caller is gone in the middle of a word
steps:
  - wait_for: audio
  - say: words.wav
  - hangup
"""

NETWORKS = {
    "loss": ["--packet-loss", "0.2"],
    "jitter": ["--jitter", "120"],
    "far away": ["--latency", "300", "--jitter", "40", "--packet-loss", "0.05"],
}

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway with the demonstration agent as demo.acme, one call at a time."""
    port = free_port()
    url = f"http://{LOOPBACK}:{port}"
    command = [*PATCHBAY, "agent", "--port", str(port), "--delay", "0.2"]
    with ServerProcess("the agent", command, tmp_path_factory.mktemp("agent") / "log") as agent:
        agent.wait_until_ready(lambda: answers(f"{url}/readyz"))
        settings = {
            "organizations": [{"name": "acme"}],
            "agents": [{"name": "demo", "organization": "acme", "instances": [url], "hold": "none"}],
        }
        with GatewayProcess(tmp_path_factory.mktemp("gateway"), settings) as running:
            yield running


@pytest.fixture
def streamdouble(interop_python: Path, gateway: GatewayProcess, tmp_path: Path) -> Run:
    """Run streamdouble in a folder with words.wav; return what it measured. No call of it may fail."""
    write_wav(tmp_path / "words.wav", SPEECH.pcm[: SPEECH.sample_rate], SPEECH.sample_rate)

    def run(command: str, *more: str) -> dict[str, Any]:
        words = [
            command,
            *more,
            f"{gateway.media_url}/ws/twilio/demo.acme",
            "--quiet-period",
            "0.5",
            "--json",
        ]
        ran = subprocess.run(
            [interop_python.with_name("streamdouble"), *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        measured: dict[str, Any] = json.loads(ran.stdout)
        assert measured["violations"] == []
        assert measured["unknown_events"] == []
        return measured

    return run


@pytest.fixture
def scenario(streamdouble: Run, tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """Play a scenario."""

    def play(text: str) -> dict[str, Any]:
        (tmp_path / "scenario.yaml").write_text(text)
        return streamdouble("scenario", "scenario.yaml")

    return play


def session(gateway: GatewayProcess, measured: dict[str, Any]) -> dict[str, Any]:
    """Wait for the end of the session; return its record."""
    query = "SELECT * FROM session WHERE stream_id = ? AND ended_at IS NOT NULL"
    sid = (measured["stream_sid"],)
    (record,) = wait_until(lambda: gateway.rows(query, sid), "the session of the call ends")
    return record


def test_a_caller_who_presses_a_key_interrupts_the_agent(
    scenario: Callable[[str], dict[str, Any]], gateway: GatewayProcess
) -> None:
    measured = scenario(INTERRUPTS)
    assert measured["clears_received"] == 1
    assert all(expectation["passed"] for expectation in measured["expectations"])
    assert session(gateway, measured)["reason"] == "caller_hangup"


def test_a_caller_who_says_nothing_hears_the_agent_out(
    scenario: Callable[[str], dict[str, Any]], gateway: GatewayProcess
) -> None:
    measured = scenario(SAYS_NOTHING)
    assert measured["marks_received"] >= 1
    assert measured["audio_received_ms"] > 1000
    assert session(gateway, measured)["reason"] == "caller_hangup"


def test_a_caller_who_is_gone_in_the_middle_of_a_word_frees_the_agent(
    scenario: Callable[[str], dict[str, Any]], gateway: GatewayProcess
) -> None:
    for _ in range(2):
        assert session(gateway, scenario(HANGS_UP))["reason"] == "caller_hangup"


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_a_caller_on_a_bad_network_is_heard_and_answered(
    streamdouble: Run, gateway: GatewayProcess, network: list[str]
) -> None:
    measured = streamdouble("call", "--audio", "words.wav", *network)
    assert measured["audio_received_ms"] > 1000
    record = session(gateway, measured)
    assert record["reason"] == "caller_hangup"
    assert record["frames_in"] >= measured["frames_sent"]
