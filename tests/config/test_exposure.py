# SPDX-License-Identifier: BSD-2-Clause
"""What a configuration leaves open to everybody, and that `serve` and `check` say so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.config import Settings, unauthenticated_access
from gateway.model.addresses import is_loopback
from gateway.simulator.gateway_process import to_toml
from tests.harness.gateway import Gateway

AGENT = {"name": "support", "organization": "acme"}
TWILIO = {"carrier": "twilio", "auth_tokens": ["a-token"]}
DAILY = {"api_key": "a-key"}


def settings(**tables: Any) -> Settings:
    return Settings.model_validate(tables)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *((host, True) for host in ("127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost", "LocalHost.")),
        *((host, False) for host in ("0.0.0.0", "::", "10.0.0.5", "fd00::1", "voice.example.com", "")),
    ],
)
def test_a_loopback_address_is_reached_from_this_machine_alone(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("server", "agent", "expected"),
    [
        ({}, {}, "none"),
        ({"host": "::1"}, {}, "none"),
        ({"host": "0.0.0.0"}, {}, "required"),
        ({"host": "voice.example.com"}, {}, "required"),
        ({"host": "0.0.0.0", "websocket_auth": "none"}, {}, "none"),
        ({"host": "0.0.0.0"}, {"websocket_auth": "none"}, "none"),
        ({"websocket_auth": "required"}, {}, "required"),
        ({"websocket_auth": "token"}, {"websocket_auth": "required"}, "required"),
    ],
)
def test_the_default_of_websocket_auth_goes_by_the_port(
    server: dict[str, Any], agent: dict[str, Any], expected: str
) -> None:
    (resolved,) = settings(server=server, agents=[AGENT | agent]).agents
    assert resolved.websocket_auth == expected


@pytest.mark.parametrize(
    ("public_url", "account", "expected"),
    [
        ("https://voice.example.com", TWILIO, "required"),
        ("https://voice.example.com", {"carrier": "telnyx", "api_key": "a-key"}, "none"),
        ("http://127.0.0.1:7860", TWILIO, "none"),
        (None, TWILIO, "none"),
    ],
)
def test_an_account_that_authenticates_leaves_no_way_round_it_behind_a_proxy(
    public_url: str | None, account: dict[str, Any], expected: str
) -> None:
    server = {"public_url": public_url} if public_url else {}
    acme = {"name": "acme", "carriers": [account]}
    (resolved,) = settings(server=server, organizations=[acme], agents=[AGENT]).agents
    assert resolved.websocket_auth == expected


def access(**tables: Any) -> list[str]:
    return [what for what, _ in unauthenticated_access(settings(**tables))]


def test_a_gateway_for_its_own_machine_is_open_to_nobody_else() -> None:
    assert access(agents=[AGENT]) == []


@pytest.mark.parametrize(
    "server",
    [
        {"host": "0.0.0.0", "websocket_auth": "none"},
        {"public_url": "https://voice.example.com"},
        {"trusted_proxies": ["10.0.0.0/8"]},
    ],
)
def test_agents_that_anybody_can_call(server: dict[str, Any]) -> None:
    assert access(server=server, agents=[AGENT]) == ["media sockets"]
    locked = AGENT | {"websocket_auth": "required"}
    assert access(server=server, agents=[locked]) == []


def test_many_agents_are_counted() -> None:
    agents = [AGENT | {"name": f"agent-{number}"} for number in range(8)]
    server = {"public_url": "https://voice.example.com"}
    ((_, detail),) = unauthenticated_access(settings(server=server, agents=agents))
    assert "agent-4.acme and 3 more" in detail


@pytest.mark.parametrize(
    ("organization", "expected"),
    [
        ({}, []),
        ({"daily": DAILY}, []),
        ({"daily": DAILY | {"allow_unsigned": True}}, ["dial-in webhook"]),
        ({"whatsapp": {}}, []),
        ({"whatsapp": {"allow_unsigned": True}}, ["WhatsApp webhook"]),
        ({"carriers": [TWILIO], "dial_prefixes": ["+1"]}, []),
        (
            {"carriers": [{"carrier": "telnyx", "api_key": "a-key"}], "dial_prefixes": ["+1"]},
            ["status callbacks"],
        ),
        ({"carriers": [{"carrier": "telnyx", "api_key": "a-key"}]}, []),
    ],
)
def test_webhooks_that_need_no_signature(organization: dict[str, Any], expected: list[str]) -> None:
    assert access(organizations=[{"name": "acme", **organization}]) == expected


@pytest.mark.parametrize(
    "organization",
    [
        {"daily": DAILY | {"allow_unsigned": True, "webhook_secrets": ["c2VjcmV0"]}},
        {"whatsapp": {"allow_unsigned": True, "app_secrets": ["a-secret"]}},
    ],
)
def test_unsigned_goes_without_secrets(problems: Callable[..., Any], organization: dict[str, Any]) -> None:
    found = problems(to_toml({"organizations": [{"name": "acme", **organization}]}))
    assert any("allow_unsigned goes without" in problem.message for problem in found)


def test_check_names_what_is_open(write: Callable[[str], Path]) -> None:
    file = write(
        "[server]\nhost = '0.0.0.0'\n[[organizations]]\nname = 'acme'\n"
        "[organizations.whatsapp]\nallow_unsigned = true\n"
        "[[agents]]\nname = 'support'\norganization = 'acme'\nwebsocket_auth = 'none'\n"
    )
    result = CliRunner().invoke(app, ["check", "--config", str(file)], env={})
    assert result.exit_code == 0
    lines = result.stderr.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["media sockets", "WhatsApp webhook"]
    assert "support.acme" in lines[0]


def test_serve_says_at_its_start_what_is_open(start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway(
        server={"public_url": "https://voice.example.com"},
        organizations=[{"name": "acme", "whatsapp": {"allow_unsigned": True}}],
        agents=[AGENT],
    )
    lines = [line for line in gateway.log_lines() if line["event"] == "open without authentication"]
    assert [(line["level"], line["what"]) for line in lines] == [
        ("warning", "media sockets"),
        ("warning", "WhatsApp webhook"),
    ]
