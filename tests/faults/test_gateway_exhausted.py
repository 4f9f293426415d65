# SPDX-License-Identifier: BSD-2-Clause
"""The gateway has nothing left to work with: no open files, no room on its disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from gateway.simulator.waiting import eventually
from tests.faults.case import TWILIO, Case
from tests.faults.many_calls import CROWD, WELL, go_on, hang_up_all, over, warm_with
from tests.faults.suite_settings import LIMITS, agents_at
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import assert_ended
from tests.harness.caller import dial, open_socket
from tests.harness.gateway import Gateway
from tests.harness.open_files import episodes, few_files, no_files

Cases = Callable[..., Case]

ROOM = 12
"""Files that are left when strangers begin to take them."""

MORE = 6
"""How many more calls are placed: some of the counted files may have been closed meanwhile."""


async def test_out_of_files(case: Cases, gateway: Gateway, support: Agent) -> None:
    """Strangers' silent connections take all that there is."""
    async with case("out of files: none left for a new call") as fault, AsyncExitStack() as strangers:
        talk = await fault.talk(support, CROWD)
        leaver = await fault.talk(support, CROWD)
        with few_files(gateway, ROOM) as room:
            fault.strike()
            for _ in range(room + MORE):
                _, writer = await open_socket(gateway.port)
                strangers.callback(lambda one: one.transport.abort(), writer)
            await eventually(lambda: len(episodes(gateway)) == 1, "it is told")
            caller = await dial(gateway.port, CROWD)
            assert caller.refusal == (503, "overloaded")
            assert caller.headers["retry-after"] == "5"
            await caller.leave()
            assert (await asyncio.to_thread(gateway.get, "/livez"))[0] == 200
            await go_on([talk])
            await leaver.hang_up()
            await assert_ended(gateway, leaver.session, "caller_hangup", "caller")
            await go_on([talk])
        await eventually(lambda: len(episodes(gateway)) == 2, "there are files again")
        await hang_up_all(fault, gateway, [talk], f"sound; a new caller {caller.status}, at once")
        fault.ended = f"{WELL}, also of one that hangs up meanwhile"


async def test_out_of_files_for_the_agent(case: Cases, gateway: Gateway, support: Agent) -> None:
    """A call was let in, and when its agent is ready there is nothing left to connect it with."""
    async with case("out of files: none for the agent of a call that was let in") as fault:
        before = len(episodes(gateway))
        talk = await fault.talk(support, CROWD)
        seen = readiness(gateway)
        support.ready = 503
        await eventually(lambda: readiness(gateway)[len(seen) :] == ["starting"], "the instance starts")
        _, recorder = await fault.caller(TWILIO)
        (new,) = await eventually(lambda: others(gateway, talk.session), "it has its place")
        with no_files(gateway):
            fault.strike()
            code, _ = await recorder.closed()
            record = await assert_ended(gateway, new["id"], "overloaded", "gateway")
            await go_on([talk])
        support.ready = 200
        await eventually(lambda: readiness(gateway)[-1] == "ready", "the instance is ready")
        assert "unreachable" not in readiness(gateway)[len(seen) :], "the instance is not blamed"
        await eventually(lambda: len(episodes(gateway)) == before + 2, "there are files again")
        await hang_up_all(fault, gateway, [talk], f"sound; the new caller {code}")
        fault.ended = f"{WELL}; the new one `{record['reason']}` ({record['side']})"


def others(gateway: Gateway, session: str) -> list[dict[str, Any]]:
    """The records of those that run beside this one."""
    return [one for one in gateway.sessions() if one["ended_at"] is None and one["id"] != session]


def readiness(gateway: Gateway) -> list[str]:
    """Return the health changes of its one instance, in order."""
    return [line["readiness"] for line in gateway.log_lines() if line["event"] == "instance"]


async def test_out_of_disk(
    case: Cases, launcher: Any, bases: dict[int, int], support: Agent, support_port: AgentPort
) -> None:
    """The store's disk is full: what runs goes on, what ends meanwhile is written when there is room."""
    gateway, disk = launcher.with_a_small_disk(agents=agents_at(support_port.url), limits=LIMITS)
    before = await warm_with(support, gateway, bases, support_port)
    async with case("out of disk: the store cannot write", of=gateway, before=before) as fault:
        talk = await fault.talk(support, CROWD)
        filler = disk / "filler"
        fill(filler)
        fault.strike()
        _, recorder = await fault.caller()
        code, _ = await recorder.closed()
        await go_on([talk])
        fault.note_received(talk.recorder, with_close=False)
        fault.heard = f"sound; a new caller {code}"
        await talk.hang_up()
        ends = await fault.all_over(2)
        fault.ended = f"{WELL}; the new one `{ends[0]['reason']}` ({ends[0]['side']})"
        assert ends[0]["reason"] == "store_failed"
        assert over(gateway, talk.session) is None, "its end cannot be written yet"
        filler.unlink()
        await eventually(lambda: over(gateway, talk.session), "its end is written")
        await assert_ended(gateway, talk.session, "caller_hangup", "caller")


def fill(file: Path) -> None:
    """Takes all the room that is left on its disk."""
    with file.open("wb", buffering=0) as filler:
        for size in (1 << 16, 1):
            try:
                while filler.write(bytes(size)):
                    pass
            except OSError:
                continue
