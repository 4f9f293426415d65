# SPDX-License-Identifier: BSD-2-Clause
"""The gateways that the seams are measured at, all of them running; and how much is measured."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import seams_gateways as gateways
from benchmarks.contenders import ACCELERATED, PROXY_CORE, PYTHON, Contender, accelerator_runs, status
from benchmarks.machine import CORES
from benchmarks.processes import pin

CALLS = 200
AT_ONCE = 4  # gateways that are started together

KEEP_ALIVES, HOLD, REFUSALS, RECOVERY = NAMES = (
    "seams, keep-alives",
    "seams, holding",
    "seams, refusals",
    "seams, recovery",
)
"""The names that can be selected."""

PLAIN, SAME = "none", "none, in another process"
OFTEN, USUAL = "every second", "every 20 s, the default"
SEAMS = "seams"
INTERVALS_S = {PLAIN: 0.0, SAME: 0.0, OFTEN: gateways.SHORT_INTERVAL_S, USUAL: gateways.DEFAULT_INTERVAL_S}

# The sets of calls that wsload keeps apart, of one variant.
SETS = 8
SET_OF = {SEAMS: 0, PLAIN: 4, SAME: 5, OFTEN: 6, USUAL: 7}
HOLDING_SET, FULL_SET, KILLED_SET = 1, 2, 3  # further ones at the gateway of SEAMS


@dataclass(frozen=True, slots=True)
class SeamsPlan:
    """The plan of a measurement; all times in seconds.

    `variants`: of the bench's, by name. `rounds`: turns A B B A, and as many of everything else. `usual`:
    whether the default `ping_interval` is measured too, for which calls must get 20 s old. After `budget_s`
    nothing is begun.
    """

    variants: tuple[str, ...]
    rounds: int
    warm_up_s: float
    window_s: float
    refusal_s: float
    usual: bool
    budget_s: float


FULL = SeamsPlan(
    (PYTHON, ACCELERATED), rounds=3, warm_up_s=0.05, window_s=0.2, refusal_s=0.2, usual=True, budget_s=56
)
QUICK = SeamsPlan(
    (ACCELERATED,), rounds=1, warm_up_s=0.05, window_s=0.2, refusal_s=0.2, usual=False, budget_s=12
)


@dataclass(frozen=True, slots=True)
class Arm:
    """Calls through a gateway that runs. `options`: words for wsload, whenever it opens some of them."""

    contender: Contender
    pids: Sequence[int]
    set: int
    calls: int = CALLS
    options: tuple[str, ...] = ()


@dataclass(slots=True)
class House:
    """One variant's gateways.

    `pinging`: without keep-alives (PLAIN), and what is compared with it. `seams`: the one that holds, refuses
    and recovers. `mortal`: process and port of the instances that are killed, one a round.
    """

    name: str
    pinging: dict[str, Arm] = field(default_factory=dict)
    seams: Arm | None = None
    mortal: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Site:
    """The parts of gateways. `ports`: free ones, which are removed when used. `wsload`: the binary."""

    plan: SeamsPlan
    parts: Sequence[str]
    ports: list[int]
    agent_port: int
    wsload: Path


def opened(site: Site, stack: ExitStack) -> tuple[list[House], list[str]]:
    """All gateways that the parts need; and, in words, what there is not. Raises StartError."""
    houses = [House(name) for name in site.plan.variants]
    selected = [(house, *one) for house in houses for one in _contenders_of(site, house, stack)]
    running = started(stack, [contender for _, _, contender in selected])
    absent = []
    for (house, what, contender), pids in zip(selected, running, strict=True):
        if contender.accelerated and not accelerator_runs(status(contender.port)):
            absent.append(f"`{house.name}` was not measured: no accelerator: /status names none")
            continue
        arm = Arm(contender, pids, SETS * houses.index(house) + SET_OF[what])
        if what == SEAMS:
            house.seams = arm
        else:
            house.pinging[what] = arm
    return houses, sorted(set(absent))


def _contenders_of(site: Site, house: House, stack: ExitStack) -> list[tuple[str, Contender]]:
    """One variant's gateways, not started; the agents of theirs that need to be there before are."""
    found = []
    if KEEP_ALIVES in site.parts:
        for what, interval_s in INTERVALS_S.items():
            if what != USUAL or site.plan.usual:
                contender = gateways.pinging(house.name, interval_s, site.ports.pop(), site.agent_port)
                found.append((what, contender))
    if {HOLD, REFUSALS, RECOVERY} & set(site.parts):
        cold_port = site.ports.pop()
        stack.enter_context(gateways.cold_agent(cold_port))
        pairs = []
        for _ in range(site.plan.rounds):
            pair = [site.ports.pop(), site.ports.pop()]
            pids = [stack.enter_context(gateways.instance(site.wsload, port)) for port in pair]
            house.mortal.append((pids[0], pair[0]))
            pairs.append(pair)
        contender = gateways.with_seams(house.name, site.ports.pop(), site.agent_port, cold_port, pairs)
        found.append((SEAMS, contender))
    return found


def started(stack: ExitStack, contenders: Sequence[Contender]) -> list[list[int]]:
    """Start them, some at a time on both cores, and pins them once they run; their processes."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        starts = [
            pool.submit(stack.enter_context, contender.on(CORES[:2]).running()) for contender in contenders
        ]
    found = [start.result() for start in starts]
    for pids in found:
        pin(pids, {PROXY_CORE})
    stack.callback(asked_to_stop, [pids[0] for pids in found])
    return found


def asked_to_stop(pids: Sequence[int]) -> None:
    """Ask all at once, so that they need not be waited for one after another."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def ports_needed(plan: SeamsPlan) -> int:
    """At most: gateways, agents and nginx."""
    return 1 + len(plan.variants) * (len(INTERVALS_S) + 2 + 2 * plan.rounds)
