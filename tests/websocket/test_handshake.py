# SPDX-License-Identifier: BSD-2-Clause
"""The opening handshake: the plain case has the result that the package has, every other is given to it."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.uri import parse_uri

from gateway.websocket import handshake
from gateway.websocket.handshake import ClientHandshake, NotAWebSocketError, accept_key, answer, read_request

KEY, ACCEPT = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 §1.3
REQUEST = [
    ("host", "gw.example.com"),
    ("upgrade", "websocket"),
    ("connection", "Upgrade"),
    ("sec-websocket-key", KEY),
    ("sec-websocket-version", "13"),
]
ANSWER = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", "{accept}")]
INSTANCE = parse_uri("ws://127.0.0.1:8080/ws")

OTHER_HEADERS = [
    ("origin", "https://example.com"),
    ("origin", "null"),
    ("user-agent", "TwilioProxy/1.1"),
    ("x-twilio-signature", "OQjCs9PhErWNdZQB5oKwjPkt+x4="),
    ("x-name", ""),
    ("x-name", "caf\xe9"),
    ("x name", "a space in a name"),
    ("x-name", "\x01"),
    ("content-length", "0"),
    ("content-length", "5"),
    ("transfer-encoding", "chunked"),
    ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits"),
    ("sec-websocket-protocol", "audio.example.com"),
    ("x-long", "x" * 9000),
]
VALUES = {
    "upgrade": ["WebSocket", "websocket, h2c", "h2c", "websocket;", "", " websocket "],
    "connection": ["keep-alive, Upgrade", "Upgrade, keep-alive", "keep-alive", "", "upgrade", "Upgrade, ,"],
    "sec-websocket-key": ["c2hvcnQ=", "not base64!", "", KEY[:-1], KEY + "=", "dGhlIHNhbXBsZSBub25jZR=="],
    "sec-websocket-version": ["8", "13, 8", "", "013"],
    "sec-websocket-accept": ["wrong", "", ACCEPT],
}


def head(first: str, headers: list[tuple[str, str]]) -> bytes:
    return "\r\n".join([first, *(f"{name}: {value}" for name, value in headers), "", ""]).encode("latin-1")


def assert_same_result(raw: bytes) -> None:
    """Check that this module and the package read the request alike."""
    ours, theirs = read_request(raw), handshake._read_request_by_package(raw)
    assert (ours.accept, ours.fault) == (theirs.accept, theirs.fault)
    assert ours.target == theirs.target
    assert list(ours.headers) == list(theirs.headers)
    assert (ours.accept is None) == bool(ours.fault)


@st.composite
def headers_like(draw: st.DrawFn, plain: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Draw the plain headers with some missing, repeated, or of another value or case, and others between."""
    headers: list[tuple[str, str]] = []
    for name, value in plain:
        others = VALUES.get(name.lower(), [])
        kind = draw(st.sampled_from(["as it is"] * 6 + ["missing", "twice", "other", "shouted"]))
        if kind == "missing":
            continue
        if kind == "other" and others:
            value = draw(st.sampled_from(others))  # noqa: PLW2901
        headers.append((name.upper() if kind == "shouted" else name, value))
        if kind == "twice":
            headers.append((name, draw(st.sampled_from([value, *others]))))
        if draw(st.integers(0, 5)) == 0:
            headers.append(draw(st.sampled_from(OTHER_HEADERS)))
    return headers


def test_the_example_of_the_rfc() -> None:
    request = read_request(head("GET /chat?a=b HTTP/1.1", REQUEST))
    assert (request.target, request.accept, request.fault) == ("/chat?a=b", ACCEPT, "")
    assert request.header("Host") == "gw.example.com"
    assert request.header("X-Missing") == ""
    assert accept_key(KEY) == ACCEPT
    assert f"Sec-WebSocket-Accept: {ACCEPT}\r\n".encode() in answer(ACCEPT)
    assert b"Sec-WebSocket-Protocol: chat\r\n\r\n" in answer(ACCEPT, "chat")


@given(headers_like(REQUEST), st.sampled_from(["GET /ws/twilio HTTP/1.1"] * 4 + ["POST / HTTP/1.1"]))
@example([*REQUEST, ("cookie", "a=1"), ("cookie", "b=2")], "GET / HTTP/1.1")
@example([], "GET / HTTP/1.1")
def test_any_request_is_read_as_the_package_reads_it(headers: list[tuple[str, str]], first: str) -> None:
    assert_same_result(head(first, headers))


@pytest.mark.parametrize(
    "lines",
    [
        [("connection", "Upgrade"), ("connection", "keep-alive")],
        [("connection", "keep-alive"), ("connection", "Upgrade")],
        [("connection", "Upgrade"), ("connection", "")],
        [("connection", ",\tUPGRADE ,, x")],
        [("connection", "upgrade"), ("upgrade", "")],
        [("connection", "upgrade"), ("upgrade", "h2c")],
    ],
)
@pytest.mark.parametrize("upgrade", ["websocket", "WebSocket, h2c/1", "h2c\t,\twebsocket", ", websocket"])
def test_lines_of_one_header_are_one_list(lines: list[tuple[str, str]], upgrade: str) -> None:
    others = [(name, value) for name, value in REQUEST if name not in ("connection", "upgrade")]
    request = read_request(head("GET / HTTP/1.1", [*others, ("upgrade", upgrade), *lines]))
    assert (request.accept, request.fault) == (ACCEPT, "")
    assert ("upgrade", upgrade.strip()) in request.headers, "the lines themselves stay as they came"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("connection", "keep-alive"),
        ("connection", "upgrades"),
        ("connection", "keep-alive upgrade"),
        ("connection", "upgrade, a b"),
        ("upgrade", "h2c"),
        ("upgrade", "websocket/13"),
        ("upgrade", "websocket, @"),
        ("upgrade", '"websocket"'),
        ("upgrade", ","),
    ],
)
def test_what_is_no_list_with_the_token_is_no_upgrade(name: str, value: str) -> None:
    request = read_request(head("GET / HTTP/1.1", [*dict(REQUEST, **{name: value}).items()]))
    assert request.accept is None
    assert request.fault


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_read_as_the_package_reads_them(raw: bytes) -> None:
    assert_same_result(raw + b"\r\n\r\n")


def test_several_headers_of_one_name_are_joined() -> None:
    request = read_request(head("GET / HTTP/1.1", [*REQUEST, ("X-A", "1"), ("x-a", "2")]))
    assert request.header("x-A") == "1, 2"


def test_plain_handshakes_do_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("the package was request")

    monkeypatch.setattr(handshake, "ServerProtocol", never)
    monkeypatch.setattr(handshake, "ClientProtocol", never)
    assert read_request(head("GET / HTTP/1.1", REQUEST)).accept == ACCEPT
    client = ClientHandshake(INSTANCE, [("x-daily-session-id", "s")])
    assert client.read_answer(answer(accept_key(client._key))) is None


def test_the_clients_own_request_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    client = ClientHandshake(INSTANCE, [("x-daily-session-id", "s")], ["chat", "superchat"])
    assert client.request.startswith(b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n")
    request = handshake._read_request_by_package(client.request)
    assert request.accept == accept_key(client._key)
    assert request.header("x-daily-session-id") == "s"
    assert request.header("Sec-WebSocket-Protocol") == "chat, superchat"
    assert client.request != ClientHandshake(INSTANCE, []).request, "each has a key of its own"


@given(headers_like(ANSWER), st.sampled_from(["HTTP/1.1 101 Switching Protocols"] * 4 + ["HTTP/1.0 101 Up"]))
def test_any_answer_is_read_as_the_package_reads_it(headers: list[tuple[str, str]], first: str) -> None:
    client = ClientHandshake(INSTANCE, [])
    accept = accept_key(client._key)
    raw = head(first, [(name, value.format(accept=accept)) for name, value in headers])

    def result(judge: object) -> object:
        try:
            return judge(raw)  # type: ignore[operator]
        except NotAWebSocketError as error:
            return str(error)

    assert result(client.read_answer) == result(client._read_answer_by_package)


@pytest.mark.parametrize(
    ("taken", "offered", "result"),
    [("chat", ["chat"], "chat"), ("other", ["chat"], None), ("chat", [], None)],
)
def test_a_subprotocol_is_accepted_only_if_it_was_offered(
    taken: str, offered: list[str], result: str | None
) -> None:
    client = ClientHandshake(INSTANCE, [], offered)
    raw = answer(accept_key(client._key), taken)
    if result is None:
        with pytest.raises(NotAWebSocketError):
            client.read_answer(raw)
    else:
        assert client.read_answer(raw) == result


def test_an_extension_that_was_not_offered_is_refused() -> None:
    client = ClientHandshake(INSTANCE, [])
    raw = answer(accept_key(client._key))[:-2] + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    with pytest.raises(NotAWebSocketError):
        client.read_answer(raw)
