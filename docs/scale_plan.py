# SPDX-License-Identifier: BSD-2-Clause
"""The tables of docs/scale.md: what one region needs, computed from measured figures.

A figure that is measured anew is changed here, and `python docs/update.py` makes the tables follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

# Assumptions about the calls
CALL_S: Final = 180
"""Seconds that a call takes on average: of N calls at once, N / CALL_S begin in a second."""
MESSAGES_A_SECOND: Final = 50
"""Of sound, in each direction of each leg: one for 20 ms."""
CORE_USE: Final = 0.6
"""How full a core is planned: calls come in waves, and a full core delays sound."""
SPARE_NODES: Final = 1
"""Nodes that may be away at once, for a failure or a release, while the others carry everything."""
CORES_A_NODE: Final = 8
WORKERS_A_NODE: Final = 8

# benchmarks/RESULTS.md: 500 calls, 50,000 relayed messages a second, one worker
RELAY_US: Final = {"accelerator": 9.24, "accelerator, batching": 6.80, "pure Python": 11.50}
"""CPU microseconds of a relayed message."""
SET_UP_MS: Final = 1.0
"""CPU milliseconds of a set-up and its end; the larger of Redis and SQLite is rounded up."""
CALL_KIB: Final = 5.0
"""Resident memory of a call above the idle process."""
SOCKET_KIB: Final = 16.0
"""Kernel memory of a call's two sockets while they keep up: assumed, as 4 KiB a direction."""
WORKER_MIB: Final = 90.0
"""Resident memory of an idle worker."""
FILES_A_CALL: Final = 2
FILES_A_WORKER: Final = 56

# `python -m benchmarks.cluster`: Redis' own time, microseconds
ADMIT_US: Final = 23.3
RUNNING_US: Final = 34.0
END_US: Final = 101.0
PUBLISH_US: Final = 1.0
PUBLISHED_A_CALL: Final = 5
PASSED_US: Final = 8.0
"""Of a running session in a worker's heartbeat."""
HEARTBEAT_S: Final = 3.0
SESSION_KIB: Final = 1.5
"""Redis' memory of a session: its hash, and its places in sorted sets. Of 50,000 without transcripts."""

# Probes of instances, by each worker
PROBE_S: Final = 2.0
PROBE_US: Final = 90.0
"""CPU microseconds of a probe: 100 instances, 200 probes a second, less an idle worker's own."""

TCP_IP_ETHERNET: Final = 20 + 20 + 12 + 18
"""Bytes of the headers around one segment, TCP's time stamps included."""


@dataclass(frozen=True, slots=True)
class Codec:
    """Sound as carriers send it. `bytes`: of 20 ms. `envelope`: what the message has besides the base64."""

    name: str
    bytes: int
    envelope: int = 84

    @property
    def message(self) -> int:
        """Bytes of a WebSocket message with its header."""
        return 4 * math.ceil(self.bytes / 3) + self.envelope

    @property
    def kbit_s(self) -> float:
        """Kilobits a second of one direction of one leg, on the wire."""
        return (self.message + TCP_IP_ETHERNET) * 8 * MESSAGES_A_SECOND / 1000


CODECS: Final = (
    Codec("μ-law or A-law, 8 kHz", 160),
    Codec("linear, 16 bit, 8 kHz", 320),
    Codec("linear, 16 bit, 16 kHz", 640),
    Codec("linear, 16 bit, 24 kHz", 960),
)


@dataclass(frozen=True, slots=True)
class Region:
    """One region with so many calls at once, and so many instances of agents."""

    calls: int
    instances: int

    @property
    def a_second(self) -> float:
        """Calls that begin in a second."""
        return self.calls / CALL_S

    def relay_cores(self, kind: str = "accelerator") -> float:
        """Cores' worth of relaying."""
        return self.calls * 2 * MESSAGES_A_SECOND * RELAY_US[kind] / 1e6

    @property
    def set_up_cores(self) -> float:
        """Cores' worth of set-ups and ends."""
        return self.a_second * SET_UP_MS / 1e3

    @property
    def nodes(self) -> int:
        """Nodes, with the spare ones."""
        cores = (self.relay_cores() + self.set_up_cores) / CORE_USE
        return math.ceil(cores / CORES_A_NODE) + SPARE_NODES

    @property
    def workers(self) -> int:
        """Workers of all nodes."""
        return self.nodes * WORKERS_A_NODE

    @property
    def calls_a_node(self) -> float:
        """Calls of a node while the spare ones are away."""
        return self.calls / (self.nodes - SPARE_NODES)

    @property
    def memory_gib(self) -> float:
        """Memory of one node."""
        calls = self.calls_a_node * (CALL_KIB + SOCKET_KIB) / 2**20
        return calls + WORKERS_A_NODE * WORKER_MIB / 1024

    @property
    def files(self) -> float:
        """Open files of one worker: sockets of calls, and a connection to each instance that it probes."""
        return self.calls_a_node / WORKERS_A_NODE * FILES_A_CALL + self.instances + FILES_A_WORKER

    def gbit_s(self, codec: Codec) -> float:
        """Return what one node gets in a second, and sends as well: of carriers, and of agents."""
        return self.calls_a_node * 2 * codec.kbit_s / 1e6

    @property
    def scripts(self) -> float:
        """Redis' commands a second of calls: three scripts and what they publish."""
        return self.a_second * (3 + PUBLISHED_A_CALL)

    @property
    def call_core(self) -> float:
        """Redis' core for calls that come and go."""
        return self.a_second * (ADMIT_US + RUNNING_US + END_US + PUBLISHED_A_CALL * PUBLISH_US) / 1e6

    @property
    def heartbeat_core(self) -> float:
        """Redis' core for what running calls have passed."""
        return self.calls / HEARTBEAT_S * PASSED_US / 1e6

    @property
    def redis_gib(self) -> float:
        """Redis' memory for running sessions, and those of a day that are over."""
        return (self.calls + self.a_second * 86_400) * SESSION_KIB / 2**20

    @property
    def probes(self) -> float:
        """Probes of instances in a second, by all workers."""
        return self.workers * self.instances / PROBE_S

    @property
    def probe_cores(self) -> float:
        """Cores' worth of probes, of all nodes."""
        return self.probes * PROBE_US / 1e6


REGIONS: Final = tuple(
    Region(calls, instances) for calls in (10_000, 100_000) for instances in (calls // 50, calls)
)
"""With 50 calls an instance, and with one."""


def _rows(rows: Sequence[tuple[str, Callable[[Region], str]]]) -> str:
    heads = [f"{region.calls:,} calls, {region.instances:,} instances" for region in REGIONS]
    lines = ["| | " + " | ".join(heads) + " |", "| --- " * (len(REGIONS) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(value(region) for region in REGIONS) + " |" for name, value in rows]
    return "\n".join(lines)


def table() -> str:
    """Return what the regions need, in Markdown."""
    mu_law, linear = CODECS[0], CODECS[2]
    return _rows(
        [
            ("calls that begin in a second", lambda r: f"{r.a_second:.0f}"),
            ("cores that relay, accelerator", lambda r: f"{r.relay_cores():.1f}"),
            ("the same with batching", lambda r: f"{r.relay_cores('accelerator, batching'):.1f}"),
            ("the same in pure Python", lambda r: f"{r.relay_cores('pure Python'):.1f}"),
            ("cores that set up and end calls", lambda r: f"{r.set_up_cores:.2f}"),
            (
                f"nodes of {CORES_A_NODE} cores, {CORE_USE:.0%} full, {SPARE_NODES} to spare",
                lambda r: f"**{r.nodes}**",
            ),
            ("calls of a node", lambda r: f"{r.calls_a_node:,.0f}"),
            ("memory of a node, GiB", lambda r: f"{r.memory_gib:.1f}"),
            ("open files of a worker", lambda r: f"{r.files:,.0f}"),
            (f"Gbit/s in, and out, of a node: {mu_law.name}", lambda r: f"{r.gbit_s(mu_law):.2f}"),
            (f"the same: {linear.name}", lambda r: f"{r.gbit_s(linear):.2f}"),
            ("commands to Redis a second, of calls", lambda r: f"{r.scripts:,.0f}"),
            ("Redis' core, calls that come and go", lambda r: f"{r.call_core:.1%}"),
            ("Redis' core, heartbeats of running calls", lambda r: f"{r.heartbeat_core:.1%}"),
            ("Redis' memory with a day's history, GiB", lambda r: f"{r.redis_gib:.0f}"),
            ("probes of instances a second, by all workers", lambda r: f"{r.probes:,.0f}"),
            ("cores that probe", lambda r: f"{r.probe_cores:,.1f}"),
        ]
    )


def codecs() -> str:
    """Return what one call's sound takes on the wire, in Markdown."""
    lines = [
        "| sound | bytes of 20 ms | of its message | kbit/s, one way of one leg | of a call, in, and out |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {each.name} | {each.bytes} | {each.message} | {each.kbit_s:.0f} | {2 * each.kbit_s:.0f} |"
        for each in CODECS
    ]
    return "\n".join(lines)
