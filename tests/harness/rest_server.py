# SPDX-License-Identifier: BSD-2-Clause
"""The base of the carriers' fake REST servers: an API on a port of its own, and webhooks to the gateway.

Webhooks are signed for the URL that they are for; `via` says where that URL is in the test.
"""

from __future__ import annotations

import base64
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

import aiohttp
from aiohttp import web
from yarl import URL

from gateway.simulator.waiting import WAIT_S
from tests.harness.agent import AgentPort
from tests.harness.failing_server import FailingServer

Pairs = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Seen:
    """A recorded request. `form`: pairs of a form's body. `body`: a JSON body."""

    operation: str
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    form: Pairs
    body: Any

    def one(self, name: str) -> str | None:
        """Return the value of a field that may occur once."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.form if key == name]


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to a webhook."""

    status: int
    content_type: str
    text: str
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass(slots=True)
class Document:
    """A document as a carrier reads it.

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
    """Read TwiML, TeXML or Plivo's XML. Raises AssertionError for a document that no carrier accepts."""
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
    """An inbound call: its id, the answer to its webhook, and the document in that answer."""

    call_id: str
    answered: Answered
    document: Document | None
    fields: dict[str, str]

    @property
    def stream_url(self) -> str:
        assert self.document is not None, self.answered
        assert self.document.stream_url, self.document.text
        return self.document.stream_url


def placed(call_id: str, answered: Answered, fields: dict[str, str]) -> Placed:
    """Return a call whose webhook was answered with XML, or refused."""
    document = read_document(answered.text) if answered.status == 200 else None
    return Placed(call_id, answered, document, fields)


Act = Callable[[web.Request, Seen], web.Response]
Route = tuple[str, str, str, Act]


class RestServer(FailingServer[Seen]):
    """A carrier on a port of its own. `via`: `http://HOST:PORT` to which all webhooks really go."""

    def __init__(self, port: AgentPort | None = None, *, via: str | None = None) -> None:
        super().__init__(port)
        self._http: aiohttp.ClientSession | None = None
        self.via = via

    @property
    def api_url(self) -> str:
        """The `api_url` of accounts."""
        raise NotImplementedError

    def routes(self) -> Sequence[Route]:
        """Return the routes: method, path, operation, action."""
        raise NotImplementedError

    def unauthorized(self, request: web.Request) -> web.Response | None:
        raise NotImplementedError

    def add_routes(self, app: web.Application) -> None:
        for method, path, operation, act in self.routes():
            app.router.add_route(method, path, self._handler(operation, act))
        app.router.add_route("*", "/{rest:.*}", self._handler("unknown", lambda *_: self.error(404)))

    async def start(self) -> Self:
        await super().start()
        # A gateway that drains closes connections that wait for another request (RFC 9112 §9.6).
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True), timeout=aiohttp.ClientTimeout(total=WAIT_S)
        )
        return self

    async def stop(self) -> None:
        self.stopping.set()
        if self._http is not None:
            await self._http.close()
        await super().stop()

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Answered:
        """Send one request to the gateway. With `via` the URL's host is only in the `Host` header."""
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

            return await self.respond(operation, request, as_carrier)

        return handle


FORM = "application/x-www-form-urlencoded"


def form_body(fields: Mapping[str, str]) -> bytes:
    return urlencode(fields).encode()


def login(request: web.Request) -> tuple[str, str] | None:
    """Return user and password of a request with Basic authentication, or None."""
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    if scheme != "Basic":
        return None
    user, colon, password = base64.b64decode(encoded).decode().partition(":")
    return (user, password) if colon else None
