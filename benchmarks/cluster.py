# SPDX-License-Identifier: BSD-2-Clause
"""Measure several gateways that share a store on Redis: `python -m benchmarks.cluster`, under ten minutes.

Prints a table, writes it into RESULTS.md (`--out`), and the raw figures into results-cluster.jsonl beside it.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import uvloop

from benchmarks import cluster_calls, cluster_nodes, cluster_report, cluster_store, machine, sections
from benchmarks.cluster_report import Row
from benchmarks.cluster_servers import RedisServer, Site, elsewhere, node_settings, start_seconds
from benchmarks.contenders import LOAD_CORE, PROXY_CORE
from benchmarks.load import Load, build
from benchmarks.processes import ahead_of_all, free_ports, on_cores, raise_file_limit
from gateway.simulator.server_process import StartError

HERE: Final = Path(__file__).resolve().parent
FIRST_PORT: Final = 19100
FILES_WANTED: Final = 4096
NODES: Final = 3
LOSING_EVERY: Final = 25  # of so many scripts, one reply is lost


@dataclass(frozen=True, slots=True)
class Plan:
    """How often each is measured: `rounds` of a whole, `turns` of two that alternate."""

    rounds: int
    turns: int
    starts: int


FULL: Final = Plan(rounds=3, turns=8, starts=6)
QUICK: Final = Plan(rounds=1, turns=2, starts=2)


@dataclass(slots=True)
class Cluster:
    """One execution. `rows`: what was found so far."""

    plan: Plan
    server: RedisServer
    load: Load
    wsload: Path
    ports: Sequence[int]
    directory: Path
    rows: list[Row] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)

    @property
    def sqlite(self) -> Site:
        """One node on a SQLite file."""
        return Site(f"sqlite:///{self.directory}/bench.db", self.ports[0], self.load.agent_port)

    def sites(self, **agent: str | int) -> list[Site]:
        """Return three nodes on Redis."""
        ports = self.ports[1 : NODES + 1]
        return [Site(self.server.url, port, self.load.agent_port, agent) for port in ports]

    def machines(self) -> list[Site]:
        """Return three nodes that take each other for other machines, where the system allows it."""
        inner = self.ports[NODES + 1 :]
        return [
            Site(
                site.store,
                site.port,
                site.agent_port,
                server=node_settings(inner[number]),
                prefix=elsewhere(f"bench-{number}"),
            )
            for number, site in enumerate(self.sites())
        ]

    # What is measured, in the order of the table

    def arrivals(self) -> None:
        """Measure who gets a place."""
        limits = {"sessions_per_instance": cluster_calls.PLACES, "max_agents": 1}
        for every in (0, LOSING_EVERY):
            found = cluster_calls.arrivals(self.server, self.sites(**limits), self.plan.rounds, every=every)
            self.raw[f"arrivals, one reply in {every} lost"] = [asdict(each) for each in found]
            self.rows.append(cluster_report.of_arrivals(found, every))

    def set_ups(self) -> None:
        """Measure the CPU of set-ups."""
        for hold_s, target in ((0.0, 1.15), (0.3, None)):
            self.server.client.flushall()
            pair = cluster_calls.set_up_costs(
                self.load, self.sqlite, self.sites()[0], self.plan.turns, hold_s=hold_s
            )
            name = "CPU of a set-up" if not hold_s else "the same, with the call's end"
            self.raw[name] = asdict(pair)
            self.rows.append(cluster_report.of_pair(f"{name}, Redis against SQLite", pair, target, "µs"))

    def set_up_times(self) -> None:
        """Measure the p99 of set-ups."""
        self.server.client.flushall()
        pair = cluster_calls.set_up_p99s(self.load, self.sqlite, self.sites(), self.plan.turns)
        self.raw["set-up p99"] = asdict(pair)
        name = "set-up p99 at 100 calls/s, three nodes on Redis against one on SQLite"
        self.rows.append(cluster_report.of_pair(name, pair, 1.3, "ms"))

    def admissions(self) -> None:
        """Measure admissions by one client."""
        with on_cores({PROXY_CORE}):
            found = uvloop.run(cluster_store.admissions(self.server, 2 + self.plan.turns))
        self.raw["admissions"] = asdict(found)
        self.rows += cluster_report.of_admissions(found)

    def relay(self) -> None:
        """Measure the CPU of a message."""
        self.server.client.flushall()
        pair = cluster_calls.relay_costs(self.load, self.sqlite, self.sites()[0], 2 * self.plan.turns)
        self.raw["relay"] = asdict(pair)
        name = f"relay CPU per message, {cluster_calls.TALKING} calls, Redis against SQLite"
        self.rows.append(cluster_report.of_pair(name, pair, 1.02, "µs"))

    def deaths(self) -> None:
        """Kill a node."""
        found = []
        for _ in range(min(2, self.plan.rounds)):
            with closing(Load(self.wsload, free_ports(FIRST_PORT + 50, 1)[0], LOAD_CORE)) as load:
                sites = [
                    Site(site.store, site.port, load.agent_port, server=site.server, prefix=site.prefix)
                    for site in self.machines()
                ]
                found.append(cluster_nodes.death(self.server, load, sites))
        self.raw["kill -9"] = [asdict(each) for each in found]
        self.rows.append(cluster_report.of_deaths(found))

    def commands(self) -> None:
        """Stop calls of another node."""
        found = cluster_nodes.stops(self.server, self.machines()[:2])
        self.raw["stops"] = asdict(found)
        self.rows += cluster_report.of_stops(found)

    def second_sockets(self) -> None:
        """Let a call's next socket come to another node."""
        gaps = cluster_nodes.second_sockets(self.server, self.machines()[:2])
        self.raw["second sockets"] = gaps
        self.rows.append(cluster_report.of_gaps(gaps))

    def histories(self) -> None:
        """Measure stores with a long history."""

        async def measure() -> dict[str, cluster_store.History]:
            urls.update(await cluster_store.filled(self.server, self.directory))
            return {
                name: await cluster_store.history(*pair, rounds=self.plan.turns)
                for name, pair in urls.items()
            }

        urls: dict[str, tuple[str, str]] = {}
        with on_cores({PROXY_CORE}):
            found = uvloop.run(measure())
        for name, history in found.items():
            starts = self._starts(urls[name])
            self.raw[f"history, {name}"] = {**asdict(history), "starts": starts}
            self.rows += cluster_report.of_history(name, history, starts)

    def _starts(self, urls: tuple[str, str]) -> tuple[list[float], list[float]]:
        """Return the seconds of starts with a short history and with a long one, in turns."""
        seconds: tuple[list[float], list[float]] = [], []
        for turn in range(self.plan.starts):
            for at in (0, 1) if turn % 2 else (1, 0):
                site = Site(urls[at], self.ports[0], self.load.agent_port)
                seconds[at].append(start_seconds(site, self.directory))
        return seconds


PARTS: Final[dict[str, Callable[[Cluster], None]]] = {
    "arrivals": Cluster.arrivals,
    "set-ups": Cluster.set_ups,
    "set-up times": Cluster.set_up_times,
    "admissions": Cluster.admissions,
    "relay": Cluster.relay,
    "deaths": Cluster.deaths,
    "commands": Cluster.commands,
    "second sockets": Cluster.second_sockets,
    "histories": Cluster.histories,
}


def measure(plan: Plan, selected: str) -> tuple[list[Row], dict[str, Any], str]:
    """Measure what has `selected` in its name; return the rows, the raw figures, and Redis' version."""
    began = time.monotonic()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="patchbay-bench-")))
        server = stack.enter_context(closing(RedisServer(FIRST_PORT + 100)))
        ahead_of_all([server.process.pid])  # what else runs on its core is not its time
        wsload = build(directory)
        ports = free_ports(FIRST_PORT, 2 * NODES + 2)
        load = stack.enter_context(closing(Load(wsload, ports[0], LOAD_CORE)))
        cluster = Cluster(plan, server, load, wsload, ports[1:], directory)
        for name, part in PARTS.items():
            if selected not in name:
                continue
            before = len(cluster.rows)
            try:
                part(cluster)
            except (StartError, OSError, TimeoutError) as error:
                cluster.rows.append(Row(name, "", f"not measured: {error}", None))
            for row in cluster.rows[before:]:
                print(f"{time.monotonic() - began:4.0f} s  {row.figure}: {row.found}", file=sys.stderr)
        return cluster.rows, cluster.raw, server.version()


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short run, to see that all works")
    parser.add_argument("--only", default="", metavar="TEXT", help=f"parts with TEXT: {', '.join(PARTS)}")
    parser.add_argument("--out", type=Path, default=HERE, help="directory of RESULTS.md")
    arguments = parser.parse_args()
    began = time.monotonic()
    try:
        machine.find_tools(install=False)
        if len(machine.CORES) < 2 or raise_file_limit() < FILES_WANTED:
            raise machine.MissingToolsError("two cores and many open files are needed")
        rows, raw, version = measure(QUICK if arguments.quick else FULL, arguments.only)
    except (machine.MissingToolsError, StartError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    head = cluster_report.Head(
        command="python -m benchmarks.cluster " + shlex.join(sys.argv[1:]),
        machine=machine.description() | {"Redis": version},
        seconds=time.monotonic() - began,
    )
    text = cluster_report.written(head, rows)
    print(text)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "results-cluster.jsonl").write_text(json.dumps(raw) + "\n")
    file = arguments.out / "RESULTS.md"
    before = file.read_text() if file.exists() else f"{sections.FOLLOWING}\n"
    file.write_text(sections.placed(before, "cluster", text))
    return 0 if all(row.is_met is not False for row in rows) else 2


if __name__ == "__main__":
    sys.exit(main())
