# SPDX-License-Identifier: BSD-2-Clause
"""Upgrades that are no calls are limited by address, and take nothing from real calls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from twilio.request_validator import RequestValidator

from gateway.config import Settings
from gateway.model.reasons import CallEnded, Reasons
from gateway.server.connection_limits import CallCount, ConnectionLimits
from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import connect, hang_up
from tests.harness.caller import Caller, Connection, dial
from tests.harness.clock import Clock
from tests.harness.gateway import Gateway
from tests.harness.transcripts import opening

STRANGER = "127.0.0.2"
CARRIER = "127.0.0.3"

HOST = "voice.example.com"
AUTH_TOKEN = "0123456789abcdef0123456789abcdef"
TELNYX = "/ws/telnyx/support.acme"
PREEMPTED = Reasons.preempted.sentence


async def open_from(address: str, port: int) -> Connection:
    """Connect from an address of this machine."""
    return await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))


async def upgrade_from(address: str, gateway: Gateway, target: str) -> Caller:
    """Request a media socket from an address of this machine."""
    caller = await dial(gateway.port, target, over=await open_from(address, gateway.port))
    if caller.status != 101:
        await caller.leave()
    return caller


async def signed_upgrade(gateway: Gateway) -> Caller:
    """Request a media socket from the carrier's address, signed with the account's auth token."""
    signature = RequestValidator(AUTH_TOKEN).compute_signature(f"wss://{HOST}/ws/twilio/support.acme", {})
    return await gateway.dial(
        "/ws/twilio/support.acme",
        host=HOST,
        headers={"X-Twilio-Signature": signature},
        over=await open_from(CARRIER, gateway.port),
    )


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway], support_port: AgentPort) -> Gateway:
    """A gateway that takes few calls a second, and few that come to nothing."""
    limits = {"upgrades_per_second": 5, "requests_per_second": 0.01, "requests_burst": 4}
    agent = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    return start_gateway(limits=limits, agents=[agent | {"sessions_per_instance": 10}])


@pytest.fixture
def calls_of_a_carrier(gateway: Gateway, support: Agent) -> Callable[[], Awaitable[None]]:
    """Calls `support` from the carrier's address; the agent hears it."""

    async def call() -> None:
        connection = await open_from(CARRIER, gateway.port)
        taken = await connect(gateway, support, over=connection)
        await hang_up(taken)

    return call


async def test_a_strangers_upgrades_leave_the_rate_to_real_calls(
    gateway: Gateway, support: Agent, calls_of_a_carrier: Callable[[], Awaitable[None]]
) -> None:
    tried = [await upgrade_from(STRANGER, gateway, "/ws/twilio/nobody.acme") for _ in range(20)]
    gateway.upgrades += sum(caller.status == 404 for caller in tried)
    assert [caller.status for caller in tried] == [404] * 4 + [429] * 16
    assert tried[-1].refusal == (429, "rate_limited")
    assert "retry-after" in tried[-1].headers
    for _ in range(3):
        await calls_of_a_carrier()
    # An address with real calls is not refused for what else comes from it.
    mistaken = [await upgrade_from(CARRIER, gateway, "/ws/twilio/nobody.acme") for _ in range(10)]
    gateway.upgrades += len(mistaken)
    assert {caller.status for caller in mistaken} == {404}
    await calls_of_a_carrier()
    await eventually(
        lambda: any("came to nothing" in str(line.get("why")) for line in gateway.log_lines()), "it is logged"
    )


async def test_sockets_that_send_nothing_leave_room_for_real_calls(
    start_gateway: Callable[..., Gateway], support_port: AgentPort, support: Agent
) -> None:
    agent = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    gateway = start_gateway(
        limits={"max_calls": 20, "start_timeout": 60}, agents=[agent | {"sessions_per_instance": 10}]
    )
    idle = [await upgrade_from(STRANGER, gateway, "/ws/twilio/support.acme") for _ in range(25)]
    statuses = [caller.status for caller in idle]
    assert statuses[:16] == [101] * 16  # on a busy machine the first may have made room for the last
    gateway.upgrades += statuses.count(101)
    gateway.callers += [caller for caller in idle if caller.status == 101]
    taken = await connect(gateway, support, over=await open_from(CARRIER, gateway.port))
    await hang_up(taken)


async def test_sockets_from_a_carriers_own_address_that_say_nothing_make_room_for_its_calls(
    start_gateway: Callable[..., Gateway], support_port: AgentPort, support: Agent
) -> None:
    agent = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    twilio = {"carrier": "twilio", "auth_tokens": [AUTH_TOKEN]}
    gateway = start_gateway(
        server={"websocket_auth": "none", "public_url": f"https://{HOST}"},
        limits={"max_calls": 5, "start_timeout": 600},
        organizations=[{"name": "acme", "carriers": [twilio]}],
        agents=[agent | {"sessions_per_instance": 10}],
    )
    talk = await connect(gateway, support, TELNYX, over=await open_from(CARRIER, gateway.port))
    signed = await signed_upgrade(gateway)  # says nothing either, but has shown who it is
    assert signed.status == 101
    silent = [await upgrade_from(CARRIER, gateway, TELNYX) for _ in range(3)]
    gateway.upgrades += 3
    assert [caller.status for caller in silent] == [101] * 3

    taken: Caller | None = None
    async with asyncio.timeout(WAIT_S):
        while taken is None or taken.status == 503:
            taken = await upgrade_from(CARRIER, gateway, TELNYX)
    gateway.upgrades += 1
    assert taken.status == 101
    assert await silent[0].closed() == (1013, PREEMPTED)
    (line, *_) = await eventually(gateway.ends, "its end is logged")
    assert (line["event"], line["reason"], line["side"]) == ("call refused", "preempted", "carrier")
    for message in opening("telnyx"):
        taken.say(message)
    await support.call()
    gateway.callers += [taken, *silent]
    await hang_up(talk)


# The counts themselves


def counts(clock: Clock, fd_limit: int = 1000, **limits: float) -> ConnectionLimits:
    return ConnectionLimits(Settings(limits=limits), fd_limit, clock)


def refusal(limits: ConnectionLimits, address: str) -> str:
    with pytest.raises(CallEnded) as caught:
        limits.add_call(address, "")
    return caught.value.reason.code


@pytest.fixture
def clock() -> Clock:
    return Clock(1_000_000.0)


def test_a_call_counts_once_it_is_verified(clock: Clock) -> None:
    limits = counts(clock, max_calls=1)
    first = limits.add_call(CARRIER, "")
    assert limits.calls == 0
    first.verify()
    first.verify()
    assert limits.calls == 1
    assert refusal(limits, STRANGER) == "overloaded"
    first.end(failed=True)
    first.end(failed=True)
    assert limits.calls == 0
    limits.add_call(STRANGER, "").end(failed=False)


def test_calls_that_prove_themselves_at_the_same_time_are_no_more_than_allowed(clock: Clock) -> None:
    limits = counts(clock, max_calls=1)
    first, second = limits.add_call("192.0.2.1", ""), limits.add_call("192.0.2.2", "")
    first.verify()
    with pytest.raises(CallEnded, match="there are 1 calls"):
        second.verify()
    second.end(failed=False)
    assert limits.calls == 1
    first.end(failed=False)
    assert limits.calls == 0


def test_one_address_begins_no_more_calls_than_there_may_be(clock: Clock) -> None:
    limits = counts(clock, max_calls=2, upgrades_per_second=100)
    begun = [limits.add_call(CARRIER, "") for _ in range(2)]
    assert refusal(limits, CARRIER) == "overloaded"
    begun[0].end(failed=False)
    limits.add_call(CARRIER, "")


def test_the_oldest_socket_that_says_nothing_makes_room(clock: Clock) -> None:
    limits = counts(clock, max_calls=2, upgrades_per_second=100)
    ended: list[str] = []

    def silent(name: str) -> Callable[[], bool]:
        return lambda: ended.append(name) is None

    first, second = (limits.add_call(CARRIER, "") for _ in range(2))
    first.preempt, second.preempt = silent("first"), silent("second")
    clock.now += 0.9
    assert refusal(limits, CARRIER) == "overloaded"
    clock.now += 0.1
    third = limits.add_call(CARRIER, "")
    assert ended == ["first"]
    first.end(failed=True)  # as its task does in the end
    second.verify()
    clock.now += 1
    third.preempt = lambda: False  # it has shown a signature, or its start
    assert refusal(limits, CARRIER) == "overloaded"
    third.preempt = silent("third")
    limits.add_call(CARRIER, "").verify()
    assert ended == ["first", "third"]
    assert limits.calls == 2
    assert refusal(limits, CARRIER) == "overloaded"


def test_no_socket_ends_where_that_would_make_no_room(clock: Clock) -> None:
    limits = counts(clock, max_calls=2, upgrades_per_second=100)
    silent = limits.add_call(STRANGER, "")
    silent.preempt = lambda: pytest.fail("it was ended for nothing")
    for number in range(2):
        limits.add_call(f"192.0.2.{number}", "").verify()
    clock.now += 10
    assert refusal(limits, STRANGER) == "overloaded"


def test_a_socket_that_says_nothing_makes_room_where_the_rate_or_a_share_is_used_up(clock: Clock) -> None:
    few = counts(clock, upgrades_per_second=1, max_calls=100)
    shared = counts(clock, upgrades_per_second=1000, max_calls=64)  # 16 of them unverified
    for limits, most in ((few, 1), (shared, 16)):
        silent = [limits.add_call(STRANGER, "") for _ in range(most)]
        assert refusal(limits, STRANGER) == "overloaded"
        for count in silent:
            count.preempt = lambda: True
        clock.now += 1
        limits.add_call(STRANGER, "")
        assert refusal(limits, STRANGER) == "overloaded" if most == 1 else limits.add_call(STRANGER, "")


def test_only_proven_calls_count_as_calls_that_begin(clock: Clock) -> None:
    limits = counts(clock, upgrades_per_second=2, requests_burst=1000)
    for _ in range(50):
        limits.add_call(STRANGER, "").end(failed=True)
    for number in range(2):
        limits.add_call(f"192.0.2.{number}", "").verify()
    assert refusal(limits, "192.0.2.9") == "overloaded"
    clock.now += 0.5
    limits.add_call("192.0.2.9", "")


def test_of_unverified_sockets_each_address_gets_its_share(clock: Clock) -> None:
    limits = counts(clock, fd_limit=100_000)  # so many calls that none of them are refused as too many
    most = limits.max_calls // 4
    open_ones = [limits.add_call(STRANGER, "") for _ in range(900)]
    limits = counts(clock, max_calls=64)  # 16 of them unverified
    open_ones = [limits.add_call(STRANGER, "") for _ in range(16)]
    assert most > 900
    assert refusal(limits, STRANGER) == "overloaded"
    others = [limits.add_call(CARRIER, "") for _ in range(8)]
    assert refusal(limits, CARRIER) == "overloaded"
    limits.add_call("192.0.2.9", "")
    for count in (*open_ones, *others):
        count.end(failed=False)
    limits.add_call(STRANGER, "")


def test_an_address_with_a_proven_call_may_have_more(clock: Clock) -> None:
    limits = counts(clock, max_calls=64, requests_burst=1, requests_per_second=0.01)
    limits.add_call(CARRIER, "").verify()
    assert [limits.add_call(CARRIER, "") for _ in range(40)]
    for _ in range(10):
        limits.add_call(CARRIER, "").end(failed=True)


def test_an_end_that_is_no_fault_of_the_client_is_not_held_against_it(clock: Clock) -> None:
    limits = counts(clock, requests_burst=1, requests_per_second=0.01)
    for _ in range(5):
        limits.add_call(STRANGER, "").end(failed=False)
    limits.add_call(STRANGER, "").end(failed=True)
    assert refusal(limits, STRANGER) == "rate_limited"
    assert refusal(limits, f"::ffff:{STRANGER}") == "rate_limited"
    clock.now += 100
    assert isinstance(limits.add_call(STRANGER, ""), CallCount)


def test_a_connection_ends_with_its_call(clock: Clock) -> None:
    limits = counts(clock, connections_per_address=1)
    connection = limits.add_connection(STRANGER)
    limits.add_call(STRANGER, connection).end(failed=False)
    assert json.dumps(limits.add_connection(STRANGER)) == f'"{STRANGER}"'
