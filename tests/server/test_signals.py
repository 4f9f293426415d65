# SPDX-License-Identifier: BSD-2-Clause
"""Signals that somebody's tool sends by mistake: no call is cut, and a line says so."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from gateway.server.stray_signals import STRAY, name_of
from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import assert_both_hear, assert_ended, connect, hang_up
from tests.harness.gateway import Gateway
from tests.harness.prepared_process import patchbay_starts_anew  # noqa: F401 - a fixture


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_signal_that_means_nothing_is_ignored_and_logged(
    start_gateway: Callable[..., Gateway], support_port: AgentPort, support: Agent, workers: int
) -> None:
    agent = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    gateway = start_gateway(server={"workers": workers}, agents=[agent])
    call = await connect(gateway, support)
    processes = {gateway.process.pid, *(worker["pid"] for worker in gateway.workers())}
    assert len(processes) == (1 if workers == 1 else 3)
    sent = sorted(STRAY)
    for process in processes:
        for number in (*sent, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP):
            os.kill(process, number)

    def ignored() -> dict[str, int]:
        lines = [line for line in gateway.log_lines() if line["event"] == "signal ignored"]
        return {
            name_of(number): sum(one["times"] for one in lines if one["signal"] == name_of(number))
            for number in sent
        }

    expected = dict.fromkeys(map(name_of, sent), len(processes))
    await eventually(lambda: ignored() == expected, "every signal of every process is in the log")
    await assert_both_hear(call)
    await hang_up(call)
    await assert_ended(gateway, call.session, "caller_hangup", "caller")
    assert gateway.process.poll() is None
    events: list[Any] = [line["event"] for line in gateway.log_lines()]
    assert "a worker died and is started again" not in events


def test_the_signals_that_end_a_program_by_default_are_known() -> None:
    """Those that mean something, that cannot be caught, or that a fault of its own raises, are not."""
    names = {name_of(number) for number in STRAY}
    assert names >= {"SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF"}
    assert not names & {"SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGKILL", "SIGSTOP", "SIGSEGV", "SIGABRT"}
