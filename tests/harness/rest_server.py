# SPDX-License-Identifier: BSD-2-Clause
"""What the carriers' servers for tests have in common: a REST on a port of its own, and webhooks from it.

It keeps what was asked, answers as the carrier would, and fails on request: `server.next("dial", stalls)`.
Webhooks are signed for the URL that they are for; `via` says where that URL is in the test.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import struct
import xml.etree.ElementTree as ElementTree
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import aiohttp
from aiohttp import web
from yarl import URL

from tests.harness.agent import AgentPort
from tests.harness.peer import WAIT_S

Pairs = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it came. `form`: pairs of a form's body, `body`: a JSON body."""

    operation: str
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    form: Pairs
    body: Any

    def one(self, name: str) -> str | None:
        """A field that may come once."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.form if key == name]


@dataclass(frozen=True, slots=True)
class Answered:
    """How a webhook was answered."""

    status: int
    content_type: str
    text: str
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass(slots=True)
class Document:
    """What a carrier reads in an XML document of ours.

    `stream_url`, `stream` (attributes), `parameters`: of the first stream. `verbs`: what stands in the
    response, in order; `after`: what follows the stream's verb.
    """

    text: str
    stream_url: str | None = None
    stream: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    verbs: list[ElementTree.Element] = field(default_factory=list)
    after: list[ElementTree.Element] = field(default_factory=list)


def read_document(text: str) -> Document:
    """TwiML, TeXML and Plivo's XML; an AssertionError for what no carrier would take."""
    assert text == text.lstrip(), "nothing may stand before the document"
    root = ElementTree.fromstring(text)
    assert root.tag == "Response"
    document = Document(text, verbs=list(root))
    for place, verb in enumerate(root):
        stream = verb if verb.tag == "Stream" else verb.find("Stream")
        if stream is not None:
            document.stream = dict(stream.attrib)
            document.stream_url = stream.get("url") or (stream.text or "").strip()
            document.parameters = {
                one.attrib["name"]: one.attrib["value"] for one in stream.iter("Parameter")
            }
            document.after = list(root)[place + 1 :]
            break
    return document


@dataclass(slots=True)
class Placed:
    """A call that was placed to us: its id, how its webhook was answered, and the document in that."""

    call_id: str
    answered: Answered
    document: Document | None
    fields: dict[str, str]

    @property
    def stream_url(self) -> str:
        assert self.document is not None, self.answered
        assert self.document.stream_url, self.document.text
        return self.document.stream_url


Act = Callable[[web.Request, Seen], web.Response]
Behaviour = Callable[["RestServer", web.Request, Callable[[], web.Response]], Awaitable[web.StreamResponse]]
"""How one request is answered; the last argument does what the carrier would, and gives its answer."""
Route = tuple[str, str, str, Act]


class RestServer:
    """A carrier on a port of its own. `via`: `http://HOST:PORT` that all webhooks really go to."""

    def __init__(self, port: AgentPort | None = None, *, via: str | None = None) -> None:
        self._own = AgentPort() if port is None else None
        self._port = port or self._own
        self._next: dict[str, deque[Behaviour]] = defaultdict(deque)
        self._runner: web.AppRunner | None = None
        self._http: aiohttp.ClientSession | None = None
        self.via = via
        self.seen: list[Seen] = []
        self.stopping = asyncio.Event()

    @property
    def root(self) -> str:
        assert self._port is not None
        return self._port.url

    @property
    def api_url(self) -> str:
        """What an account's `api_url` is to be."""
        raise NotImplementedError

    def routes(self) -> Sequence[Route]:
        """Method, path, operation, and what is done."""
        raise NotImplementedError

    def unauthorized(self, request: web.Request) -> web.Response | None:
        raise NotImplementedError

    def error(
        self, status: int, code: int | str | None = None, text: str = "", **headers: str
    ) -> web.Response:
        """An error in the carrier's shape."""
        raise NotImplementedError

    def next(self, operation: str, *behaviours: Behaviour) -> None:
        """The next requests of this kind are answered so, one each; after them as the carrier should."""
        self._next[operation] += behaviours

    def asked(self, operation: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.operation == operation]

    async def start(self) -> Any:
        assert self._port is not None
        app = web.Application()
        for method, path, operation, act in self.routes():
            app.router.add_route(method, path, self._handler(operation, act))
        app.router.add_route("*", "/{rest:.*}", self._handler("unknown", lambda *_: self.error(404)))
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.SockSite(self._runner, self._port.listen()).start()
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT_S))
        return self

    async def stop(self) -> None:
        self.stopping.set()
        if self._http is not None:
            await self._http.close()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._own is not None:
            self._own.free()

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Answered:
        """One request to us, as it is. With `via` the URL's host goes into `Host` alone."""
        assert self._http is not None
        parts, more = urlsplit(url), dict(headers)
        host = parts.netloc.rpartition("@")[2]
        if self.via is not None:
            more["Host"] = host
        there = (self.via or f"{parts.scheme}://{host}") + parts.path
        there += f"?{parts.query}" if parts.query else ""
        async with self._http.request(
            method, URL(there, encoded=True), data=body, headers=more, allow_redirects=False
        ) as answer:
            text = await answer.text()
            told = {name.lower(): value for name, value in answer.headers.items()}
            return Answered(answer.status, told.get("content-type", ""), text, told)

    def _handler(self, operation: str, act: Act) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            text = await request.text()
            kind = request.content_type
            headers = {name.lower(): value for name, value in request.headers.items()}
            form = parse_qsl(text, keep_blank_values=True) if kind == FORM else []
            try:
                body, broken = json.loads(text) if text and kind == "application/json" else None, False
            except ValueError:
                body, broken = text, True
            seen = Seen(operation, request.method, request.path, dict(request.query), headers, form, body)
            self.seen.append(seen)

            def as_carrier() -> web.Response:
                if refused := self.unauthorized(request):
                    return refused
                return self.error(400, None, "the body is not JSON") if broken else act(request, seen)

            waiting = self._next[operation]
            return await waiting.popleft()(self, request, as_carrier) if waiting else as_carrier()

        return handle


FORM = "application/x-www-form-urlencoded"


def form_body(fields: Mapping[str, str]) -> bytes:
    return urlencode(fields).encode()


def login(request: web.Request) -> tuple[str, str] | None:
    """User and password of a request with Basic authentication."""
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    if scheme != "Basic":
        return None
    user, colon, password = base64.b64decode(encoded).decode().partition(":")
    return (user, password) if colon else None


# How one request may be answered instead


def fails(status: int, code: int | str | None = None, text: str = "", **headers: str) -> Behaviour:
    """With an error of the carrier's; header names may be written with underscores."""

    async def answer(server: RestServer, request: web.Request, act: Any) -> web.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return server.error(status, code, text, **named)

    return answer


def says(body: Any, *, status: int = 200, makes: bool = False, **headers: str) -> Behaviour:
    """With any JSON, or with text as HTML; `makes`: having done what was asked."""

    async def answer(server: RestServer, request: web.Request, act: Callable[[], Any]) -> web.Response:
        if makes:
            act()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, str):
            return web.Response(text=body, status=status, content_type="text/html", headers=named)
        return web.json_response(body, status=status, headers=named)

    return answer


async def stalls(server: RestServer, request: web.Request, act: Callable[[], Any]) -> web.Response:
    """Not at all."""
    await server.stopping.wait()
    return web.Response(status=503)


async def stalls_having_made(
    server: RestServer, request: web.Request, act: Callable[[], Any]
) -> web.Response:
    """Does what was asked, and says nothing of it."""
    act()
    return await stalls(server, request, act)


async def resets(server: RestServer, request: web.Request, act: Callable[[], Any]) -> web.Response:
    """With a TCP reset."""
    assert request.transport is not None
    raw = request.transport.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()
    return web.Response(status=503)


async def resets_having_made(
    server: RestServer, request: web.Request, act: Callable[[], Any]
) -> web.Response:
    """Does what was asked, and resets the connection."""
    act()
    return await resets(server, request, act)


async def trickles(server: RestServer, request: web.Request, act: Callable[[], Any]) -> web.StreamResponse:
    """Answers without an end."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    while not server.stopping.is_set():
        await response.write(b" " * 65536)
    return response
