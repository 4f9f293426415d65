# SPDX-License-Identifier: BSD-2-Clause
"""Addresses of a name as a name server says them, asked of a real server over UDP and TCP."""

from __future__ import annotations

import asyncio
import socket

import pytest

from gateway.dns import address_records
from gateway.dns.address_records import LookUpFailed, Records, look_up
from gateway.simulator.waiting import WAIT_S
from tests.harness.name_server import AAAA, NXDOMAIN, REFUSED, SERVFAIL, name_server

BOTH = (socket.AF_INET, socket.AF_INET6)
HOST = "support.default.svc"


async def test_all_addresses_of_both_families_come_in_one_order_without_duplicates() -> None:
    found = ["10.0.0.9", "fd00::2", "10.0.0.10", "10.0.0.9", "fd00::1"]
    async with name_server(records={HOST: found}, ttl=30) as server:
        four, six = await look_up(HOST, BOTH, [server.address])
    assert four == Records(("10.0.0.9", "10.0.0.10"), 30)
    assert six == Records(("fd00::1", "fd00::2"), 30)


async def test_a_thousand_addresses_come_over_tcp() -> None:
    found = [f"10.1.{n // 250}.{n % 250 + 1}" for n in range(1000)]
    async with name_server(records={HOST: found}, ttl=30) as server:
        (four,) = await look_up(HOST, (socket.AF_INET,), [server.address])
    assert isinstance(four, Records)
    assert set(four.addresses) == set(found)


async def test_a_new_address_is_seen_before_the_old_answer_has_expired() -> None:
    async with name_server(records={HOST: ["10.0.0.1"]}, ttl=3600) as server:
        await look_up(HOST, BOTH, [server.address])
        server.records[HOST] = ["10.0.0.2"]
        four, _ = await look_up(HOST, BOTH, [server.address])
    assert four == Records(("10.0.0.2",), 3600)


async def test_the_search_list_of_the_machine_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALDOMAIN", "svc.cluster.test")  # as `search` in /etc/resolv.conf
    monkeypatch.setenv("RES_OPTIONS", "ndots:5")
    async with name_server(records={"support.default.svc.cluster.test": ["10.0.0.1"]}) as server:
        (four,) = await look_up("support.default", (socket.AF_INET,), [server.address])
    assert isinstance(four, Records)
    assert four.addresses == ("10.0.0.1",)


async def test_a_family_that_has_no_record_is_none() -> None:
    async with name_server(records={HOST: ["10.0.0.1"]}) as server:
        assert (await look_up(HOST, BOTH, [server.address]))[1] == Records(words="it has no address")


async def test_a_name_that_does_not_exist_has_no_address() -> None:
    async with name_server() as server:
        found = await look_up(HOST, BOTH, [server.address])
    assert found == [Records(words="there is no such name")] * 2


async def test_one_family_that_fails_says_nothing_of_the_other() -> None:
    async with name_server(
        records={HOST: ["10.0.0.1"]}, fails=lambda name, kind: SERVFAIL if kind == AAAA else None
    ) as server:
        four, six = await look_up(HOST, BOTH, [server.address])
    assert isinstance(four, Records)
    assert isinstance(six, LookUpFailed)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"fails": lambda name, kind: SERVFAIL}, "SERVFAIL"),
        ({"fails": lambda name, kind: REFUSED}, "refused"),
        ({"garbage": b"\xff" * 30}, "was none"),
        ({"garbage": b"\x81\x80\x00\x01\x00\x05\x00\x00\x00\x00\x03x"}, "was none"),
        ({"garbage": b""}, "was none|in time"),
    ],
)
async def test_an_answer_that_says_nothing_is_a_failure(fault: dict[str, object], words: str) -> None:
    async with name_server(records={HOST: ["10.0.0.1"]}, **fault) as server:
        for failure in await look_up(HOST, BOTH, [server.address]):
            assert isinstance(failure, LookUpFailed)
            assert any(each in str(failure) for each in words.split("|"))


async def test_a_silent_name_server_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_records, "TRY_S", 0.1)
    async with name_server(is_silent=True) as server, asyncio.timeout(WAIT_S):
        for failure in await look_up(HOST, BOTH, [server.address]):
            assert isinstance(failure, LookUpFailed)
            assert "in time" in str(failure)


async def test_a_look_up_ends_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_records, "LIMIT_S", 0.1)
    async with name_server(is_silent=True) as server, asyncio.timeout(WAIT_S):
        assert all(isinstance(each, LookUpFailed) for each in await look_up(HOST, BOTH, [server.address]))


async def test_a_port_at_which_nothing_listens_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_records, "TRY_S", 0.1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    async with asyncio.timeout(WAIT_S):
        found = await look_up(HOST, BOTH, [f"127.0.0.1:{port}"])
    assert all(isinstance(each, LookUpFailed) for each in found)


async def test_a_name_that_is_none_is_a_failure_or_has_no_address() -> None:
    async with name_server(fails=lambda name, kind: NXDOMAIN) as server:
        for found in await look_up("a" * 70 + ".test", BOTH, [server.address]):
            assert isinstance(found, LookUpFailed) or not found.addresses
