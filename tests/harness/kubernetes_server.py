# SPDX-License-Identifier: BSD-2-Clause
"""A stub of the Kubernetes API on loopback: EndpointSlices, as lists in pages and as watches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

PATH = "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
TOKEN = "a-service-account"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def endpoint(address: str, uid: str | None = None, **conditions: bool | None) -> dict[str, Any]:
    """Return an endpoint. `conditions`: those that the server says something of."""
    target = {"targetRef": {"kind": "Pod", "uid": uid}} if uid else {}
    return {"addresses": [address], "conditions": conditions, **target}


def endpoint_slice(
    name: str, *endpoints: dict[str, Any], family: str = "IPv4", **fields: Any
) -> dict[str, Any]:
    """Return a slice at port 8080, named http. `fields`: over these."""
    return {
        "metadata": {"name": name, "namespace": "default"},
        "addressType": family,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": list(endpoints) or None,
        **fields,
    }


@dataclass
class KubernetesServer:
    """The slices of all Services, and what the server does instead of answering as it should.

    `on_list`, `on_watch`: serve the request, None for as the API does. `requests`: the queries that came.
    """

    url: str = ""
    page: int = 500
    slices: dict[str, dict[str, Any]] = field(default_factory=dict)
    version: int = 100
    on_list: Handler | None = None
    on_watch: Handler | None = None
    requests: list[dict[str, str]] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    events: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    @property
    def watches(self) -> list[dict[str, str]]:
        """The queries of the watches that came."""
        return [query for query in self.requests if "watch" in query]

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until something holds that changes with requests. Bound the wait with `asyncio.timeout`."""
        async with self.changed:
            await self.changed.wait_for(is_so)

    async def put(self, each: dict[str, Any]) -> None:
        """Add a slice, or replace the one with its name."""
        name = each["metadata"]["name"]
        await self._record("MODIFIED" if name in self.slices else "ADDED", each)
        self.slices[name] = each

    async def delete(self, name: str) -> None:
        """Delete a slice."""
        await self._record("DELETED", self.slices.pop(name))

    async def send(self, event: dict[str, Any]) -> None:
        """Send an event to all watches, as it is."""
        async with self.changed:
            self.version += 1
            self.events.append((self.version, event))
            self.changed.notify_all()

    async def _record(self, kind: str, each: dict[str, Any]) -> None:
        each["metadata"]["resourceVersion"] = str(self.version + 1)
        await self.send({"type": kind, "object": json.loads(json.dumps(each))})

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer a request."""
        query = dict(request.query)
        async with self.changed:
            self.requests.append(query)
            self.changed.notify_all()
        assert request.headers.get("Authorization") == f"Bearer {TOKEN}"
        assert query["labelSelector"] == "kubernetes.io/service-name=support"
        if "watch" in query:
            return await (self.on_watch or self.watch)(request)
        return await (self.on_list or self.list)(request)

    async def list(self, request: web.Request) -> web.Response:
        """Answer with a page of the slices."""
        start = int(request.query.get("continue", "0"))
        items = list(self.slices.values())[start : start + self.page]
        more = {"continue": str(start + self.page)} if start + self.page < len(self.slices) else {}
        version = {"resourceVersion": str(self.version), **more}
        return web.json_response({"kind": "EndpointSliceList", "metadata": version, "items": items})

    async def watch(self, request: web.Request) -> web.StreamResponse:
        """Send every event after the version that the client has, as they come."""
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        answer.enable_chunked_encoding()
        await answer.prepare(request)
        seen = int(request.query["resourceVersion"])
        while True:
            for version, event in [each for each in self.events if each[0] > seen]:
                seen = version
                await answer.write(json.dumps(event).encode() + b"\n")
            async with self.changed:
                while not self.events or self.events[-1][0] <= seen:
                    await self.changed.wait()


def status(code: int, reason: str) -> dict[str, Any]:
    """Return a Status, as the API says what failed."""
    return {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": f"so: {reason}"}


def refusing(code: int, reason: str) -> Handler:
    """Return a handler that answers every request with this status."""

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.json_response(status(code, reason), status=code)

    return handler


def write_kubeconfig(path: Path, url: str) -> None:
    """Write a configuration that leads to the server, with a token."""
    name = "test"
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": name,
                "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
                "clusters": [{"name": name, "cluster": {"server": url}}],
                "users": [{"name": name, "user": {"token": TOKEN}}],
            }
        )
    )


@asynccontextmanager
async def kubernetes_server() -> AsyncIterator[KubernetesServer]:
    """Run a stub of the API."""
    server = KubernetesServer()
    application = web.Application()
    application.router.add_get(PATH, server.serve)
    runner = web.AppRunner(application, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()
