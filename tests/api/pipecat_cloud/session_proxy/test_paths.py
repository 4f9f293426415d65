# SPDX-License-Identifier: BSD-2-Clause
"""Paths of the Session API: forwarded unchanged or refused."""

from __future__ import annotations

from typing import Any

import pytest

PASSED = [
    "/",
    "/a/b/",
    "//evil.example/x",
    "///",
    "/http://evil.example/x",
    "/@evil.example:80/",
    "/a%2Fb%2fc",
    "/%2F%2Fevil.example",
    "/a%00b%0dHost:%20evil",
    "/...",
    "/a..b/..c/c..",
    "/a;v=1/b;c",
    "/%C3%A4%ff",
    "/x?",
    "/x?a=%2e%2e/..&b=//evil&c=+&c=%zz&&=&d?",
    "/api/offer",
    "/api/bot",
    "/api/ws",
    "/bots",
    "/bot/settings",
    "/wsx",
    "/?path=/bot",
    "/|\"<>^`{}~!$&'()*+,:@=",
]


@pytest.mark.parametrize("path", PASSED)
async def test_passed_on_as_it_came(door: Any, path: str) -> None:
    session = await door.session()
    reply = await door.ask("GET", door.path(session, path))
    assert reply.status == 200
    heard = await door.instance.next()
    assert heard.target == (path.rstrip("?") if path == "/x?" else path)
    assert heard.header("host") == f"127.0.0.1:{door.instance.port.number}"


async def test_a_fragment_is_the_clients_own(door: Any) -> None:
    session = await door.session()
    await door.ask("GET", door.path(session, "/a?b#c"))
    assert (await door.instance.next()).target == "/a?b"


REFUSED = [
    "/..",
    "/../x",
    "/a/../../b",
    "/./a",
    "/a/.",
    "/%2e%2e/x",
    "/%252e%252e/x",
    "/x/%25252e%25252e/y",
    "/a%252f..%252fx",
    "/%252e/robot",
    "/%2E./x",
    "/.%2e/x",
    "/a/..%2fx",
    "/a%2f..%2fx",
    "/a%2f%2e%2e",
    "/..;/x",
    "/%2e%2e%3bv=1/x",
    "/a%5c..%5cx",
    "/..%5cx",
    "/a\\b",
    "/..\\x",
    "\\\\evil.example",
    "/%zz",
    "/%2",
    "/a%",
]


@pytest.mark.parametrize("path", REFUSED)
async def test_refused(door: Any, path: str) -> None:
    session = await door.session()
    target = door.path(session, path) if path.startswith("/") else door.path(session, "/" + path)
    reply = await door.ask("GET", target)
    assert reply.refusal == (400, "400")
    assert door.instance.connections == 0


RESERVED_PATHS = [
    "/bot",
    "/ws",
    "/ws/token",
    "/whatsapp",
    "/readyz",
    "/livez",
    "/BOT",
    "/Ws",
    "/bot/",
    "/bot//",
    "//bot",
    "/./bot",
    "/bot/.",
    "/x/../bot",
    "/bot;x",
    "/bot;x=1/",
    "/;x/bot",
    "/bot?x=1",
    "/b%6ft",
    "/%62%6F%74",
    "/%2fbot",
    "/bot%2f",
    "/%5cbot",
    "/bot%5c",
    "/bot%3bx",
    "/bot%3fx",
    "/bot%23x",
    "/bot%00",
    "/bot%20",
    "/%09bot",
    "/%2562ot",
    "/%25252562ot",
    "/%252fbot",
    "/%252e/bot",
    "/x/%252e%252e/bot",
    "/x%2f%252e%252e%2fbot",
    "/bot%253f/%252e%252e/x",
    "/ws%2Ftoken",
    "/%2525252525252562ot",
]


@pytest.mark.parametrize("path", RESERVED_PATHS)
async def test_a_reserved_path_of_the_agent_is_not_found(door: Any, path: str) -> None:
    session = await door.session()
    reply = await door.ask("POST", door.path(session, path))
    assert reply.refusal == (404, "404")
    assert door.instance.connections == 0


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
async def test_no_method_reaches_a_reserved_path(door: Any, method: str) -> None:
    session = await door.session()
    assert (await door.ask(method, door.path(session, "/bot"))).status == 404
    assert door.instance.connections == 0


NO_PATHS = [
    "/v1/public/support/sessions/{}",
    "/v1/public/support/sessions//{}/x",
    "/v1/public/support%2Fsessions%2F{}/x",
    "/v1/public/support%2Fsessions/{}/x",
    "/v1/public/support/sessions%2F{}/x",
    "/v1/public//sessions/{}/x",
    "/v1/public/../public/support/sessions/{}/x",
    "/v1//public/support/sessions/{}/x",
    "/v1/public/support/session/{}/x",
    "/v1/public/support.acme/sessions/{}/x",
    "/v1/public/SUPPORT/sessions/{}/x",
    "/v1/public/sales/sessions/{}/x",
]


@pytest.mark.parametrize("target", NO_PATHS)
async def test_no_path_to_a_session(door: Any, target: str) -> None:
    session = await door.session()
    reply = await door.ask("GET", target.format(session))
    assert reply.refusal == (404, "404")
    assert door.instance.connections == 0


@pytest.mark.parametrize(
    "target", ["/v1/%70ublic/support/sessions/{}/x", "/v1/public/suppor%74/sessions/{}/x"]
)
async def test_an_escaped_letter_is_the_letter(door: Any, target: str) -> None:
    session = await door.session()
    assert (await door.ask("GET", target.format(session))).status == 200
    assert (await door.instance.next()).target == "/x"


async def test_an_absolute_target_is_one_of_ours(door: Any) -> None:
    session = await door.session()
    reply = await door.ask("GET", f"http://evil.example{door.path(session, '/x')}")
    assert reply.status == 200
    heard = await door.instance.next()
    assert (heard.target, heard.header("host")) == ("/x", f"127.0.0.1:{door.instance.port.number}")


@pytest.mark.parametrize(
    "line",
    ["X-A: \xe4", "X-A: a\x01b", "X-A: a\x7f", "X-A: a\x00b", "X A: b", "X-A: a\rX-B: c"],
)
async def test_headers_that_are_none(door: Any, line: str) -> None:
    session = await door.session()
    client = await door.begin("GET", door.path(session), line)
    assert (await client.head()).status == 400
    assert door.instance.connections == 0


async def test_a_body_that_an_upgrade_would_swallow(door: Any) -> None:
    session = await door.session()
    lines = "Connection: upgrade", "Upgrade: h2c"
    assert (await door.ask("POST", door.path(session), *lines, body=b"x")).refusal == (400, "400")
    assert (await door.ask("GET", door.path(session), *lines)).status == 200
    assert (await door.instance.next()).header("upgrade") is None
