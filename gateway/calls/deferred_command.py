# SPDX-License-Identifier: BSD-2-Clause
"""A hang-up or a transfer that is deferred until the caller has heard the agent out.

    here: ask the worker that has the call → it tells once the caller has heard everything → ask the carrier

The agent may close meanwhile, as bots do that hang up or transfer as their last act. Its last sound is played
then as always (gateway/media/hangup_after_playback.py), and a transfer that was asked for is made instead of
the hang-up.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Final

from gateway.calls.command_bus import CallCommand
from gateway.calls.services import CallServices
from gateway.calls.state import CallProgress, CallState
from gateway.media.hangup_after_playback import HANGUP_TIMEOUT_S
from gateway.media.playback_wait import MARGIN_S, PlaybackMarks
from gateway.media.relay import Relay
from gateway.model.lifecycle import SessionState
from gateway.model.session import SessionRecord

SLACK_S: Final = MARGIN_S + 1.0
"""How much longer than the longest playback its end is waited for."""

REPORT_S: Final = 1.0
"""How long a worker has to tell what a caller has heard."""

FOLLOWED_BY: Final = {
    CallCommand.WAIT_TO_HANG_UP: CallCommand.HANG_UP,
    CallCommand.WAIT_TO_TRANSFER: CallCommand.TRANSFER,
}
"""The command that follows the playback, by the question that waits for it."""


async def wait_for_playback(services: CallServices, record: SessionRecord, command: CallCommand) -> bool:
    """Wait until the caller of a running session has heard its agent out. Return False if it has hung up.

    `command`: of FOLLOWED_BY. Waits for `playback_timeout` at the longest. Raises StoreFailed.
    """
    longest_s = services.settings.limits.playback_timeout
    if longest_s and record.state is SessionState.RUNNING:
        answer = await services.commands.ask(record.session_id, command, longest_s + SLACK_S)
        return answer is None or not json.loads(answer)["over"]
    return True


async def played_so_far(services: CallServices, record: SessionRecord) -> int | None:
    """Return the milliseconds of its agent's sound that the caller of a running session has heard by now.

    None for any other session, and if its worker does not tell. Raises StoreFailed.
    """
    if record.state is not SessionState.RUNNING or record.stream_id is None:
        return None
    answer = await services.commands.ask(record.session_id, CallCommand.REPORT, REPORT_S)
    heard_ms = None if answer is None else json.loads(answer).get("heard_ms")
    return heard_ms if isinstance(heard_ms, int) else None


class DeferredCommand:
    """The next command for a call whose playback is waited for, in the worker that has it (`follows`)."""

    __slots__ = ("_report", "_settled", "follows")

    def __init__(self, follows: CallCommand, report: Callable[[], None]) -> None:
        """`report`: tells who asked that the caller has heard everything. May be called again."""
        self.follows = follows
        self._report = report
        self._settled: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def note(self, command: CallCommand) -> None:
        """Take note of what became of it: the carrier has transferred the call, or refused."""
        if command in (CallCommand.TRANSFERRED, CallCommand.REVOKED) and not self._settled.done():
            self._settled.set_result(command is CallCommand.TRANSFERRED)

    async def instead_of(self, hang_up: Callable[[], Awaitable[None]]) -> None:
        """Do what is due for a call whose agent has closed and whose last sound has been played.

        A call that is to be transferred is hung up only if it is not, within HANGUP_TIMEOUT_S.
        """
        if self.follows is CallCommand.TRANSFER:
            self._report()
            await asyncio.wait([self._settled], timeout=HANGUP_TIMEOUT_S)
            if self._settled.done() and self._settled.result():
                return
        await hang_up()
        self._report()


def answer_question(
    services: CallServices,
    progress: CallProgress,
    relay: Relay,
    command: CallCommand,
    marks: PlaybackMarks | None,
) -> DeferredCommand | None:
    """Answer a command of QUESTIONS: at once, or once the caller has heard what the agent says.

    `marks`: on the carrier's stream, None if it has none. Return the command that waits for the latter.
    """

    def report() -> None:
        # A relay that ended in one of the states of AWAITING was not the last one of the call.
        waits = progress.state in (CallState.AWAITING_AGENT, CallState.AWAITING_CARRIER)
        played_s = relay.played_s
        answer = {
            "heard_ms": None if played_s is None else round(played_s * 1000),
            "over": not waits and relay.is_over,
        }
        services.commands.answer(progress.session_id, command, json.dumps(answer))

    if command not in FOLLOWED_BY or marks is None:
        report()
        return None
    relay.finish_playback(marks, services.settings.limits.playback_timeout, report)
    return DeferredCommand(FOLLOWED_BY[command], report)
