# SPDX-License-Identifier: BSD-2-Clause
"""A command to a session of another machine: straight to its worker, and through the store if need be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.calls import command_bus
from gateway.calls.command_bus import CallCommand, CommandBus
from gateway.calls.node_requests import NodeRequests
from gateway.model.lifecycle import SessionState
from gateway.model.reasons import Party, Reasons
from gateway.model.session import CallDetails, SessionResult, SlotLimits, Traffic
from gateway.nodes.nodes import Nodes, Reply
from gateway.simulator.waiting import WAIT_S
from gateway.store.notifications import Topic
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId

SESSION = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
DETAILS = CallDetails(SESSION, "support.acme", "acme", "us-west", "twilio", "CA1", "MZ1", None, None)


class Line:
    """The way from one worker to the others' nodes, and what becomes of what is sent there."""

    def __init__(self, *replies: Reply) -> None:
        self.worker = "one"
        self.replies = list(replies)
        self.sent: list[tuple[str, str, str]] = []
        self.on_send = lambda: None

    def _reply(self, worker: str, session_id: str, what: str) -> Reply:
        self.sent.append((worker, session_id, what))
        self.on_send()
        return self.replies.pop(0)

    async def command(self, worker: str, session_id: str, command: str) -> Reply:
        return self._reply(worker, session_id, command)

    async def stop(self, worker: str, session_id: str) -> Reply:
        return self._reply(worker, session_id, "stop")

    async def question(
        self, worker: str, session_id: str, command: str, timeout_s: float
    ) -> tuple[Reply, str | None]:
        reply = self._reply(worker, session_id, command)
        return reply, '{"heard_ms": 7}' if reply is Reply.TAKEN else None


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner acknowledges a command in time, however slow the machine is."""
    monkeypatch.setattr(command_bus, "ACKNOWLEDGE_S", WAIT_S)


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[list[SqliteStore]]:
    """The store as the workers one, two and three have it; the session is two's."""
    opened = [
        SqliteStore(tmp_path / "patchbay.db", WorkerId.of_this_process(name))
        for name in ("one", "two", "three")
    ]
    for store in opened:
        await store.open()
    await opened[1].admit(DETAILS, SlotLimits((("http://127.0.0.1:1", 0),), 9, 9), time.time())
    yield opened
    for store in opened:
        await store.close()


def bus(store: SqliteStore, line: Line) -> CommandBus:
    return CommandBus(store, time.time, cast(Nodes, line))


async def written(store: SqliteStore) -> int:
    """How many commands are in the store."""
    return len(await store.key_values.list("call_wish", time.time()))


async def test_a_command_that_the_owner_takes_is_not_written_down(stores: list[SqliteStore]) -> None:
    line = Line(Reply.TAKEN)
    assert await bus(stores[0], line).send(SESSION, CallCommand.HANG_UP)
    assert line.sent == [("two", SESSION, "hang_up")]
    assert await written(stores[0]) == 0


async def test_what_the_owner_does_not_have_nobody_has(stores: list[SqliteStore]) -> None:
    line = Line(Reply.NOT_HERE)
    assert not await bus(stores[0], line).send(SESSION, CallCommand.HANG_UP)
    assert await written(stores[0]) == 0


async def test_a_session_that_moves_meanwhile_is_found_at_its_new_owner(
    stores: list[SqliteStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an outbound call does whose stream comes to another worker than the one that dialled."""
    owners = iter(("two", "three"))
    line = Line(Reply.NOT_HERE, Reply.TAKEN)
    commands = bus(stores[0], line)

    async def owner(_: str) -> str:
        return next(owners)

    monkeypatch.setattr(commands, "_owner", owner)
    assert await commands.send(SESSION, CallCommand.TRANSFER)
    assert [worker for worker, _, _ in line.sent] == ["two", "three"]


async def test_without_an_answer_the_command_goes_through_the_store(stores: list[SqliteStore]) -> None:
    line, delivered = Line(Reply.UNREACHABLE), list[CallCommand]()
    owner = CommandBus(stores[1], time.time)
    owner.connect(lambda session_id, command: not delivered.append(command))

    async def follow() -> None:
        with stores[1].notifications.subscribe(Topic.COMMAND_SENT) as subscription:
            while True:
                await subscription.wait()
                await owner.poll()

    following = asyncio.create_task(follow())
    assert await bus(stores[0], line).send(SESSION, CallCommand.HANG_UP)
    assert delivered == [CallCommand.HANG_UP]
    following.cancel()
    await asyncio.wait([following])


async def test_a_session_that_is_over_or_unknown_is_nobody_s(
    stores: list[SqliteStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_bus, "ACKNOWLEDGE_S", 0.05)
    line = Line()
    result = SessionResult(
        SessionState.ENDED, time.time(), Reasons.stopped.code, Party.GATEWAY, "", 1000, Traffic(), None
    )
    await stores[1].end(SESSION, result)
    assert not await bus(stores[0], line).send(SESSION, CallCommand.HANG_UP)
    assert await bus(stores[0], line).ask(SESSION, CallCommand.REPORT, 0.05) is None
    assert not await bus(stores[0], line).stop(SESSION)
    assert line.sent == []


async def test_a_question_is_answered_in_the_answer(stores: list[SqliteStore]) -> None:
    line = Line(Reply.TAKEN, Reply.NOT_HERE)
    commands = bus(stores[0], line)
    assert await commands.ask(SESSION, CallCommand.REPORT, 1.0) == '{"heard_ms": 7}'
    assert await commands.ask(SESSION, CallCommand.REPORT, 1.0) is None
    assert await written(stores[0]) == 0


async def test_a_stop_is_in_the_store_before_the_owner_hears_of_it(stores: list[SqliteStore]) -> None:
    """So it is followed, whether that arrives or not."""
    line = Line(Reply.UNREACHABLE)
    assert await bus(stores[0], line).stop(SESSION)
    assert line.sent == [("two", SESSION, "stop")]
    assert await stores[1].stop_requests() == [SESSION]


async def test_a_worker_answers_the_questions_of_other_machines(stores: list[SqliteStore]) -> None:
    commands = CommandBus(stores[1], time.time)
    requests = NodeRequests(commands, cast(Any, None), lambda session_id: session_id == SESSION)

    def deliver(session_id: str, command: CallCommand) -> bool:
        if session_id == SESSION and command is CallCommand.REPORT:
            commands.answer(session_id, command, '{"heard_ms": 420}')
        return session_id == SESSION

    commands.connect(deliver)
    question = {"session": SESSION, "command": "report", "seconds": 5.0}
    assert await requests.answer("question", question) == {"taken": True, "answer": '{"heard_ms": 420}'}
    unanswered = {**question, "command": "wait_to_hang_up", "seconds": 0.01}
    assert await requests.answer("question", unanswered) == {"taken": True, "answer": None}
    other = {**question, "session": "another"}
    assert await requests.answer("question", other) == {"taken": False, "answer": None}
    assert await requests.answer("command", {"session": SESSION, "command": "hold"}) == {"taken": True}
    assert await requests.answer("stop", {"session": SESSION}) == {"taken": True}
    assert await requests.answer("stop", {"session": "another"}) == {"taken": False}
    assert await stores[1].key_values.list("call_answer", time.time()) == ()


@pytest.mark.parametrize(
    "request_", [{}, {"session": 7}, {"session": SESSION, "command": "of a newer release"}]
)
async def test_what_cannot_be_understood_is_no_command(
    stores: list[SqliteStore], request_: dict[str, Any]
) -> None:
    requests = NodeRequests(CommandBus(stores[1], time.time), cast(Any, None), lambda _: False)
    with pytest.raises((KeyError, TypeError, ValueError)):
        await requests.answer("command", request_)
