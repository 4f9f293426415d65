# SPDX-License-Identifier: BSD-2-Clause
"""Requests reach the session's instance unchanged, and answers return unchanged."""

from __future__ import annotations

from typing import Any

import pytest

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD")


def says(*lines: str, body: bytes = b"") -> Any:
    """Reads the request, and answers with this."""

    async def script(heard: Any) -> None:
        await heard.whole_body()
        heard.say(*lines, body=body)

    return script


@pytest.mark.parametrize("key", ["pk_acme", "sk_acme"])
@pytest.mark.parametrize("method", METHODS)
async def test_every_method_with_and_without_a_body(door: Any, method: str, key: str) -> None:
    session = await door.session()
    for body in (b"", b"a body"):
        reply = await door.ask(method, door.path(session, "/things?of=mine"), body=body, key=key)
        heard = await door.instance.next()
        assert heard.first == f"{method} /things?of=mine HTTP/1.1"
        assert heard.body == body
        assert (reply.status, reply.raw) == (200, b"" if method == "HEAD" else body)
        assert reply.header("content-length") == str(len(body))
        assert heard.header("x-daily-session-id") == session


async def test_the_instance_gets_the_session_and_request_id(door: Any) -> None:
    session = await door.session()
    lines = [
        "User-Agent: mine/1",
        "X-Request-Id: the-callers",
        "x-daily-session-id: another",
        "X-Twice: 1",
        "X-Twice: 2",
        "X-Umlaut: \xc3\xa4",  # UTF-8
        'Cookie: a=b; c="d e"',
        "Connection: close, X-Mine, keep-alive",
        "X-Mine: of this hop",
        "Keep-Alive: timeout=5",
        "TE: trailers",
        "Trailer: X-Sum",
        "Proxy-Authorization: Basic QQ==",
        "Proxy-Connection: keep-alive",
        "Accept-Encoding: br",
        "X-Empty:",
    ]
    reply = await door.ask("POST", door.path(session), *lines, body=b"{}")
    heard = await door.instance.next()
    assert (
        sorted(heard.headers)
        == sorted(
            [
                ("host", f"127.0.0.1:{door.instance.port.number}"),
                ("user-agent", "mine/1"),
                ("x-twice", "1"),
                ("x-twice", "2"),
                ("x-umlaut", "\xc3\xa4"),
                ("x-forwarded-for", "127.0.0.1"),
                ("x-forwarded-proto", "http"),
                ("accept-encoding", "br"),
                ("x-empty:", ""),
                ("x-daily-session-id", session),
                ("x-request-id", "the-callers"),
                ("transfer-encoding", "chunked"),
                ("connection", "close"),  # of our own hop
            ]
        )
        or ("x-empty", "") in heard.headers
    )
    assert "authorization" not in dict(heard.headers)
    assert "content-length" not in dict(heard.headers)
    assert reply.header("x-request-id") == "the-callers"


@pytest.mark.parametrize(
    "name",
    [
        "x_daily_session_id",
        "X-Daily_Session-Id",
        "X_DAILY_SESSION_ID",
        "x.daily.session.id",
        "x_request_id",
        "content_length",
        "transfer_encoding",
    ],
)
async def test_a_header_that_a_server_could_take_for_a_dropped_one_is_dropped(door: Any, name: str) -> None:
    session = await door.session()
    reply = await door.ask("GET", door.path(session), f"{name}: 1", "x_daily_other: 2")
    assert reply.status == 200
    heard = await door.instance.next()
    assert heard.header(name) is None
    assert heard.header("x-daily-session-id") == session
    assert heard.header("x_daily_other") == "2"


async def test_who_the_client_is_the_instance_hears_from_the_gateway_alone(door: Any) -> None:
    session = await door.session()
    claims = [
        "X-Forwarded-For: 192.0.2.1",
        "X-Forwarded-For: 192.0.2.2",
        "x_forwarded_for: 192.0.2.3",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: elsewhere.example",
        "X-Forwarded-User: root",
        "Forwarded: for=192.0.2.4;proto=https",
        "X-Real-IP: 192.0.2.5",
        "True-Client-IP: 192.0.2.6",
        "CF-Connecting-IP: 192.0.2.7",
        "X-Original-URL: /admin",
        "X-Auth-Request-User: root",
        "Remote_User: root",
        "Client-Cert: :AAAA:",
        "Cookie: of=another agent",
    ]
    assert (await door.ask("GET", door.path(session), *claims)).status == 200
    heard = await door.instance.next()
    assert [header for header in heard.headers if "192.0.2" in header[1]] == []
    assert {name for name, _ in heard.headers} == {
        "host",
        "connection",
        "x-daily-session-id",
        "x-request-id",
        "x-forwarded-for",
        "x-forwarded-proto",
    }
    assert (heard.header("x-forwarded-for"), heard.header("x-forwarded-proto")) == ("127.0.0.1", "http")


async def test_nothing_is_added_to_a_bare_request(door: Any) -> None:
    session = await door.session()
    reply = await door.ask("GET", door.path(session, "/"))
    heard = await door.instance.next()
    of_the_gateway = {"x-daily-session-id", "x-request-id", "x-forwarded-for", "x-forwarded-proto"}
    assert {name for name, _ in heard.headers} == {"host", "connection"} | of_the_gateway
    assert heard.header("x-request-id") == reply.header("x-request-id")


async def test_an_answer_comes_back_as_it_is(door: Any) -> None:
    session = await door.session()
    door.instance.script = says(
        "HTTP/1.1 418 I'm a teapot",
        "Content-Type: application/octet-stream",
        "Content-Encoding: gzip",
        "Content-Length: 5",
        "Set-Cookie: a=1; Path=/",
        "Set-Cookie: b=2",
        'Clear-Site-Data: "*"',
        "Strict-Transport-Security: max-age=1",
        "X-Latin: \xe4",
        "Server: of-its-own",
        "Connection: close, X-Hop",
        "X-Hop: 1",
        "Keep-Alive: timeout=5",
        "Proxy-Authenticate: Basic",
        "Date: Thu, 01 Jan 1970 00:00:00 GMT",
        body=b"\x1f\x8bnot",
    )
    reply = await door.ask("GET", door.path(session), "Accept-Encoding: gzip")
    assert (reply.status, reply.raw) == (418, b"\x1f\x8bnot")
    # What holds for the whole host is not one agent's to say.
    assert not {"set-cookie", "clear-site-data", "strict-transport-security"} & dict(reply.headers).keys()
    assert reply.header("x-latin") == "\xe4"
    assert reply.header("server") == "of-its-own"
    assert reply.header("content-encoding") == "gzip"
    assert reply.header("date") != "Thu, 01 Jan 1970 00:00:00 GMT"
    assert not {"x-hop", "keep-alive", "proxy-authenticate"} & {name for name, _ in reply.headers}


async def test_cookies_do_not_go_from_one_caller_to_the_next(door: Any) -> None:
    session = await door.session()
    door.instance.script = says("HTTP/1.1 200 OK", "Content-Length: 0", "Set-Cookie: a=1; Path=/")
    for _ in range(2):
        await door.ask("GET", door.path(session))
        assert (await door.instance.next()).header("cookie") is None


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_the_callers_to_follow(door: Any, status: int) -> None:
    session = await door.session()
    door.instance.script = says(f"HTTP/1.1 {status} Elsewhere", "Location: /bot", "Content-Length: 0")
    reply = await door.ask("POST", door.path(session), body=b"x")
    assert (reply.status, reply.header("location")) == (status, "/bot")
    assert door.instance.connections == 1


async def test_the_chunks_of_an_answer_come_as_they_are_sent_and_its_trailers_do_not(door: Any) -> None:
    session = await door.session()
    asked: list[Any] = []

    async def talks(heard: Any) -> None:
        heard.say("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "Trailer: X-Sum", body=b"2\r\nhi\r\n")
        asked.append(await heard.chunk())  # the client answers in the middle of it
        heard.writer.write(b"3\r\nyou\r\n0\r\nX-Sum: 5\r\n\r\n")

    door.instance.script = talks
    client = await door.begin("POST", door.path(session), "Transfer-Encoding: chunked")
    reply = await client.head()
    pieces = client.pieces(reply)
    assert await anext(pieces) == b"hi"
    client.writer.write(b"2\r\nok\r\n0\r\nX-Sum: 2\r\n\r\n")
    assert await anext(pieces) == b"you"
    assert [piece async for piece in pieces] == []
    assert reply.whole
    assert asked == [b"ok"]
    assert "trailer" not in dict(reply.headers)


async def test_an_answer_until_the_end_of_the_connection(door: Any) -> None:
    session = await door.session()
    door.instance.script = says("HTTP/1.0 200 OK", "Content-Type: text/plain", body=b"all of it")
    reply = await door.ask("GET", door.path(session))
    assert (reply.status, reply.raw, reply.whole) == (200, b"all of it", True)


async def test_the_length_of_what_head_does_not_give(door: Any) -> None:
    session = await door.session()
    door.instance.script = says("HTTP/1.1 200 OK", "Content-Length: 123456789")
    reply = await door.ask("HEAD", door.path(session))
    assert (reply.status, reply.header("content-length")) == (200, "123456789")


@pytest.mark.parametrize(
    "head",
    [
        ("HTTP/1.1 204 No Content",),
        ("HTTP/1.1 204 No Content", "Content-Length: 7"),
        ("HTTP/1.1 304 Not Modified", "ETag: x"),
        ("HTTP/1.1 304 Not Modified", "Content-Length: 7"),
    ],
)
async def test_answers_that_have_no_body(door: Any, head: tuple[str, ...]) -> None:
    session = await door.session()
    door.instance.script = says(*head)
    client = await door.begin("GET", door.path(session), "Connection: close")
    reply = await client.answer()
    assert reply.status == int(head[0].split()[1])
    assert await client.reader.read() == b""
    assert not {"content-length", "transfer-encoding"} & {name for name, _ in reply.headers}


async def test_interim_answers_are_no_answers(door: Any) -> None:
    session = await door.session()
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    door.instance.script = says("HTTP/1.1 100 Continue", body=interim)
    reply = await door.ask("POST", door.path(session), body=b"x")
    assert (reply.status, reply.raw) == (200, b"ok")


async def test_expect_100_continue_is_answered(door: Any) -> None:
    session = await door.session()
    client = await door.begin("POST", door.path(session), "Content-Length: 2", "Expect: 100-continue")
    assert (await client.head()).status == 100
    client.writer.write(b"ok")
    reply = await client.answer()
    assert (reply.status, reply.raw) == (200, b"ok")
    assert (await door.instance.next()).header("expect") is None


async def test_an_answer_before_the_body_is_through(door: Any) -> None:
    session = await door.session()

    async def refuses(heard: Any) -> None:
        await heard.chunk()
        heard.say("HTTP/1.1 413 Content Too Large", "Content-Length: 3", body=b"no!")
        assert await heard.gone()

    door.instance.script = refuses
    client = await door.begin("POST", door.path(session), "Content-Length: 1000000", body=b"x" * 1000)
    reply = await client.answer()
    assert (reply.status, reply.raw) == (413, b"no!")
    assert reply.header("connection") == "close"


async def test_a_connection_serves_several_requests(door: Any) -> None:
    session = await door.session()
    client = await door.begin("POST", door.path(session), "Content-Length: 3", body=b"one")
    assert (await client.answer()).raw == b"one"
    head = f"POST {door.path(session)} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer pk_acme\r\n"
    client.writer.write(f"{head}Content-Length: 3\r\n\r\ntwo".encode())
    assert (await client.answer()).raw == b"two"
