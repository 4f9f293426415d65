# SPDX-License-Identifier: BSD-2-Clause
"""The gateways of the seams' measurements, and agents that are lost or never answer."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from benchmarks.contenders import LOAD_CORE, VARIANTS, Contender, Setting, Variant, patchbay
from benchmarks.load import AGENT_LIMIT_S
from benchmarks.processes import answers, end, on_cores
from gateway.simulator.server_process import StartError

Table = tuple[str, Mapping[str, Setting]]

DEFAULT_INTERVAL_S = 20.0  # of `ping_interval`, as docs/configuration.md has it
SHORT_INTERVAL_S = 1.0
MOST_CALLS = 260  # `max_calls` of the gateway that refuses: more than any part needs
NEVER_S = 3600  # calls stand silent while others are measured
WAITING_ROOM = 1024  # connections that an agent who never comes leaves unanswered

# For calls that stand silent, and hear nothing while they are set up: where that takes long, as on a machine
# that others use, the sound would be taken for a wrong answer.
STANDING: Mapping[str, Setting] = {"idle_timeout": NEVER_S, "hold": "none"}

ECHO, COLD, UNKNOWN, GUARDED = "echo.bench", "cold.bench", "nobody.bench", "echo.guarded"


def variant_of(name: str) -> Variant:
    """One of the bench's variants, by its name."""
    return next(variant for variant in VARIANTS if variant.name == name)


def pinging(name: str, interval_s: float, port: int, agent_port: int) -> Contender:
    """The variant `name` with keep-alives so often; 0 for none."""
    variant = replace(
        variant_of(name),
        server={**variant_of(name).server, "drain_timeout": 0},
        agent=STANDING,
        limits={"ping_interval": interval_s},
    )
    return patchbay(variant, port, agent_port)


def with_seams(name: str, port: int, agent_port: int, cold_port: int, pairs: list[list[int]]) -> Contender:
    """The variant `name` with all that happens around the good case.

    An agent that never answers on `cold_port`, one of an organisation whose calls must be signed, and for
    each of `pairs` one with two instances on these ports: `pair0.bench` and so on.
    """
    variant = replace(
        variant_of(name),
        server={**variant_of(name).server, "drain_timeout": 0, "public_url": "https://gateway.bench"},
        agent=STANDING,
        limits={"max_calls": MOST_CALLS, "agent_connect_timeout": NEVER_S},
        tables=(
            agent("cold", "bench", cold_port),
            *(agent(pair_name(number), "bench", *ports) for number, ports in enumerate(pairs)),
            ("[[organizations]]", {"name": "guarded"}),
            ("[[organizations.carriers]]", {"carrier": "twilio", "auth_tokens": ["0a-token-of-the-bench"]}),
            agent("echo", "guarded", agent_port),
        ),
    )
    return patchbay(variant, port, agent_port)


def pair_name(number: int) -> str:
    """The agent whose first instance is killed in this round."""
    return f"pair{number}"


def agent(name: str, organization: str, *ports: int) -> Table:
    """An agent's entry, with an instance on each port."""
    return "[[agents]]", {
        "name": name,
        "organization": organization,
        "region": "us-west",
        "instances": [f"http://127.0.0.1:{port}" for port in ports],
        "sessions_per_instance": 20000,
    }


def refused(service_host: str, *headers: str) -> bytes:
    """A carrier's upgrade, as httpload sends it."""
    lines = [
        f"GET /ws/twilio/{service_host} HTTP/1.1",
        "Host: gateway.bench",
        "User-Agent: bench",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: YmVuY2htYXJrIG9mIHRoZQ==",
        "Sec-WebSocket-Version: 13",
        *headers,
    ]
    return "\r\n".join((*lines, "", "")).encode()


WRONG_SIGNATURE = "X-Twilio-Signature: AAAAAAAAAAAAAAAAAAAAAAAAAAA="


@contextlib.contextmanager
def cold_agent(port: int) -> Iterator[None]:
    """An agent that never answers: the kernel accepts its connections."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(WAITING_ROOM)
        yield


@contextlib.contextmanager
def instance(binary: Path, port: int) -> Iterator[int]:
    """An echo agent that greets, and signs what it says with its port's number; gives its process.

    Raises StartError.
    """
    with on_cores({LOAD_CORE}):
        process = subprocess.Popen([str(binary), "--agent", str(port), "--name", str(port)])
    try:
        give_up = time.monotonic() + AGENT_LIMIT_S
        while not answers(port):
            if process.poll() is not None or time.monotonic() > give_up:
                raise StartError(f"an instance does not listen on port {port}")
            time.sleep(0.02)
        yield process.pid
    finally:
        end(process)
