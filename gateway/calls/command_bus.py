# SPDX-License-Identifier: BSD-2-Clause
"""Commands to the worker that owns a session: what is about to be done with its call, and what is asked.

A call is hung up or transferred by a request to its carrier, from any worker. The carrier then closes the
stream, which looks as if the caller had hung up. So the owner gets a command first, and the sender waits for
its acknowledgement: the owner then ends the session with the right reason, and keeps the agent's socket open
if the agent would hang up when it closes (docs/reference/carriers.md §8.3).

A command goes to the owner's node by HTTP (gateway/nodes), where nodes have addresses, and through the store
otherwise, or if that node does not answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from gateway.model.lifecycle import TERMINAL
from gateway.model.reasons import Reasons
from gateway.nodes.nodes import Nodes, Reply
from gateway.store.interface import Store, StoreFailed
from gateway.store.notifications import Topic

ACKNOWLEDGE_S: Final = 2.0
"""How long a sender waits; a worker reads commands within a fraction of a second."""

STORED_S: Final = 30.0
"""How long a command and its acknowledgement are stored."""

_COMMAND: Final = "call_wish"
_ACKNOWLEDGED: Final = "call_wish_heard"
_ANSWER: Final = "call_answer"


class CallCommand(StrEnum):
    """A request to a carrier that is about to be sent, or its outcome.

    The values are stored and read by workers of other releases, so they must not change.
    """

    REVOKED = "nothing"
    """The earlier command has failed at the carrier: nothing is done."""
    CANCEL = "give_up"
    """Hang up while it rings; for the worker that dialled."""
    HANG_UP = "hang_up"
    MACHINE = "machine"
    """Hang up, because a machine answered."""
    TRANSFER = "transfer"
    TRANSFERRED = "transferred"
    """The carrier has accepted the transfer."""
    CARRIER_ENDED = "over"
    """Nothing is to be done: the carrier reports that the call is over."""
    WAIT_TO_HANG_UP = "wait_to_hang_up"
    """Answer once the caller has heard what the agent has said: the call is to be hung up then."""
    WAIT_TO_TRANSFER = "wait_to_transfer"
    """Answer once the caller has heard what the agent has said: the call is to be transferred then."""
    HOLD = "hold"
    """Play the holding sound while the agent is silent: somebody is called who may take the call."""
    RESUME = "resume"
    """Play the holding sound no more."""
    REPORT = "report"
    """Answer how much of the agent's sound the caller has heard."""
    CHECK_CARRIER = "check_carrier"
    """Find out whether the carrier's socket is still there: somebody wants to go on with the call on another.
    """


_KNOWN: Final = frozenset(CallCommand)

QUESTIONS: Final = frozenset({CallCommand.WAIT_TO_HANG_UP, CallCommand.WAIT_TO_TRANSFER, CallCommand.REPORT})
"""The commands that are answered, and change nothing."""

REASON_BY_COMMAND: Final = {
    CallCommand.CANCEL: Reasons.hung_up,
    CallCommand.HANG_UP: Reasons.hung_up,
    CallCommand.MACHINE: Reasons.machine_answered,
    CallCommand.TRANSFER: Reasons.transferred,
    CallCommand.TRANSFERRED: Reasons.transferred,
}
"""The reason of a session that ends after a command."""


class CommandBus:
    """Sends commands to the owners of sessions, and delivers those for this worker's sessions."""

    def __init__(self, store: Store, now: Callable[[], float], nodes: Nodes | None = None) -> None:
        """`now`: Unix seconds. `nodes`: None where they have no addresses."""
        self._store = store
        self._nodes = nodes
        self._values = store.key_values
        self._notifications = store.notifications
        self._now = now
        self._deliver: Callable[[str, CallCommand], bool] = lambda session_id, command: False
        self._delivered: dict[str, str] = {}  # the last command's id by session
        self._questions: dict[str, list[asyncio.Future[str]]] = {}  # of this worker, by session and command
        self._answering: set[asyncio.Task[None]] = set()

    def connect(self, deliver: Callable[[str, CallCommand], bool]) -> None:
        """Deliver commands for this worker's sessions to `deliver`, which returns False if it has no such
        session.
        """
        self._deliver = deliver

    async def send(self, session_id: str, command: CallCommand) -> bool:
        """Send a command to the owner of a session. Return True once it is acknowledged.

        Return False if no worker has the session; then none will get the command. Within a few seconds.
        Raises StoreFailed.
        """
        if self._deliver(session_id, command):
            return True
        if self._nodes is not None:
            reply = await self._send_to_owner(self._nodes, session_id, command)
            if reply is not Reply.UNREACHABLE:
                return reply is Reply.TAKEN
        if await self._is_over(session_id):
            return False
        return await self._send_by_store(session_id, command)

    async def _send_to_owner(self, nodes: Nodes, session_id: str, command: CallCommand) -> Reply:
        """Send a command to the node of a session's owner. UNREACHABLE if there is none that could tell."""
        previous = ""
        while (owner := await self._owner(session_id)) not in (None, nodes.worker):
            if owner == previous:
                return Reply.NOT_HERE
            previous = owner or ""
            reply = await nodes.command(previous, session_id, command)
            if reply is not Reply.NOT_HERE:
                return reply
            # The session may be another worker's by now: that of its stream, or the heir of one that died.
        return Reply.UNREACHABLE

    async def _owner(self, session_id: str) -> str | None:
        """Return the worker that has a session which is not over, or None. Raises StoreFailed."""
        record = await self._store.session(session_id)
        return None if record is None or record.state in TERMINAL else record.owner

    async def _is_over(self, session_id: str) -> bool:
        """Return True if the session has ended, so that no worker has it any more. Raises StoreFailed."""
        record = await self._store.session(session_id)
        return record is not None and record.state in TERMINAL

    async def _send_by_store(self, session_id: str, command: CallCommand) -> bool:
        command_id = f"{session_id}/{uuid.uuid4().hex}"
        now = self._now()
        value = json.dumps({"wish": command, "name": command_id})
        with self._notifications.subscribe(
            Topic.COMMAND_ACKNOWLEDGED, key=command_id, urgent=True
        ) as subscription:
            await self._values.put(_COMMAND, session_id, value, now=now, expires_at=now + STORED_S)
            self._notifications.publish(Topic.COMMAND_SENT, session_id)
            try:
                async with asyncio.timeout(ACKNOWLEDGE_S):
                    while await self._values.get(_ACKNOWLEDGED, command_id, self._now()) is None:
                        await subscription.wait()
            except TimeoutError:
                # A worker that gets the command later would keep a call waiting for what never comes.
                await self._values.delete(_COMMAND, session_id)
                return False
            return True

    async def ask(self, session_id: str, command: CallCommand, timeout_s: float) -> str | None:
        """Send a command of QUESTIONS to the owner of a session, and return the answer: JSON text.

        Return None if no worker has the session, or none has answered within `timeout_s`. Raises StoreFailed.
        """
        is_here, answer = await self.ask_here(session_id, command, timeout_s)
        if is_here:
            return answer
        if self._nodes is not None and (owner := await self._owner(session_id)) is not None:
            reply, answer = await self._nodes.question(owner, session_id, command, timeout_s)
            if reply is not Reply.UNREACHABLE:
                return answer
        if await self._is_over(session_id):  # perhaps since the caller has read it: nobody would answer
            return None
        key = _answer_key(session_id, command)
        with self._notifications.subscribe(Topic.COMMAND_ACKNOWLEDGED, key=key, urgent=True) as subscription:
            await self._values.delete(_ANSWER, key)  # of an earlier question
            if not await self._send_by_store(session_id, command):
                return None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    while (found := await self._values.get(_ANSWER, key, self._now())) is None:
                        await subscription.wait()
                    return found.value
        return None

    def take(self, session_id: str, command: CallCommand) -> bool:
        """Take a command that came from another node. Return False if this worker has no such session."""
        return self._deliver(session_id, command)

    async def ask_here(
        self, session_id: str, command: CallCommand, timeout_s: float
    ) -> tuple[bool, str | None]:
        """Put the question of another node to a session of this worker.

        Return whether this worker has it, and the answer as `ask` does.
        """
        key = _answer_key(session_id, command)
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._questions.setdefault(key, []).append(future)
        try:
            if not self._deliver(session_id, command):
                return False, None
            await asyncio.wait([future], timeout=timeout_s)
            return True, future.result() if future.done() else None
        finally:
            self._questions[key].remove(future)
            if not self._questions[key]:
                del self._questions[key]

    async def stop(self, session_id: str) -> bool:
        """Ask for the end of a session, as `Store.request_stop` does, and tell its owner at once.

        Raises StoreFailed.
        """
        requested = await self._store.request_stop(session_id, self._now())
        if requested and self._nodes is not None and (owner := await self._owner(session_id)):
            await self._nodes.stop(owner, session_id)  # or it reads it in the store
        return requested

    def answer(self, session_id: str, command: CallCommand, value: str) -> None:
        """Answer what was asked of a session of this worker. `value`: JSON text. Returns at once."""
        key = _answer_key(session_id, command)
        asking = self._questions.get(key)
        if asking is None:  # it is another worker that asks
            task = asyncio.create_task(self._store_answer(key, value))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
            return
        for future in asking:
            if not future.done():
                future.set_result(value)

    async def _store_answer(self, key: str, value: str) -> None:
        now = self._now()
        with contextlib.suppress(StoreFailed):  # who asks waits for a limited time
            await self._values.put(_ANSWER, key, value, now=now, expires_at=now + STORED_S)
            self._notifications.publish(Topic.COMMAND_ACKNOWLEDGED, key)

    async def poll(self) -> None:
        """Read the commands of other workers and deliver those for this worker's sessions.

        To be called after Topic.COMMAND_SENT. Raises StoreFailed; then call it again.
        """
        now = self._now()
        stored = await self._values.list(_COMMAND, now)
        stored_sessions = {value.key for value in stored}
        self._delivered = {
            session_id: command_id
            for session_id, command_id in self._delivered.items()
            if session_id in stored_sessions
        }
        for value in stored:
            command = json.loads(value.value)
            command_id = command["name"]
            if self._delivered.get(value.key) == command_id:
                continue
            if command["wish"] not in _KNOWN:  # of a newer release
                continue
            if self._deliver(value.key, CallCommand(command["wish"])):
                self._delivered[value.key] = command_id
                await self._values.put(_ACKNOWLEDGED, command_id, "true", now=now, expires_at=now + STORED_S)
                self._notifications.publish(Topic.COMMAND_ACKNOWLEDGED, command_id)


def _answer_key(session_id: str, command: CallCommand) -> str:
    return f"{session_id}/{command}"
