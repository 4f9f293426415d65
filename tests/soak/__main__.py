# SPDX-License-Identifier: BSD-2-Clause
"""Soak a gateway: `python -m tests.soak`, for SOAK_SECONDS (600), 200 calls at a time.

Exit status 1 where something grew that should not, or was left behind.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.gateway import Gateway
from tests.soak.load import Agents, Callers
from tests.soak.samples import MEASURES, MIB, Sample, descriptors, take, thirds

SECONDS = 600.0
AT_A_TIME = 200
SAMPLES = 120
"""How many samples are taken, at least a quarter of a second apart."""

PLACES = 80
"""Slots of an instance: all together more than the calls at a time."""

FIRST_CALLS = 8
"""How many calls are placed before the first sample, so that files opened once are open."""

SEED = 20


async def soak(gateway: Gateway, agents: Agents, seconds: float) -> tuple[list[Sample], int, Callers]:
    """Run the load; return the samples, the gateway's open files before, and the callers."""
    first = Callers(gateway.port, FIRST_CALLS, SEED)
    await asyncio.gather(*(first.call("hangs up", 0.5) for _ in range(FIRST_CALLS)))
    await _idle(gateway)
    base = descriptors(gateway)
    callers = Callers(gateway.port, AT_A_TIME, SEED)
    callers.did += first.did
    samples = []
    began = time.monotonic()
    async with callers.coming_and_going():
        while time.monotonic() - began < seconds:
            await asyncio.sleep(max(0.25, seconds / SAMPLES))
            samples.append(await asyncio.to_thread(take, gateway, began))
            assert gateway.process.poll() is None, "the gateway ended"
    await _idle(gateway)
    return samples, base, callers


async def _idle(gateway: Gateway) -> None:
    """Wait until no call runs and no slot is taken. Raises AssertionError if that never happens."""

    def idle() -> bool:
        status = gateway.status()
        return bool(status["calls"] == status["sessions"]["active"] == 0)

    await eventually(idle, "0 calls and 0 places")


def table(samples: list[Sample]) -> bool:
    """Print the samples and the verdict; return True if nothing grew."""
    print("    at     memory   fds threads calls places   ended      store")
    for one in samples[:: max(1, len(samples) // 12)]:
        print(
            f"{one.at:5.0f}s {one.memory / MIB:6.1f} MiB {one.descriptors:5} {one.threads:7} {one.calls:5} "
            f"{one.places:6} {one.ended:7} {one.store / MIB:6.2f} MiB"
        )
    first, last = thirds(samples)
    print(f"\n{'median of':24} {'first third':>14} {'last third':>14}  {'allowed':>13}")
    stood = True
    for measure in MEASURES:
        before, after, good = measure.judge(first, last)
        stood &= good
        allowed = before * (1 + measure.share) + measure.fixed
        figures = "".join(f"{figure / measure.unit:15.1f}" for figure in (before, after, allowed))
        print(f"{measure.name:24}{figures} {measure.in_words:5} {'stood' if good else 'DRIFTED'}")
    return stood


async def main() -> int:
    seconds = float(os.environ.get("SOAK_SECONDS", SECONDS))
    agents = Agents(SEED)
    await agents.start()
    with tempfile.TemporaryDirectory() as directory:
        agent = {"name": "support", "organization": "acme", "max_agents": len(agents.ports)}
        agent |= {"sessions_per_instance": PLACES, "instances": [port.url for port in agents.ports]}
        gateway = Gateway(
            Path(directory), {"agents": [agent], "limits": {"close_timeout": 0.5, "start_timeout": 5}}
        )
        try:
            await asyncio.to_thread(gateway.wait_until_ready)
            samples, base, callers = await soak(gateway, agents, seconds)
            stood = table(samples)
            print("\ncallers: ", ", ".join(f"{how} {n}" for how, n in sorted(callers.did.items())))
            print("agents:  ", ", ".join(f"{how} {n}" for how, n in sorted(agents.did.items())))
            left = await asyncio.to_thread(_left, gateway, base)
            print(f"after:    0 places, {left} descriptors (before: {base}), {callers.made} calls")
            gateway.upgrades = callers.made
            await asyncio.to_thread(gateway.end)  # each call's end told once, no internal error
        finally:
            if gateway.process.poll() is None:
                gateway.process.kill()
                gateway.process.wait()
            await agents.stop()
    return 0 if stood and left <= base else 1


def _left(gateway: Gateway, base: int) -> int:
    """Return the open files once the last sockets are closed, or after WAIT_S."""
    deadline = time.monotonic() + WAIT_S
    while (left := descriptors(gateway)) > base and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
