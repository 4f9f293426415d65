# SPDX-License-Identifier: BSD-2-Clause
"""The store fails while calls are active: a lock, a full disk, no permission, a broken file."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.simulator.gateway_process import to_toml
from gateway.simulator.server_process import PATCHBAY
from gateway.simulator.waiting import WAIT_S, eventually
from gateway.store.interface import StoreFailed
from gateway.store.sqlite.schema import connect as make_store
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import Call, assert_both_hear, connect, hang_up
from tests.harness.gateway import Gateway
from tests.harness.transcripts import opening

NOBODY = 65534


@contextlib.contextmanager
def locked(gateway: Gateway) -> Iterator[None]:
    """Another program has the file for itself."""
    other = sqlite3.connect(gateway.store, isolation_level=None, timeout=WAIT_S)
    other.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@contextlib.contextmanager
def full(gateway: Gateway) -> Iterator[None]:
    """No file of the gateway's may grow beyond what its write-ahead log has now: as on a full disk."""
    pid = gateway.process.pid
    size = gateway.store.with_name("patchbay.db-wal").stat().st_size
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


FAILURES = [locked, full]


@pytest.fixture
def start(start_gateway: Callable[..., Gateway], support_port: AgentPort) -> Callable[[str], Gateway]:
    agent = {"name": "support", "organization": "acme", "instances": [support_port.url], "hold": "none"}

    def with_policy(policy: str) -> Gateway:
        return start_gateway(
            store={"on_failure": policy},
            server={"public_url": "https://voice.example.com"},
            organizations=[{"name": "acme", "public_keys": ["pk_acme"]}],
            agents=[agent | {"sessions_per_instance": 3}],
        )

    return with_policy


def record(gateway: Gateway, call: Call) -> dict[str, Any]:
    (matching,) = gateway.sessions(call.session)
    return matching


@pytest.mark.parametrize("fails", FAILURES)
async def test_new_calls_are_refused_and_running_ones_go_on(
    start: Callable[[str], Gateway],
    support: Agent,
    fails: Callable[[Gateway], contextlib.AbstractContextManager[None]],
) -> None:
    gateway = start("refuse")
    running, ends = await connect(gateway, support), await connect(gateway, support)
    await eventually(lambda: record(gateway, ends)["state"] == "running", "both are written")
    with fails(gateway):
        refused = await gateway.dial("/ws/twilio/support.acme")
        for message in opening("twilio"):
            refused.say(message)
        code, detail = await refused.closed()
        assert code == 1013
        assert "does not answer" in detail
        await refused.leave()
        await assert_both_hear(running)
        await hang_up(ends)
        await eventually(lambda: len(gateway.ends()) == 2, "its end is told")
        assert record(gateway, ends)["ended_at"] is None
    await eventually(lambda: record(gateway, ends)["state"] == "ended", "its end is written")
    await assert_both_hear(running)
    later = await connect(gateway, support)
    for call in (running, later):
        await hang_up(call)


@pytest.mark.parametrize("fails", FAILURES)
async def test_calls_are_admitted_without_the_store(
    start: Callable[[str], Gateway],
    support: Agent,
    fails: Callable[[Gateway], contextlib.AbstractContextManager[None]],
) -> None:
    gateway = start("admit")
    running = await connect(gateway, support)
    await eventually(lambda: record(gateway, running)["state"] == "running", "it is written")
    with fails(gateway):
        over, lasting = await connect(gateway, support), await connect(gateway, support)
        for call in (running, over, lasting):
            await assert_both_hear(call)
        # The agent has three places, here as ever.
        refused = await gateway.dial("/ws/twilio/support.acme")
        for message in opening("twilio"):
            refused.say(message)
        assert (await refused.closed())[0] == 1013
        await refused.leave()
        await hang_up(over)
        await eventually(lambda: len(gateway.ends()) == 2, "its end is told")
        assert {line["reason"] for line in gateway.ends()} == {"at_capacity", "caller_hangup"}
        assert [row["id"] for row in gateway.sessions()] == [running.session]
    await eventually(lambda: gateway.sessions(over.session), "it is written")
    await eventually(lambda: record(gateway, over)["state"] == "ended", "its end is written")
    await eventually(lambda: record(gateway, lasting)["state"] == "running", "so is the other")
    written = record(gateway, over)
    assert written["admitted_at"] <= written["started_at"] <= written["ended_at"]
    assert [row["id"] for row in gateway.sessions()] == [running.session, over.session, lasting.session]
    assert gateway.status()["sessions"]["active"] == 2
    later = await connect(gateway, support)
    for call in (running, lasting, later):
        await hang_up(call)

    def told(event: str) -> int:
        return [line["event"] for line in gateway.log_lines()].count(event)

    assert await eventually(lambda: told("calls are admitted without the session store"), "it is told") == 1
    await eventually(lambda: told("session_store_recovered"), "that is over, and told")


async def test_a_worker_that_dies_meanwhile_is_started_until_it_can_start(
    start_gateway: Callable[..., Gateway], support_port: AgentPort, support: Agent
) -> None:
    """A store that is away when a worker is started again does not end the others."""
    gateway = start_gateway(
        server={"workers": 2},
        agents=[{"name": "support", "organization": "acme", "instances": [support_port.url]}],
    )
    call = await connect(gateway, support)
    carrying = next(
        worker["pid"] for worker in gateway.workers() if worker["id"] == record(gateway, call)["owner"]
    )
    other = next(worker["pid"] for worker in gateway.workers() if worker["pid"] != carrying)
    gateway.store.with_name("away").mkdir()
    for file in gateway.directory.glob("patchbay.db*"):
        file.rename(gateway.store.with_name("away") / file.name)
    gateway.store.write_bytes(b"no database " * 100)
    os.kill(other, 9)

    def cannot_start() -> bool:
        return sum(line["event"] == "cannot start" for line in gateway.log_lines()) >= 2

    await eventually(cannot_start, "it is tried again")
    await assert_both_hear(call)
    assert gateway.process.poll() is None
    async with nobody_starts(gateway.process.pid, besides=carrying):
        gateway.store.unlink()
        for file in (gateway.store.with_name("away")).iterdir():
            file.rename(gateway.directory / file.name)
    dead_or_alive = {carrying, other}
    await eventually(lambda: {each["pid"] for each in gateway.workers()} - dead_or_alive, "it serves again")
    await hang_up(call)


@contextlib.asynccontextmanager
async def nobody_starts(parent: int, *, besides: int) -> AsyncIterator[None]:
    """No worker is started meanwhile, and none is starting: it would find half of what is being put back."""

    def state(pid: int | str) -> str:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

    def starting() -> list[str]:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        workers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return [pid for pid in workers if int(pid) != besides and state(pid) != "Z"]

    os.kill(parent, signal.SIGSTOP)
    try:
        await eventually(lambda: state(parent) == "T", "the parent stands still")
        await eventually(lambda: not starting(), "who was starting has given up")
        yield
    finally:
        os.kill(parent, signal.SIGCONT)


def serve(directory: Path) -> subprocess.CompletedProcess[str]:
    (directory / "patchbay.toml").write_text(to_toml({"server": {"port": 0, "log_format": "json"}}))
    return subprocess.run(
        [*PATCHBAY, "serve", "--config", directory / "patchbay.toml"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=WAIT_S * 2,
        check=False,
    )


@pytest.mark.parametrize("where", ["header", "schema", "end"])
def test_a_broken_database_file_is_named_and_left_alone(where: str, tmp_path: Path) -> None:
    file = tmp_path / "patchbay.db"
    connection = make_store(file, 1.0)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    whole = file.read_bytes()
    broken = {
        "header": b"\0" * 100 + whole[100:],
        "schema": whole[:100] + b"\xa5" * 3000 + whole[3100:],
        "end": whole[: len(whole) // 2],
    }[where]
    file.write_bytes(broken)
    failed = serve(tmp_path)
    assert failed.returncode == 3
    assert str(file) in failed.stderr
    assert "cannot start" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert file.read_bytes() == broken
    assert [each.name for each in tmp_path.glob("patchbay.db*")] == ["patchbay.db"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else for a moment")
def test_a_database_file_that_may_not_be_written(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Permissions mean nothing to root, so the file is opened as nobody."""
    base = Path("/tmp")  # pytest's own directories are closed to others
    file = base / f"patchbay-read-only-{os.getpid()}.db"
    make_store(file, 1.0).close()
    file.chmod(0o444)
    before = file.read_bytes()
    try:
        os.seteuid(NOBODY)
        try:
            with pytest.raises(StoreFailed, match="may not be written"):
                make_store(file, 1.0)
        finally:
            os.seteuid(0)
        assert file.read_bytes() == before
    finally:
        for each in base.glob(f"{file.name}*"):
            each.unlink()
