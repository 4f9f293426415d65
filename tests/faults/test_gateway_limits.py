# SPDX-License-Identifier: BSD-2-Clause
"""What the gateway ends by itself, in the middle of what a caller says."""

from __future__ import annotations

import http.client
import sqlite3
import time
from collections.abc import Callable

from gateway.simulator.waiting import WAIT_S
from tests.faults.case import Case
from tests.faults.many_calls import CROWD, WELL, go_on, hang_up_all, warm_with
from tests.faults.suite_settings import LIMITS, agents_at
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import assert_ended, assert_next_call_works
from tests.harness.gateway import Gateway

Cases = Callable[..., Case]

DURATION_S = 1
QUEUE_S = 1.0
BUSY_S = 1.0


def with_keys(support_port: AgentPort, **more: object) -> dict[str, object]:
    """Settings with keys of the API, and agents with limits of their own."""
    common = {"organization": "acme", "instances": [support_port.url], "max_agents": 1}
    agents = [
        *agents_at(support_port.url),
        common | {"name": "brief", "max_session_duration": DURATION_S},
        common | {"name": "queued", "queue_size": 1, "queue_timeout": QUEUE_S, "hold": "ringback"},
    ]
    organizations = [{"name": "acme", "private_keys": ["sk_acme"]}]
    return {"agents": agents, "organizations": organizations, "limits": LIMITS, **more}


def stop_session(gateway: Gateway, session: str) -> int:
    """Ask the API to stop a session; return the answer's status."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=WAIT_S)
    headers = {"Authorization": "Bearer sk_acme", "Content-Length": "0"}
    connection.request("POST", f"/v1/sessions/{session}/stop", headers=headers)
    status = connection.getresponse().status
    connection.close()
    return status


async def test_limits(
    case: Cases,
    start_gateway: Callable[..., Gateway],
    bases: dict[int, int],
    support: Agent,
    support_port: AgentPort,
) -> None:
    gateway = start_gateway(**with_keys(support_port))
    before = await warm_with(support, gateway, bases, support_port)

    async with case("`max_session_duration` is reached", of=gateway, before=before) as fault:
        talk = await fault.talk(support, "/ws/twilio/brief.acme")
        fault.strike()
        await fault.ends(talk.recorder, 1000, "max_duration", "gateway")

    async with case("the session is stopped through the API", of=gateway, before=before) as fault:
        talk = await fault.talk(support)
        fault.strike()
        assert stop_session(gateway, talk.session) == 200
        await fault.ends(talk.recorder, 1000, "stopped", "gateway")

    async with case("no slot is free until `queue_timeout` is over", of=gateway, before=before) as fault:
        talk = await fault.talk(support, "/ws/twilio/queued.acme")
        fault.strike()
        _, recorder = await fault.caller("/ws/twilio/queued.acme")
        await recorder.closed()
        fault.note_received(recorder)
        assert recorder.close is not None
        assert recorder.close[0] == 1013
        (line,) = await fault.all_over(1)
        assert line["reason"] == "at_capacity"
        await go_on([talk], 5)
        await talk.hang_up()
        await assert_ended(gateway, talk.session, "caller_hangup", "caller")
        fault.ended = "`at_capacity` (tenant)"

    async with case("no slot is free, and there is no queue", of=gateway, before=before) as fault:
        talk = await fault.talk(support)
        fault.strike()
        _, recorder = await fault.caller()
        await recorder.closed()
        fault.note_received(recorder)
        (line,) = await fault.all_over(1)
        assert line["reason"] == "at_capacity"
        await go_on([talk], 5)
        await talk.hang_up()
        await assert_ended(gateway, talk.session, "caller_hangup", "caller")
        fault.ended = "`at_capacity` (tenant)"


async def test_the_time_to_drain_is_over(
    case: Cases,
    start_gateway: Callable[..., Gateway],
    bases: dict[int, int],
    support: Agent,
    support_port: AgentPort,
) -> None:
    server = {"drain_timeout": 1}
    gateway = start_gateway(server=server, agents=agents_at(support_port.url), limits=LIMITS)
    before = await warm_with(support, gateway, bases, support_port)
    name = "SIGTERM, and the call outlasts `drain_timeout` (1 s)"
    async with case(name, of=gateway, before=before) as fault:
        talk = await fault.talk(support)
        fault.strike()
        gateway.terminate()
        await fault.ends(talk.recorder, 1012, "draining", "gateway")
        assert await gateway.ended() == 0
        after = start_gateway(
            agents=agents_at(support_port.url), limits=LIMITS, store={"url": f"sqlite:///{gateway.store}"}
        )
        after.store = gateway.store
        await assert_next_call_works(after, support)
        await after.callers_leave()
        fault.next_call = "works on the next gateway"


async def test_another_process_locks_the_store(case: Cases, gateway: Gateway, support: Agent) -> None:
    """A backup, or an operator with a shell: new calls wait for it, and those that run do not notice."""
    async with case(f"another process holds the store's lock for {BUSY_S:g} s") as fault:
        talk = await fault.talk(support, CROWD)
        connection = sqlite3.connect(gateway.store, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        fault.strike()
        locked_at = time.monotonic()
        _, recorder = await fault.caller(CROWD)
        await go_on([talk], round(BUSY_S / 0.02))
        connection.execute("ROLLBACK")
        connection.close()
        call = await support.call()
        assert time.monotonic() - locked_at >= BUSY_S / 2
        await fault.hangs_up(recorder)
        await assert_ended(gateway, call.session, "caller_hangup", "caller")
        await hang_up_all(fault, gateway, [talk], "sound; a new caller waits, and is served")
        fault.ended = WELL
