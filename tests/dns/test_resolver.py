# SPDX-License-Identifier: BSD-2-Clause
"""Names that hang, fail and come back, by a resolver whose answers a test gives. No name server is asked."""

from __future__ import annotations

import ast
import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from websockets.uri import parse_uri

from gateway.agents.http_client import open_client
from gateway.agents.instance_health import Health, InstanceHealth
from gateway.dns import resolver as module
from gateway.dns.resolver import (
    LONGEST_PAUSE_S,
    LOOKUP_S,
    MAX_FAILING_LOOKUPS,
    STALE_S,
    Resolver,
    resolver_of,
    system_lookup,
)
from gateway.media.outgoing_leg import connect_leg_with
from gateway.model.reasons import CallEnded
from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.agent import Agent
from tests.harness.clock import Clock

ROOT = Path(__file__).parents[2]
GONE = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
AGAIN = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


class Names:
    """A name server of the test: each name has addresses, an error, or no answer until it is `released`."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[str, ...] | OSError | None] = {}
        self.asked: list[str] = []
        self.threads: set[threading.Thread] = set()  # that asked
        self._released = threading.Event()

    def __call__(self, host: str) -> tuple[str, ...]:
        self.asked.append(host)
        self.threads.add(threading.current_thread())
        if self.answers[host] is None:
            assert self._released.wait(WAIT_S)
        answer = self.answers[host]
        if isinstance(answer, OSError):
            raise answer
        return answer or ()

    def release(self) -> None:
        """Let every name that hangs be answered by what `answers` has for it now."""
        self._released.set()


@pytest.fixture
def names() -> Iterator[Names]:
    names = Names()
    yield names
    names.release()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def resolver(names: Names, clock: Clock) -> Resolver:
    return Resolver(names, clock)


@pytest.fixture
async def loops_resolver(names: Names) -> Resolver:
    """The resolver that agents' and carriers' connections use in this test."""
    resolver = resolver_of(asyncio.get_running_loop())
    resolver.lookup = names
    return resolver


async def overdue(resolver: Resolver, clock: Clock, host: str) -> None:
    """Ask for a name that hangs, until its time is over."""
    waiting = asyncio.create_task(resolver.resolve(host))
    await asyncio.sleep(0)
    clock.now += LOOKUP_S
    waiting.cancel()
    with pytest.raises(socket.gaierror, match="no answer to its name within 5 s"):
        await resolver.resolve(host)


async def test_names_that_hang_hold_up_no_other_name(resolver: Resolver, names: Names) -> None:
    hanging = [f"hanging{number}.test" for number in range(MAX_FAILING_LOOKUPS * 2)]
    names.answers = dict.fromkeys(hanging) | {"good.test": ("127.0.0.1",)}
    waiting = [asyncio.create_task(resolver.resolve(host)) for host in hanging]
    await eventually(lambda: len(names.asked) == len(hanging), "all of them hang")
    assert await resolver.resolve("good.test") == ("127.0.0.1",)
    assert not any(task.done() for task in waiting)
    names.answers |= dict.fromkeys(hanging, ("127.0.0.2",))
    names.release()
    assert await asyncio.gather(*waiting) == [("127.0.0.2",)] * len(hanging)


async def test_an_address_is_not_looked_up(resolver: Resolver, names: Names) -> None:
    assert await resolver.resolve("127.0.0.1") == ("127.0.0.1",)
    assert await resolver.resolve("::1") == ("::1",)
    assert names.asked == []


async def test_callers_of_one_name_share_a_look_up(resolver: Resolver, names: Names) -> None:
    names.answers = {"agent.test": None}
    waiting = [asyncio.create_task(resolver.resolve("agent.test")) for _ in range(50)]
    await eventually(lambda: names.asked, "it is asked for")
    waiting[0].cancel()
    names.answers["agent.test"] = ("::1", "127.0.0.1")
    names.release()
    assert await asyncio.gather(*waiting[1:]) == [("::1", "127.0.0.1")] * 49
    assert names.asked == ["agent.test"]


async def test_a_changed_name_is_known_to_the_next_call(resolver: Resolver, names: Names) -> None:
    for address in ("127.0.0.1", "127.0.0.2"):
        names.answers = {"agent.test": (address,)}
        assert await resolver.resolve("agent.test") == (address,)


async def test_the_old_answer_serves_while_no_new_one_comes(
    resolver: Resolver, names: Names, clock: Clock
) -> None:
    names.answers = {"agent.test": ("127.0.0.1",)}
    await resolver.resolve("agent.test")
    names.answers = {"agent.test": AGAIN}
    with capture_logs() as lines:
        assert await resolver.resolve("agent.test") == ("127.0.0.1",)
        names.answers = {"agent.test": None}
        assert await resolver.resolve("agent.test") == ("127.0.0.1",), "after half a second"
        clock.now += STALE_S
        with pytest.raises(socket.gaierror):
            await resolver.resolve("agent.test")
    assert [line for line in lines if line["event"] == "name not resolved"] == [
        {
            "event": "name not resolved",
            "log_level": "warning",
            "name": "agent.test",
            "error": "temporary failure in name resolution",
            "old_answer": True,
        }
    ]


async def test_a_name_that_does_not_exist_any_more_has_no_old_answer(
    resolver: Resolver, names: Names
) -> None:
    names.answers = {"agent.test": ("127.0.0.1",)}
    await resolver.resolve("agent.test")
    names.answers = {"agent.test": GONE}
    for _ in range(2):
        with pytest.raises(socket.gaierror, match="not known"):
            await resolver.resolve("agent.test")
    names.answers = {"agent.test": ("127.0.0.1",)}
    assert await resolver.resolve("agent.test") == ("127.0.0.1",), "at once when it is back"


async def test_a_name_that_hangs_has_one_look_up_and_fails_at_once_when_its_time_is_over(
    resolver: Resolver, names: Names, clock: Clock
) -> None:
    names.answers = {"hanging.test": None}
    with capture_logs() as lines:
        await overdue(resolver, clock, "hanging.test")
        for _ in range(3):
            with pytest.raises(socket.gaierror, match="no answer"):
                await resolver.resolve("hanging.test")
    assert [(line["event"], line["error"]) for line in lines] == [
        ("name not resolved", "no answer within 5 s")
    ]
    assert names.asked == ["hanging.test"]
    names.answers = {"hanging.test": AGAIN}
    names.release()
    await eventually(lambda: not resolver._running, "the look-up ends")
    with pytest.raises(socket.gaierror, match="Temporary failure"):
        await resolver.resolve("hanging.test")
    assert names.asked == ["hanging.test"], "it is given a pause"
    names.answers = {"hanging.test": ("127.0.0.1",)}
    clock.now += LONGEST_PAUSE_S
    with capture_logs() as lines:
        assert await resolver.resolve("hanging.test") == ("127.0.0.1",)
    assert [line["event"] for line in lines] == ["name resolved again"]


async def test_names_that_have_failed_take_a_small_part_of_the_threads(
    resolver: Resolver, names: Names, clock: Clock
) -> None:
    failing = [f"failing{number}.test" for number in range(MAX_FAILING_LOOKUPS + 1)]
    names.answers = dict.fromkeys(failing, AGAIN)
    for host in failing:
        with pytest.raises(socket.gaierror):
            await resolver.resolve(host)
    names.answers = dict.fromkeys(failing)
    waiting = [asyncio.create_task(resolver.resolve(host)) for host in failing[:-1]]
    await eventually(lambda: len(resolver._running) == MAX_FAILING_LOOKUPS, "they hang")
    with pytest.raises(socket.gaierror, match="too many names wait"):
        await resolver.resolve(failing[-1])
    names.answers |= {"new.test": ("127.0.0.1",)}
    assert await resolver.resolve("new.test") == ("127.0.0.1",)
    for task in waiting:
        task.cancel()


async def test_no_more_look_ups_than_there_may_be_threads(
    resolver: Resolver, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_LOOKUPS", 3)
    names.answers = {f"{number}.test": None for number in range(4)}
    waiting = [asyncio.create_task(resolver.resolve(f"{number}.test")) for number in range(3)]
    await eventually(lambda: len(names.asked) == 3, "they hang")
    with pytest.raises(socket.gaierror, match="too many names wait"):
        await resolver.resolve("3.test")
    for task in waiting:
        task.cancel()


async def test_names_are_forgotten_when_there_are_too_many(
    resolver: Resolver, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_NAMES", 3)
    names.answers = {f"{number}.test": ("127.0.0.1",) for number in range(9)}
    for host in names.answers:
        await resolver.resolve(host)
    assert list(resolver._names) == ["6.test", "7.test", "8.test"]


async def test_threads_are_used_again(resolver: Resolver, names: Names) -> None:
    names.answers = {"agent.test": ("127.0.0.1",)}
    for _ in range(20):
        await resolver.resolve("agent.test")
        # The answer is told before the thread is free again.
        await eventually(lambda: resolver._threads._idle == 1, "the thread is free")
    assert len(names.threads) == 1


def test_the_system_knows_localhost_and_refuses_what_is_no_name() -> None:
    assert set(system_lookup("localhost")) & {"127.0.0.1", "::1"}
    with pytest.raises(socket.gaierror, match="no host name"):
        system_lookup("a" * 64)


async def test_a_call_tries_every_address_of_its_agent(
    loops_resolver: Resolver, names: Names, support: Agent
) -> None:
    names.answers = {"agent.test": ("127.0.0.9", "127.0.0.1"), "gone.test": GONE}
    options: dict[str, Any] = {
        "max_message_bytes": 1000,
        "max_buffered_bytes": 1000,
        "on_disconnect": lambda _: None,
    }
    number = support.port.number
    leg, _ = await connect_leg_with(parse_uri(f"ws://agent.test:{number}/ws"), (), **options)
    assert (await support.call()).headers["host"] == f"agent.test:{number}"
    leg.close(1000, "")
    with pytest.raises(
        CallEnded, match=f"connecting to gone.test:{number} failed: name or service not known"
    ):
        await connect_leg_with(parse_uri(f"ws://gone.test:{number}/ws"), (), **options)


async def test_probes_and_requests_to_agents_use_the_same_names(
    loops_resolver: Resolver, names: Names, support: Agent
) -> None:
    good = f"http://agent.test:{support.port.number}"
    bad = [f"http://hanging{number}.test:8080" for number in range(8)]
    names.answers = {"agent.test": ("127.0.0.1",)} | {f"hanging{number}.test": None for number in range(8)}
    health = InstanceHealth([*bad, good])
    await health.start()
    try:
        await eventually(lambda: health.of(good) is Health.READY, "the good one is ready")
        async with open_client(1.0) as client, client.get(f"{good}/readyz") as answer:
            assert answer.status == 200
        assert {health.of(instance) for instance in bad} == {Health.UNKNOWN}
    finally:
        await health.stop()


def test_every_http_client_of_a_worker_uses_these_names() -> None:
    """A client without a connector of ours would ask in the loop's four threads."""
    for path in sorted((ROOT / "gateway").rglob("*.py")):
        if "simulator" in path.parts or path.parent.name == "dns" or path.name == "setup.py":
            continue  # the test kit, the connector itself, and a command that runs by itself
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                own = path.name in (
                    "port.py",
                    "node_listener.py",
                )  # which ask for their own address, to bind it
                assert own or not called.endswith(("TCPConnector", "getaddrinfo")), path
                if called.endswith("ClientSession"):
                    assert "connector" in {keyword.arg for keyword in node.keywords}, path
