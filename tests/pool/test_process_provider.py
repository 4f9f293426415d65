# SPDX-License-Identifier: BSD-2-Clause
"""Instances that are processes: started, watched, stopped with all that they started, and found again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.config import AgentSettings
from gateway.pool.instance_files import InstanceFiles
from gateway.pool.instance_provider import StartedInstance, StartFailed, StartRequest
from gateway.pool.process_provider import ProcessProvider
from gateway.simulator.waiting import WAIT_S, eventually
from tests.pool.bots import BOT, runs


def bot_agent(*options: str, **settings: Any) -> AgentSettings:
    command = [sys.executable, "-S", str(BOT), "{port}", *options]
    return AgentSettings.model_validate(
        {"name": "support", "organization": "acme", "command": command, **settings}
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def request(agent: AgentSettings) -> StartRequest:
    return StartRequest(uuid.uuid4().hex, agent, place=0, host="127.0.0.1", port=free_port(), spec="spec")


@pytest.fixture
async def new_provider(tmp_path: Path) -> AsyncIterator[Callable[..., ProcessProvider]]:
    """Make a provider, as one gateway process after the other has it. What is left in the end is killed."""
    made: list[ProcessProvider] = []

    def make(**environ: str) -> ProcessProvider:
        made.append(ProcessProvider(InstanceFiles(tmp_path), "a", {**os.environ, **environ}))
        return made[-1]

    yield make
    for provider in made:
        await provider.close()
    last = make()
    for instance in await last.find():
        await last.stop(instance, 0.0)
    await last.close()


async def output_of(instance: StartedInstance, words: str) -> str:
    def printed() -> str:
        text = Path(instance.output).read_text()
        return text if words in text else ""

    return await eventually(printed, f"it prints {words!r}")


async def test_an_instance_is_started_where_it_shall_listen_and_stopped(
    new_provider: Callable[..., ProcessProvider],
) -> None:
    provider = new_provider()
    instance = await provider.start(request(bot_agent()))
    text = await output_of(instance, "starting")
    assert f"starting on {instance.url.rpartition(':')[2]}" in text
    ended = asyncio.create_task(provider.wait_ended(instance))
    await provider.stop(instance, WAIT_S)
    assert (await ended).status == -signal.SIGTERM
    assert await provider.find() == []
    assert await provider.usage(instance) is None


async def test_an_instance_that_ignores_sigterm_is_killed(
    new_provider: Callable[..., ProcessProvider],
) -> None:
    provider = new_provider()
    instance = await provider.start(request(bot_agent("deaf")))
    await output_of(instance, "starting")
    await asyncio.sleep(0.1)  # until it ignores the signal; else the status says so
    ended = asyncio.create_task(provider.wait_ended(instance))
    await provider.stop(instance, 0.3)
    assert (await ended).status in (-signal.SIGKILL, -signal.SIGTERM)


@pytest.mark.parametrize("option", ["child", "escaped-child"])
async def test_an_instance_ends_with_all_that_it_has_started(
    option: str, new_provider: Callable[..., ProcessProvider]
) -> None:
    provider = new_provider()
    instance = await provider.start(request(bot_agent(option)))
    child = int((await output_of(instance, f"{option} ")).split(f"{option} ")[1].split()[0])
    await eventually(lambda: runs(child), "the child runs")
    await provider.stop(instance, 0.3)
    assert not runs(child)


async def test_children_that_outlive_an_instance_are_ended_with_it(
    new_provider: Callable[..., ProcessProvider],
) -> None:
    provider = new_provider()
    instance = await provider.start(request(bot_agent("child")))
    child = int((await output_of(instance, "child ")).split("child ")[1].split()[0])
    (found,) = await provider.find()
    os.kill(_pid(found), signal.SIGKILL)
    assert (await provider.wait_ended(instance)).status == -signal.SIGKILL
    assert runs(child)
    await provider.stop(instance, 0.1)
    assert not runs(child)


async def test_the_exit_status_of_an_instance_is_reported(
    new_provider: Callable[..., ProcessProvider],
) -> None:
    provider = new_provider()
    instance = await provider.start(request(bot_agent("exit=7")))
    end = await provider.wait_ended(instance)
    assert (end.status, end.words, end.is_clean) == (7, "exit status 7", False)
    await provider.stop(instance, 0.1)


async def test_another_gateway_process_finds_what_runs_and_watches_it(
    new_provider: Callable[..., ProcessProvider],
) -> None:
    first = new_provider()
    instance = await first.start(request(bot_agent()))
    await output_of(instance, "starting")
    await first.note_served(instance, 3)
    pid = _pid(instance)
    await first.close()
    second = new_provider()
    (found,) = await second.find()
    assert (found.id, found.url, found.served, _pid(found)) == (instance.id, instance.url, 3, pid)
    ended = asyncio.create_task(second.wait_ended(found))
    await second.stop(found, WAIT_S)
    await ended
    assert not runs(pid)


async def test_an_instance_that_ended_while_no_gateway_ran_is_not_found_and_its_children_end(
    new_provider: Callable[..., ProcessProvider],
) -> None:
    first = new_provider()
    instance = await first.start(request(bot_agent("escaped-child", stop_grace=0.1)))
    child = int((await output_of(instance, "escaped-child ")).split("escaped-child ")[1].split()[0])
    await first.close()
    os.kill(_pid(instance), signal.SIGKILL)
    await asyncio.to_thread(os.waitpid, _pid(instance), 0)
    second = new_provider()
    assert await second.find() == []
    assert not runs(child)


@pytest.mark.parametrize(
    "change", [{"pid": "7"}, {"born": None}, {"started_at": "now"}, {"namespace": 7}, {"output": []}]
)
async def test_a_file_that_somebody_has_edited_hinders_nobody(
    new_provider: Callable[..., ProcessProvider], tmp_path: Path, change: dict[str, Any]
) -> None:
    first = new_provider()
    started = await first.start(request(bot_agent()))
    file = tmp_path / f"{started.id}.json"
    (tmp_path / "edited.json").write_text(json.dumps({**json.loads(file.read_text()), **change}))
    (tmp_path / "list.json").write_text("[1]")
    await first.close()
    second = new_provider()
    assert [each.id for each in await second.find()] == [started.id]
    await second.stop(started, 0.0)


async def test_no_signal_reaches_a_process_that_started_at_another_time(
    new_provider: Callable[..., ProcessProvider], tmp_path: Path
) -> None:
    """Its id may have been given to another process."""
    first = new_provider()
    instance = await first.start(request(bot_agent()))
    await output_of(instance, "starting")
    await first.close()
    file = tmp_path / f"{instance.id}.json"
    stored = file.read_text()
    born = stored.split('"born": ')[1].split(",")[0]
    file.write_text(stored.replace(f'"born": {born}', f'"born": {int(born) + 1}'))
    second = new_provider()
    assert await second.find() == []
    assert runs(_pid(instance))
    os.kill(_pid(instance), signal.SIGKILL)
    await asyncio.to_thread(os.waitpid, _pid(instance), 0)


async def test_what_ran_before_the_machine_was_started_again_runs_no_more(
    new_provider: Callable[..., ProcessProvider], tmp_path: Path
) -> None:
    first = new_provider()
    instance = await first.start(request(bot_agent()))
    await first.stop(instance, WAIT_S)
    file = tmp_path / f"{instance.id}.json"
    stored = json.loads(file.read_text())
    host, _, place = stored["namespace"].split(" ")
    stored |= {"ended_at": None, "namespace": f"{host} another-boot {place}"}
    file.write_text(json.dumps(stored))
    assert await new_provider().find() == []
    assert json.loads(file.read_text())["ended_at"] is not None


async def test_a_program_gets_its_variables_and_none_of_the_gateways_own(
    new_provider: Callable[..., ProcessProvider],
) -> None:
    agent = bot_agent(environment={"KEY": "value {port}", "BOTH": "the agent's"})
    agent = agent.model_copy(update={"command": ["env"]})
    provider = new_provider(PATCHBAY_SECRET="s3cret", BOTH="the gateway's", SHARED="yes")
    asked = request(agent)
    instance = await provider.start(asked)
    await provider.wait_ended(instance)
    text = Path(instance.output).read_text().splitlines()
    assert f"KEY=value {asked.port}" in text
    assert "BOTH=the agent's" in text
    assert "SHARED=yes" in text
    assert f"PATCHBAY_INSTANCE={instance.id}" in text
    assert not any("s3cret" in line for line in text)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"command": ["/no/such/program", "{port}"]}, "/no/such/program: No such file"),
        ({"cwd": "/no/such/folder"}, "/no/such/folder: No such file"),
        ({"user": "no-such-user"}, "there is no user 'no-such-user'"),
        ({"log_folder": "/proc/no"}, "its files cannot be written"),
    ],
)
async def test_an_instance_that_cannot_be_started_says_why(
    settings: dict[str, Any], words: str, new_provider: Callable[..., ProcessProvider]
) -> None:
    with pytest.raises(StartFailed, match=words):
        await new_provider().start(request(bot_agent(**settings)))


async def test_an_instance_that_floods_its_output_does_not_fill_the_disk(
    new_provider: Callable[..., ProcessProvider], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.pool.output_file.MAX_BYTES", 1_000_000)
    monkeypatch.setattr("gateway.pool.process_provider.MAX_BYTES", 1_000_000)
    provider = new_provider()
    instance = await provider.start(request(bot_agent("flood")))
    previous = Path(f"{instance.output}.1")
    await eventually(previous.exists, "its output is emptied")
    emptied = previous.stat().st_mtime_ns
    await eventually(lambda: previous.stat().st_mtime_ns != emptied, "and again")
    assert previous.stat().st_size <= 4_000_000 + 1_000_000
    await provider.stop(instance, WAIT_S)


async def test_what_an_instance_uses_is_measured(new_provider: Callable[..., ProcessProvider]) -> None:
    provider = new_provider()
    instance = await provider.start(request(bot_agent("child")))
    await output_of(instance, "child ")
    used = await provider.usage(instance)
    assert used is not None
    assert used.memory_bytes > 5_000_000
    assert used.cpu_s >= 0.0
    await provider.stop(instance, 0.2)


def _pid(instance: StartedInstance) -> int:
    return int(instance.handle.split('"pid": ')[1].split(",")[0])
