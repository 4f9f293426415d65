# SPDX-License-Identifier: BSD-2-Clause
"""Run the bench: `python -m benchmarks full` (under 15 minutes) or `quick` (under two).

Writes RESULTS.md, what is behind it as results*.jsonl, and a picture. README.md tells what is measured.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from types import FrameType

from benchmarks import (
    api,
    api_report,
    contenders,
    machine,
    measurements,
    picture,
    report,
    seams,
    seams_houses,
    seams_report,
    seams_results,
    sections,
)
from benchmarks.bench import Bench, Plan
from benchmarks.load import Generator, Load, build
from benchmarks.processes import free_ports, raise_file_limit
from benchmarks.results import Result
from gateway.simulator.server_process import StartError

HERE = Path(__file__).resolve().parent
PICTURE = HERE.parent / "docs" / "performance.png"
FIRST_PORT = 18300
FILES_WANTED = 8192  # open files: two sockets a call, and some


def bench_of(
    plan: Plan, load: Load, ports: list[int], selected: str, record: Callable[[Result], None]
) -> Bench:
    """A bench with every contender whose name holds `selected`; nginx is always there."""
    agent_port = load.agent_port
    variants = [variant for variant in contenders.VARIANTS if selected in variant.name]
    gateways = {v.name: contenders.patchbay(v, ports.pop(), agent_port) for v in variants}
    single = (contenders.PYTHON, contenders.ACCELERATED)
    pairs = [(name, name + contenders.TWO_WORKERS) for name in single]
    plain = [contenders.direct(agent_port), contenders.haproxy(ports.pop(), agent_port)]
    return Bench(
        plan=plan,
        load=load,
        nginx=contenders.nginx(ports.pop(), agent_port),
        others=[c for c in plain if selected in c.name]
        + [c for name, c in gateways.items() if not name.endswith(contenders.TWO_WORKERS)],
        gateways=[gateways[name] for name in single if name in gateways],
        pairs=[
            (gateways[one], gateways[two].on(machine.CORES[:2]))
            for one, two in pairs
            if {one, two} <= gateways.keys()
        ],
        naive=contenders.naive(ports.pop(), agent_port),
        record=record,
    )


def progress_line(result: Result) -> str:
    """One line of progress."""
    if result.value is not None:
        return f"{result.kind} {result.name}: {result.value:g}"
    if result.report is None:
        return f"{result.kind} {result.name} {result.calls}: failed: {result.error}"
    run = result.report
    if not run.sent:
        return (
            f"{result.kind} {result.name} {result.calls}: {run.open_cpu_us_per_call:.0f} us CPU a set-up,"
            f" p99 {run.set_up_us.p99 / 1000:.1f} ms"
        )
    return (
        f"{result.kind} {result.name} {result.calls}: {run.cpu_per_million:.2f} us CPU a message,"
        f" p99 {run.latency_us.p99 / 1000:.2f} ms{'' if run.kept_up else ', did not keep up'}"
    )


def api_told(result: api.ApiResult) -> str:
    """One line of progress."""
    if result.ours is None or not result.neighbours:
        return f"{result.scenario}: failed: {result.error}"
    return (
        f"{result.scenario}: {result.ours.paced.cpu_us:.0f} us CPU a request,"
        f" p99 {result.ours.paced.p99_us / 1000:.2f} ms, {result.ours.full.per_second:.0f} requests/s"
    )


def execute_api(plan: api.ApiPlan, out: Path, scenarios: list[api.Scenario]) -> str:
    """Measure the public API; its part of the report. Raises StartError."""
    results: list[api.ApiResult] = []
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="patchbay-bench-") as name,
        (out / "results-api.jsonl").open("w") as raw,
    ):
        ports = free_ports(FIRST_PORT, 3)
        load = Generator(build(Path(name), "httpload"), ports[0], contenders.LOAD_CORE)

        def record(result: api.ApiResult) -> None:
            results.append(result)
            print(result.line(), file=raw, flush=True)
            seconds = time.monotonic() - began
            print(f"{seconds:4.0f} s  round {result.round + 1}  {api_told(result)}", file=sys.stderr)

        try:
            finished = api.ApiBench(plan, load, scenarios, ports[1:], Path(name), record).measure()
        finally:
            load.close()
    head = api_report.ApiHead(
        command="python -m benchmarks " + shlex.join(sys.argv[1:]),
        machine=machine.description(),
        plan=plan,
        seconds=time.monotonic() - began,
        finished=finished,
    )
    return api_report.written(head, results)


def execute_seams(plan: seams_houses.SeamsPlan, out: Path, parts: list[str]) -> str:
    """Measure the seams; their part of the report. Raises StartError."""
    results: list[seams_results.SeamResult] = []
    began = time.monotonic()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="patchbay-bench-")))
        raw = stack.enter_context((out / "results-seams.jsonl").open("w"))
        ports = free_ports(FIRST_PORT, seams_houses.ports_needed(plan) + 2)
        wsload = build(directory)
        load = stack.enter_context(closing(Load(wsload, ports.pop(0), contenders.LOAD_CORE)))
        httpload = build(directory, "httpload")
        requests = stack.enter_context(closing(Generator(httpload, ports.pop(0), contenders.LOAD_CORE)))

        def record(result: seams_results.SeamResult) -> None:
            results.append(result)
            print(seams_results.line(result), file=raw, flush=True)
            seconds = time.monotonic() - began
            print(
                f"{seconds:4.0f} s  round {result.round + 1}  {seams_report.progress_line(result)}",
                file=sys.stderr,
            )

        site = seams_houses.Site(plan, parts, ports, load.agent_port, wsload)
        bench = seams.SeamsBench(site, load, requests, directory, record, began)
        finished = bench.measure()
    head = seams_report.SeamsHead(
        command="python -m benchmarks " + shlex.join(sys.argv[1:]),
        machine=machine.description(),
        plan=plan,
        parts=parts,
        seconds=time.monotonic() - began,
        finished=finished,
        failures=bench.failures,
    )
    return seams_report.written(head, results)


def execute(plan: Plan, out: Path, picture_file: Path | None, selected: str) -> str:
    """Measure the relay; its report. Raises StartError when nginx or the load does not run."""
    results: list[Result] = []
    began = time.monotonic()
    ports = free_ports(FIRST_PORT, len(contenders.VARIANTS) + 4)
    with (
        tempfile.TemporaryDirectory(prefix="patchbay-bench-") as name,
        (out / "results.jsonl").open("w") as raw,
    ):
        load = Load(build(Path(name)), ports.pop(0), contenders.LOAD_CORE)

        def record(result: Result) -> None:
            results.append(result)
            print(result.line(), file=raw, flush=True)
            seconds = time.monotonic() - began
            print(f"{seconds:4.0f} s  round {result.round + 1}  {progress_line(result)}", file=sys.stderr)

        bench = bench_of(plan, load, ports, selected, record)
        try:
            finished = measurements.measure(bench)
        finally:
            load.close()
    head = report.Head(
        command="python -m benchmarks " + shlex.join(sys.argv[1:]),
        machine=machine.description(),
        plan=plan,
        seconds=time.monotonic() - began,
        finished=finished,
        unavailable=bench.unavailable,
        undisturbed=bench.undisturbed,
    )
    if picture_file:
        picture.draw(results, picture_file)
    return report.written(head, results)


def run(which: str, out: Path, picture_file: Path | None, selected: str) -> None:
    """Measure what is selected and writes RESULTS.md; what is not measured stays there as it was.

    Raises StartError when nginx or a load does not run.
    """
    relay_plan, api_plan, seams_plan = (
        (measurements.FULL, api.FULL, seams_houses.FULL)
        if which == "full"
        else (measurements.QUICK, api.QUICK, seams_houses.QUICK)
    )
    scenarios = [scenario for scenario in api.SCENARIOS if selected in scenario.name]
    file = out / "RESULTS.md"
    before = file.read_text() if file.exists() else f"{sections.FOLLOWING}\n\n{report.DOES_NOT_SHOW}\n"
    parts = {name: sections.taken_out(before, name) for name in ("api", "seams")}
    if scenarios:
        parts["api"] = execute_api(api_plan, out, scenarios)
    selected_seams = [name for name in seams_houses.NAMES if selected in name]
    if selected_seams:
        parts["seams"] = execute_seams(seams_plan, out, selected_seams)
    is_of_relay = any(selected in name for name in contenders.NAMES)
    text = execute(relay_plan, out, picture_file, selected) if is_of_relay else before
    for name, part in parts.items():
        if part is not None:
            text = sections.placed(text, name, part)
    file.write_text(text)
    print(text)


def stop(_number: int, _frame: FrameType | None) -> None:
    """End on SIGTERM as on Ctrl-C: every process the bench started is ended on the way out."""
    raise KeyboardInterrupt


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("plan", choices=("full", "quick"))
    parser.add_argument("--install", action="store_true", help="as root: install missing tools with apt-get")
    parser.add_argument("--out", type=Path, default=HERE, help="directory of RESULTS.md and results.jsonl")
    parser.add_argument("--picture", type=Path, help="PNG to draw (full: docs/performance.png)")
    parser.add_argument(
        "--only",
        default="",
        metavar="TEXT",
        help='only what has TEXT in its name ("api" is all of the API, "seams" all of them), and nginx',
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, stop)
    try:
        machine.find_tools(install=arguments.install)
        if len(machine.CORES) < 2:
            raise machine.MissingToolsError("two cores are needed: one for the contender, one for the load")
        if raise_file_limit() < FILES_WANTED:
            raise machine.MissingToolsError(f"{FILES_WANTED} open files are needed: raise `ulimit -Hn`")
        arguments.out.mkdir(parents=True, exist_ok=True)
        picture_file = arguments.picture or (PICTURE if arguments.plan == "full" else None)
        run(arguments.plan, arguments.out, picture_file, arguments.only)
    except (machine.MissingToolsError, StartError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        print(f"bench: {' '.join(error.cmd)} failed", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
