# SPDX-License-Identifier: BSD-2-Clause
"""The client address of a request: X-Forwarded-For counts from trusted proxies only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import ConfigError, load
from gateway.server.connection_limits import TrustedProxies, site_of
from tests.harness.agent import AgentPort
from tests.harness.call_assertions import assert_no_slots_taken
from tests.harness.caller import Caller
from tests.harness.gateway import Gateway

PROXIES = ["10.0.0.0/8", "2001:db8::/32", "127.0.0.1"]
EXOTEL = "203.0.113.7"


@pytest.mark.parametrize(
    ("address", "forwarded", "client"),
    [
        ("192.0.2.1", "", "192.0.2.1"),
        ("192.0.2.1", "203.0.113.7", "192.0.2.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("::ffff:10.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("2001:db8::1", "2001:dead::7", "2001:dead::7"),
        # What the client itself has written stands before what the proxy has.
        ("10.0.0.1", "203.0.113.7, 192.0.2.9", "192.0.2.9"),
        ("10.0.0.1", "203.0.113.7,192.0.2.9 , 10.0.0.2", "192.0.2.9"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "203.0.113.7, unknown", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.7, , 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "203.0.113.7:4711", "203.0.113.7"),
        ("10.0.0.1", "[2001:dead::7]:4711", "2001:dead::7"),
        ("10.0.0.1", "203.0.113.7, " + "10.0.0.2, " * 40 + "10.0.0.2", "10.0.0.2"),
        ("", "203.0.113.7", ""),
    ],
)
def test_the_client_address_of_a_request(address: str, forwarded: str, client: str) -> None:
    assert TrustedProxies(PROXIES).client_address(address, forwarded) == client


def test_without_trusted_proxies_the_header_is_ignored() -> None:
    proxies = TrustedProxies([])
    assert not proxies.trusts("127.0.0.1")
    assert proxies.client_address("127.0.0.1", EXOTEL) == "127.0.0.1"


@given(st.text(max_size=200))
def test_any_header_gives_an_address_or_the_peer(forwarded: str) -> None:
    client = TrustedProxies(PROXIES).client_address("10.0.0.1", forwarded)
    assert site_of(client)
    assert all(mark in "0123456789abcdef.:" for mark in client)


@pytest.mark.parametrize(
    ("address", "site"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_a_site_is_an_ipv4_address_or_an_ipv6_network(address: str, site: str) -> None:
    assert site_of(address) == site


@pytest.fixture(scope="module", params=[True, False], ids=["behind a proxy", "open"])
def gateway(
    request: pytest.FixtureRequest, start_gateway: Callable[..., Gateway], agent_port: Callable[[], AgentPort]
) -> Gateway:
    return start_gateway(
        server={"trusted_proxies": ["127.0.0.1"] if request.param else ["192.0.2.1"]},
        limits={"connections_per_address": 3},
        organizations=[{"name": "acme"}],
        **{"organizations.carriers": [{"carrier": "exotel", "allow": [EXOTEL]}]},
        agents=[{"name": "support", "organization": "acme", "instances": [agent_port().url]}],
    )


def trusts_local_proxy(gateway: Gateway) -> bool:
    return '"127.0.0.1"' in (gateway.directory / "patchbay.toml").read_text()


async def upgrade(gateway: Gateway, forwarded: str | None) -> Caller:
    caller = await gateway.dial("/ws/exotel/support.acme", headers={"X-Forwarded-For": forwarded})
    await caller.leave()
    return caller


@pytest.mark.parametrize(
    ("forwarded", "is_exotel"),
    [(None, False), (EXOTEL, True), (f"{EXOTEL}, 192.0.2.9", False), (f"192.0.2.9, {EXOTEL}", True)],
)
async def test_an_allowed_address_behind_a_proxy(
    gateway: Gateway, forwarded: str | None, is_exotel: bool
) -> None:
    caller = await upgrade(gateway, forwarded)
    if trusts_local_proxy(gateway) and is_exotel:
        assert caller.status == 101
    else:
        assert caller.refusal == (403, "unauthorized")


async def test_connections_are_counted_by_client_and_not_by_proxy(gateway: Gateway) -> None:
    target = "/ws/exotel/support.acme"
    await assert_no_slots_taken(gateway)  # a closed connection counts until the gateway has noticed the close
    callers = [
        await gateway.dial(target, headers={"X-Forwarded-For": EXOTEL})
        for _ in range(3 if trusts_local_proxy(gateway) else 0)
    ]
    assert all(caller.status == 101 for caller in callers)
    if trusts_local_proxy(gateway):
        fourth = await gateway.dial(target, headers={"X-Forwarded-For": EXOTEL})
        gateway.upgrades -= 1  # rejected before it became a call, so it has no line of its own
        assert fourth.refusal == (429, "rate_limited")
        await fourth.leave()
        another = await gateway.dial(target, headers={"X-Forwarded-For": "192.0.2.9"})
        assert another.refusal == (403, "unauthorized")
        await another.leave()
    for caller in callers:
        await caller.leave()


def test_a_tls_key_without_a_certificate_is_a_problem(tmp_path: Any) -> None:
    (tmp_path / "a.toml").write_text(
        '[server]\ntls_key = "key.pem"\ntrusted_proxies = ["proxy.example.com"]\n'
    )
    with pytest.raises(ConfigError) as refused:
        load(tmp_path / "a.toml", {})
    message = "\n".join(map(str, refused.value.problems))
    assert "goes with tls_certificate" in message
    assert "must be an address, or a network" in message
