# SPDX-License-Identifier: BSD-2-Clause
"""Two machines' gateways, each with an internal address, on one Redis server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gateway.simulator.free_ports import free_port
from tests.harness.agent import AgentPort
from tests.harness.api_requests import KEY
from tests.harness.document_calls import Server, accounts
from tests.harness.document_fixtures import carrier_servers  # noqa: F401 - a fixture
from tests.harness.gateway import Gateway
from tests.harness.redis_server import RedisServer
from tests.harness.rest_accounts import CREDENTIALS

NEVER_S = 30
"""Longer than any test waits: a call that ends in it was ended by something else."""


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.stop()


def settings_of_node(
    redis: RedisServer,
    support_port: AgentPort,
    carrier_servers: dict[str, Server],
    server: dict[str, Any],
) -> dict[str, Any]:
    """The settings of one machine's gateway. `server`: what is its own."""
    agent = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    return {
        "server": server,
        "store": {"url": redis.url()},
        "organizations": [
            {
                "name": "acme",
                "private_keys": [KEY],
                "public_keys": ["pk_acme"],
                "carriers": [
                    CREDENTIALS[each["carrier"]]
                    | each
                    | {"api_url": carrier_servers[each["carrier"]].api_url}
                    for each in accounts(carrier_servers)
                ],
                "dial_prefixes": ["+1415"],
            }
        ],
        "agents": [agent | {"sessions_per_instance": 5, "max_resumes": 0}],
        "limits": {
            "close_timeout": 0.5,
            "reconnect_timeout": NEVER_S,
            "instance_failures": 0,
            "requests_per_second": 10_000,
            "requests_burst": 10_000,
        },
    }


@pytest.fixture(scope="module")
def start_node(
    redis: RedisServer,  # before the gateways, so that it ends after them
    start_gateway: Callable[..., Gateway],
    support_port: AgentPort,
    carrier_servers: dict[str, Server],
) -> Callable[..., Gateway]:
    """Start one more machine's gateway at an address of its own."""
    addresses = iter(range(2, 250))

    def start(server: dict[str, Any] | None = None) -> Gateway:
        node_url = f"http://127.0.0.{next(addresses)}:{free_port()}"
        own = {"public_url": "https://voice.example.com", "drain_timeout": 60, "node_url": node_url}
        return start_gateway(**settings_of_node(redis, support_port, carrier_servers, own | (server or {})))

    return start


@pytest.fixture(scope="module")
def nodes(start_node: Callable[..., Gateway]) -> tuple[Gateway, Gateway]:
    """Two machines. The first has two workers, of which either may get what is for the other."""
    return start_node({"workers": 2}), start_node()
