# SPDX-License-Identifier: BSD-2-Clause
"""Several workers: if one dies, only its own calls end."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.config import Settings
from gateway.server.port_ownership import PortOwnership
from gateway.server.service_manager import ServiceManager
from gateway.server.worker_processes import (
    END_S,
    KILL_S,
    SIGBUS_WORDS,
    SILENT_S,
    START_S,
    WorkerProcess,
    WorkerProcesses,
)
from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import (
    Call,
    assert_agent_heard,
    assert_both_hear,
    assert_caller_heard,
    assert_ended,
    assert_refused,
    connect,
    hang_up,
)
from tests.harness.gateway import Gateway
from tests.harness.prepared_process import patchbay_starts_anew  # noqa: F401 - a fixture
from tests.harness.transcripts import replies, talk


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway], support_port: AgentPort) -> Gateway:
    agent = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    agent |= {"sessions_per_instance": 2, "max_agents": 1}
    return start_gateway(server={"workers": 2}, agents=[agent], limits={"close_timeout": 0.5})


def owner_of(gateway: Gateway, call: Call) -> Any:
    return gateway.sessions(call.session)[0]["owner"]


async def one_call_on_each(gateway: Gateway, support: Agent) -> tuple[Call, Call]:
    """Connect two calls that different workers carry; they take both slots."""
    first = await connect(gateway, support)
    while True:
        second = await connect(gateway, support)
        if owner_of(gateway, second) != owner_of(gateway, first):
            return first, second
        await hang_up(second)
        await assert_ended(gateway, second.session, "caller_hangup", "caller")


async def test_a_killed_worker_loses_only_its_own_calls_and_is_restarted(
    gateway: Gateway, support: Agent
) -> None:
    doomed, lucky = await one_call_on_each(gateway, support)
    before = len(gateway.ends())
    full = await gateway.dial("/ws/generic/support.acme")
    assert full.refusal == (429, "at_capacity")
    await assert_refused(
        gateway, before, "at_capacity"
    )  # logged before the worker that logs it may be killed
    pids = {worker["id"]: worker["pid"] for worker in gateway.workers()}
    victim = pids[owner_of(gateway, doomed)]
    assert victim != gateway.process.pid
    os.kill(victim, signal.SIGKILL)
    gateway.upgrades -= 1  # it cannot log the end of its call any more

    assert await doomed.caller.closed() == (1006, "")
    assert await doomed.agent.closed() == (1006, "")
    # The call of the other worker continues.
    await assert_agent_heard(lucky.agent, [lucky.caller.say(message) for message in talk("twilio")])
    await assert_caller_heard(lucky.caller, [lucky.agent.say(message) for message in replies("twilio")])

    def lost_sessions() -> list[dict[str, Any]]:
        return [row for row in gateway.sessions(doomed.session) if row["ended_at"] is not None]

    (record,) = await eventually(lost_sessions, "the session of the dead worker is closed")
    assert (record["reason"], record["side"], record["state"]) == ("gateway_lost", "gateway", "failed")
    assert str(victim) in record["detail"]

    def lost_lines() -> list[dict[str, Any]]:
        return [line for line in gateway.log_lines() if line["event"] == "session_lost"]

    (line,) = await eventually(lost_lines, "it is logged")
    assert (line["session"], line["detail"]) == (doomed.session, record["detail"])

    # Its slot is free, and a new worker has taken its place.
    third = await connect(gateway, support)
    await eventually(lambda: len(gateway.workers()) == 2, "a worker is started again")
    assert victim not in [worker["pid"] for worker in gateway.workers()]

    def dead_workers() -> list[int]:
        return [line["pid"] for line in gateway.log_lines() if line["event"].startswith("a worker died")]

    assert await eventually(dead_workers, "its death is logged") == [victim]
    for call in (lucky, third):
        await hang_up(call)
        await assert_ended(gateway, call.session, "caller_hangup", "caller")


async def test_a_worker_that_is_restarted_makes_no_store_beside_that_of_the_others(gateway: Gateway) -> None:
    pids = [worker["pid"] for worker in gateway.workers()]
    files = [gateway.store.with_name(f"{gateway.store.name}{suffix}") for suffix in ("", "-wal", "-shm")]
    away = [file.rename(file.with_name(f"away{file.name}")) for file in files]
    os.kill(pids[0], signal.SIGKILL)

    def refused() -> bool:
        errors = [line["error"] for line in gateway.log_lines() if line["event"] == "cannot start"]
        return any("is missing, and other workers may have it open" in error for error in errors)

    await eventually(refused, "the restarted worker refuses to start")
    assert not any(file.exists() for file in files)
    for file, moved in zip(files, away, strict=True):
        moved.rename(file)
    await eventually(lambda: gateway.listening() == 2, "it starts once the store is back")
    await eventually(lambda: pids[0] not in {worker["pid"] for worker in gateway.workers()}, "as a new one")


async def test_status_counts_the_calls_of_all_workers(gateway: Gateway, support: Agent) -> None:
    first, second = await one_call_on_each(gateway, support)
    await eventually(lambda: gateway.status()["sessions"]["by_state"]["running"] == 2, "both run")
    status = gateway.status()
    assert status["sessions"]["active"] == 2
    assert status["calls"] == 1, "those of the worker that answered"
    for call in (first, second):
        await hang_up(call)
        await assert_ended(gateway, call.session, "caller_hangup", "caller")


async def test_workers_drain_after_their_parent_was_killed(
    start_gateway: Callable[..., Gateway], support_port: AgentPort, support: Agent
) -> None:
    """They notice it, leave the port to the next gateway, let their calls finish, and end."""
    agent = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    agent["sessions_per_instance"] = 2
    gateway = start_gateway(server={"workers": 2, "drain_timeout": 600}, agents=[agent])
    call = await connect(gateway, support)
    gateway.process.kill()
    await eventually(lambda: len(gateway.workers()) == 1, "the idle worker ends")
    store = {"url": f"sqlite:///{gateway.store}"}
    after = start_gateway(server={"port": gateway.port}, store=store, agents=[agent])
    fresh = await connect(after, support)
    await assert_both_hear(fresh)
    await assert_both_hear(call)
    for one, over in ((gateway, call), (after, fresh)):
        await hang_up(over)
        await assert_ended(one, over.session, "caller_hangup", "caller")
    await eventually(lambda: len(gateway.workers()) == 1, "the last of the old workers ends")
    lines = [line for line in gateway.log_lines() if line["event"] == "the parent process died: draining"]
    assert sorted(line["calls"] for line in lines) == [0, 1]


# A worker that stands still

FROZEN_SOON = """
import gateway.server.worker_processes as processes
processes.SILENT_S, processes.KILL_S = {silent_s}, {kill_s}
from gateway.cli import main
main()
"""


def killing_after(kill_s: float) -> list[str]:
    """The command of a gateway that notices soon that a worker stands still."""
    return [sys.executable, "-c", FROZEN_SOON.format(silent_s=1.5, kill_s=kill_s)]


async def test_callers_of_a_frozen_worker_are_served_by_the_others_and_its_calls_go_on_when_it_wakes(
    start_gateway: Callable[..., Gateway], support_port: AgentPort, support: Agent
) -> None:
    agent = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    agent["sessions_per_instance"] = 100
    gateway = start_gateway(server={"workers": 2}, agents=[agent], command=killing_after(600))
    call = await connect(gateway, support)
    pids = {worker["id"]: worker["pid"] for worker in gateway.workers()}
    frozen = pids[owner_of(gateway, call)]
    os.kill(frozen, signal.SIGSTOP)
    try:
        calls = [await connect(gateway, support) for _ in range(8)]  # the kernel gives it some of so many
        assert {pids[owner_of(gateway, one)] for one in calls} == set(pids.values()) - {frozen}
        lines = logged(gateway, "a worker does not answer: the others get its new connections")
        # On a busy machine another may have been silent for a moment, too.
        assert [line["process"] for line in lines if line["pid"] == frozen] == ["T (stopped)"]
    finally:
        os.kill(frozen, signal.SIGCONT)
    await assert_both_hear(call)
    await eventually(lambda: logged(gateway, "a worker answers again"), "it is noticed")
    while frozen not in [pids[owner_of(gateway, one)] for one in calls]:
        calls.append(await connect(gateway, support))  # it takes calls again
    for one in (call, *calls):
        await hang_up(one)
        await assert_ended(gateway, one.session, "caller_hangup", "caller")


def logged(gateway: Gateway, event: str) -> list[dict[str, Any]]:
    return [line for line in gateway.log_lines() if line["event"] == event]


async def test_a_worker_that_stays_frozen_is_killed_and_started_again(
    start_gateway: Callable[..., Gateway], support_port: AgentPort, support: Agent
) -> None:
    agent = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    gateway = start_gateway(server={"workers": 2}, agents=[agent], command=killing_after(3.0))
    call = await connect(gateway, support)
    pids = {worker["id"]: worker["pid"] for worker in gateway.workers()}
    frozen = pids[owner_of(gateway, call)]
    os.kill(frozen, signal.SIGSTOP)
    gateway.upgrades -= 1  # it will not log the end of its call
    assert await call.caller.closed() == (1006, "")
    assert await call.agent.closed() == (1006, "")

    def killed() -> bool:
        return frozen in [line["pid"] for line in logged(gateway, "a worker that does not answer is killed")]

    await eventually(killed, "it is logged")
    await eventually(
        lambda: len(gateway.workers()) == 2 and frozen not in [worker["pid"] for worker in gateway.workers()],
        "a worker is started again",
    )
    fresh = await connect(gateway, support)
    await hang_up(fresh)
    await assert_ended(gateway, fresh.session, "caller_hangup", "caller")


async def test_callers_that_come_while_a_worker_starts_again_are_served_by_the_others(
    start_gateway: Callable[..., Gateway], support_port: AgentPort, support: Agent
) -> None:
    agent = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    agent["sessions_per_instance"] = 100
    gateway = start_gateway(server={"workers": 2}, agents=[agent])
    victim = gateway.workers()[0]["pid"]
    os.kill(victim, signal.SIGBUS)  # as of a file in its memory that was shortened
    calls = [await connect(gateway, support) for _ in range(8)]
    for call in calls:
        await hang_up(call)
        await assert_ended(gateway, call.session, "caller_hangup", "caller")
    (line,) = await eventually(
        lambda: logged(gateway, "a worker died and is started again"), "its death is logged"
    )
    assert (line["pid"], line["exit_status"], line["words"]) == (victim, -signal.SIGBUS, SIGBUS_WORDS)


async def test_a_worker_that_alone_is_told_to_drain_takes_no_caller_with_it(
    start_gateway: Callable[..., Gateway], support_port: AgentPort, support: Agent
) -> None:
    """Somebody's tool has sent it SIGTERM: it finishes its calls, and another worker takes its place."""
    agent = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    agent["sessions_per_instance"] = 100
    gateway = start_gateway(server={"workers": 2, "drain_timeout": 600}, agents=[agent])
    call = await connect(gateway, support)
    pids = {worker["id"]: worker["pid"] for worker in gateway.workers()}
    drained = pids[owner_of(gateway, call)]
    os.kill(drained, signal.SIGTERM)
    await eventually(lambda: len(gateway.workers()) == 3, "another worker is started")
    (line,) = logged(gateway, "a worker drains by itself, and another is started")
    assert line["pid"] == drained
    calls = [await connect(gateway, support) for _ in range(8)]
    pids |= {worker["id"]: worker["pid"] for worker in gateway.workers()}
    assert drained not in {pids[owner_of(gateway, one)] for one in calls}
    await assert_both_hear(call)
    for one in (call, *calls):
        await hang_up(one)
        await assert_ended(gateway, one.session, "caller_hangup", "caller")
    await eventually(lambda: len(gateway.workers()) == 2, "the drained worker has ended")
    assert logged(gateway, "a worker died and is started again") == []


class Child:
    """A child process as the parent sees it; it does nothing."""

    pid = -1
    was_killed = False

    def kill(self) -> None:
        self.was_killed = True


class Parent:
    """The parent of one worker that has reported at 0 s, with a clock of its own."""

    def __init__(self) -> None:
        self.child = Child()
        worker = WorkerProcess(socket.socket())
        ownership = PortOwnership("127.0.0.1:7860", None, lambda: None, is_takeover=False)
        self.processes = WorkerProcesses(Settings(), [], ownership, None, ServiceManager())
        self.processes._workers = [worker]
        self.processes._looked_at = 0.0
        self.worker: Any = worker
        self.worker.process = self.child
        self.worker.reported_at = 0.0

    def look(self, *times: float) -> list[str]:
        """Look after the worker at these times; return what was logged."""
        with capture_logs() as logs:
            for at in times:
                self.processes._look_after_workers(at)
        return [line["event"] for line in logs]


@pytest.fixture
def parent() -> Iterator[Parent]:
    parent = Parent()
    yield parent
    parent.processes.close()


def test_a_silent_worker_is_noticed_once_and_killed_once(parent: Parent) -> None:
    assert parent.look(0.5, SILENT_S - 0.1) == []
    assert parent.look(SILENT_S, SILENT_S + 1) == [
        "a worker does not answer: the others get its new connections"
    ]
    assert not parent.worker.answers
    assert not parent.child.was_killed
    assert parent.look(*range(5, int(KILL_S) + 3)) == ["a worker that does not answer is killed"]
    assert parent.child.was_killed


def test_a_worker_that_reports_again_is_noticed(parent: Parent) -> None:
    parent.look(1.5, SILENT_S)
    parent.worker.reported_at = SILENT_S
    assert parent.look(SILENT_S + 0.5) == ["a worker answers again"]
    assert parent.worker.answers


def test_a_parent_that_stood_still_itself_blames_no_worker(parent: Parent) -> None:
    """As when the machine sleeps, or the whole group is stopped."""
    assert parent.look(1000.0, 1000.0 + SILENT_S - 0.1) == []
    assert parent.worker.answers


def test_a_worker_that_takes_long_to_start_is_noticed_once(parent: Parent) -> None:
    parent.worker.reported_at = None
    assert parent.look(START_S, START_S + 1, START_S + 2) == ["a worker takes long to start"]


def test_a_worker_that_ends_need_not_report_but_has_to_end(parent: Parent) -> None:
    parent.worker.ends_since = 0.0
    assert parent.look(*range(1, int(END_S))) == []
    assert parent.look(END_S, END_S + 1) == ["a worker that does not answer is killed"]
