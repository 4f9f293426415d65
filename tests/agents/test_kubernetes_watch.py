# SPDX-License-Identifier: BSD-2-Clause
"""Instances behind a Kubernetes Service, by a stub of its API: what comes and goes, and an API that fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiohttp import web

from gateway.agents import kubernetes_api, kubernetes_watch, retry_pauses
from gateway.agents.kubernetes_watch import watch_kubernetes
from gateway.agents.source_report import SourceReport
from gateway.config.source_urls import KubernetesSource
from gateway.simulator.waiting import WAIT_S
from tests.harness.kubernetes_server import (
    KubernetesServer,
    endpoint,
    endpoint_slice,
    kubernetes_server,
    refusing,
    status,
    write_kubeconfig,
)

SOURCE = "kubernetes://default/support:http"
FIRST, SECOND, THIRD = (f"http://10.0.0.{n}:8080" for n in (1, 2, 3))


class Found:
    """What a watch has reported, in order."""

    def __init__(self) -> None:
        self.faults: dict[str, str] = {}
        self.urls: list[str] | None = None
        self.told: list[str] = []
        self._changed = asyncio.Event()
        self.report = SourceReport(SOURCE, self._take, self.faults)

    def _take(self, urls: Sequence[str]) -> None:
        self.urls = list(urls)

    @property
    def fault(self) -> str:
        """What is wrong now."""
        return self.faults.get(SOURCE, "")

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until this holds."""
        async with asyncio.timeout(WAIT_S):
            while not is_so():
                await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def quick_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make pauses short."""
    monkeypatch.setattr(retry_pauses, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(retry_pauses, "LONGEST_PAUSE_S", 0.02)


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KubernetesServer]:
    """Run an API that has two endpoints, and a configuration that leads to it."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    async with kubernetes_server() as server:
        write_kubeconfig(tmp_path / "config", server.url)
        server.slices["a"] = endpoint_slice("a", endpoint("10.0.0.1", "p1"), endpoint("10.0.0.2", "p2"))
        yield server


@asynccontextmanager
async def watching() -> AsyncIterator[Found]:
    """Watch the Service."""
    found = Found()
    task = asyncio.create_task(watch_kubernetes(KubernetesSource("default", "support", "http"), found.report))
    try:
        yield found
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_pods_that_come_and_go_are_seen_at_once(server: KubernetesServer) -> None:
    async with watching() as found:
        await found.until(lambda: found.urls == [FIRST, SECOND])
        await server.until(lambda: bool(server.watches))
        await server.put(endpoint_slice("b", endpoint("10.0.0.3", "p3")))
        await found.until(lambda: found.urls == [FIRST, SECOND, THIRD])
        await server.put(endpoint_slice("a", endpoint("10.0.0.1", "p1", serving=True, terminating=True)))
        await found.until(lambda: found.urls == [THIRD])
        await server.delete("b")
        await found.until(lambda: found.urls == [])
        assert not found.fault
        assert len(server.requests) == 2  # a list, and a watch that goes on


async def test_a_list_in_pages_is_read_to_its_end(server: KubernetesServer) -> None:
    server.page = 1
    server.slices["b"] = endpoint_slice("b", endpoint("10.0.0.3", "p3"))
    async with watching() as found:
        await found.until(lambda: found.urls == [FIRST, SECOND, THIRD])
    assert [query.get("continue") for query in server.requests if "watch" not in query] == [None, "1"]


async def test_every_request_has_limits(server: KubernetesServer) -> None:
    async with watching() as found:
        await found.until(lambda: bool(server.watches))
    (watch,) = server.watches
    assert kubernetes_api.WATCH_S <= int(watch["timeoutSeconds"]) < 2 * kubernetes_api.WATCH_S
    assert watch["resourceVersion"] == "100"
    assert watch["allowWatchBookmarks"] == "True"
    assert server.requests[0]["limit"] == str(kubernetes_api.PAGE)


async def test_a_bookmark_says_from_where_the_next_watch_goes_on(server: KubernetesServer) -> None:
    async def ending(request: web.Request) -> web.StreamResponse:
        bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "777"}}}
        if len(server.watches) > 1:
            return await server.watch(request)
        return web.Response(text=json.dumps(bookmark) + "\n")

    server.on_watch = ending
    async with watching() as found:
        await found.until(lambda: len(server.watches) == 2)
        assert server.watches[1]["resourceVersion"] == "777"
        assert found.urls == [FIRST, SECOND]
    assert len(server.requests) == 3  # no second list


@pytest.mark.parametrize("as_event", [True, False])
async def test_an_expired_version_is_listed_again_and_the_pods_stay_meanwhile(
    server: KubernetesServer, as_event: bool
) -> None:
    async def expired(_: web.Request) -> web.StreamResponse:
        server.on_watch = None
        server.version = 500
        server.slices["b"] = endpoint_slice("b", endpoint("10.0.0.3", "p3"))
        gone = status(410, "Expired")
        if as_event:
            return web.Response(text=json.dumps({"type": "ERROR", "object": gone}) + "\n")
        return web.json_response(gone, status=410)

    server.on_watch = expired
    async with watching() as found:
        await found.until(lambda: found.urls == [FIRST, SECOND])
        await found.until(lambda: found.urls == [FIRST, SECOND, THIRD])
        await server.until(lambda: len(server.watches) == 2)
        assert server.watches[1]["resourceVersion"] == "500"
        assert not found.fault


async def test_a_page_that_has_expired_begins_the_list_anew(server: KubernetesServer) -> None:
    server.page = 1
    server.slices["b"] = endpoint_slice("b", endpoint("10.0.0.3", "p3"))

    async def once(request: web.Request) -> web.StreamResponse:
        if "continue" in request.query:
            server.on_list = None
            return web.json_response(status(410, "Expired"), status=410)
        return await server.list(request)

    server.on_list = once
    async with watching() as found:
        await found.until(lambda: found.urls == [FIRST, SECOND, THIRD])


async def test_a_server_that_closes_at_once_is_not_asked_without_pauses(
    server: KubernetesServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    next_s = retry_pauses.RetryPauses.next_s

    def counted(self: retry_pauses.RetryPauses) -> float:
        pauses.append(next_s(self))
        return pauses[-1]

    async def closes(_: web.Request) -> web.StreamResponse:
        return web.Response(text="")

    monkeypatch.setattr(retry_pauses.RetryPauses, "next_s", counted)
    server.on_watch = closes
    async with watching() as found:
        await server.until(lambda: len(server.watches) >= 4)
        assert found.urls == [FIRST, SECOND]
        assert not found.fault
        assert len(pauses) >= 3


async def test_a_watch_that_lasted_is_followed_by_the_next_without_a_pause(
    server: KubernetesServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_watch, "STEADY_S", 0.0)
    monkeypatch.setattr(retry_pauses, "FIRST_PAUSE_S", 1e6)

    async def closes(_: web.Request) -> web.StreamResponse:
        return web.Response(text="")

    server.on_watch = closes
    async with watching(), asyncio.timeout(WAIT_S):
        await server.until(lambda: len(server.watches) >= 3)


@pytest.mark.parametrize(
    ("code", "reason"), [(403, "Forbidden"), (401, "Unauthorized"), (404, "NotFound"), (500, "InternalError")]
)
async def test_a_refusal_is_told_and_what_was_found_stays(
    server: KubernetesServer, code: int, reason: str
) -> None:
    async with watching() as found:
        await found.until(lambda: found.urls == [FIRST, SECOND] and bool(server.watches))
        server.on_list = server.on_watch = refusing(code, reason)
        await server.send({"type": "ERROR", "object": status(410, "Expired")})
        await found.until(lambda: f"the API answers {code}: so: {reason}" in found.fault)
        assert found.urls == [FIRST, SECOND]
        server.on_list = server.on_watch = None
        await server.put(endpoint_slice("b", endpoint("10.0.0.3", "p3")))
        await found.until(lambda: found.urls == [FIRST, SECOND, THIRD] and not found.fault)


async def test_an_api_that_hangs_is_given_up_and_asked_again(
    server: KubernetesServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_api, "ANSWER_S", 0.1)

    async def hangs(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    server.on_list = hangs
    async with watching() as found:
        await found.until(lambda: "no answer within" in found.fault)
        server.on_list = None
        await found.until(lambda: found.urls == [FIRST, SECOND] and not found.fault)


async def test_a_list_that_never_ends_is_given_up(
    server: KubernetesServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_api, "ANSWER_S", 0.1)

    async def trickles(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b" ")
            await asyncio.sleep(0.01)

    server.on_list = trickles
    async with watching() as found:
        await found.until(lambda: "no answer within" in found.fault)


async def test_a_watch_that_falls_silent_for_ever_is_given_up(
    server: KubernetesServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_api, "WATCH_S", 0)
    monkeypatch.setattr(kubernetes_api, "SILENT_S", 0.1)
    async with watching() as found, asyncio.timeout(WAIT_S):
        await server.until(lambda: len(server.watches) >= 2)
        assert found.urls == [FIRST, SECOND]


@pytest.mark.parametrize(
    "body", ["garbage", "[]", "{}", '{"metadata": 1}', '{"metadata": {}, "items": [1]}', "\udcff"]
)
async def test_an_answer_that_is_no_list_is_told_and_what_was_found_stays(
    server: KubernetesServer, body: str
) -> None:
    async def garbage(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body.encode("utf-8", "surrogateescape"))

    async with watching() as found:
        await found.until(lambda: found.urls == [FIRST, SECOND] and bool(server.watches))
        server.on_list = garbage
        await server.send({"type": "ERROR", "object": status(410, "Expired")})
        await found.until(lambda: "none of the API" in found.fault)
        assert found.urls == [FIRST, SECOND]


@pytest.mark.parametrize(
    "line", ["garbage", '{"type": "ADDED"}', '{"type": "ADDED", "object": 3}', '{"type": ']
)
async def test_an_event_that_is_none_is_told_and_everything_is_listed_again(
    server: KubernetesServer, line: str
) -> None:
    async def garbage(_: web.Request) -> web.StreamResponse:
        server.on_watch = None
        server.slices["b"] = endpoint_slice("b", endpoint("10.0.0.3", "p3"))
        server.version += 1
        return web.Response(text=line + "\n")

    server.on_watch = garbage
    async with watching() as found:
        await found.until(lambda: found.urls == [FIRST, SECOND, THIRD] and not found.fault)


async def test_an_event_of_any_length_is_given_up(
    server: KubernetesServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_api, "MAX_EVENT_BYTES", 1000)

    async def endless(request: web.Request) -> web.StreamResponse:
        return web.Response(text="x" * 2000)

    server.on_watch = endless
    async with watching() as found:
        await found.until(lambda: "more than 1000 bytes" in found.fault)


async def test_a_missing_configuration_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    async with watching() as found:
        await found.until(lambda: "no configuration for the API" in found.fault)
        assert found.urls is None


async def test_a_server_that_is_away_is_told_and_found_when_it_is_back(
    server: KubernetesServer, tmp_path: Path
) -> None:
    write_kubeconfig(tmp_path / "config", "http://127.0.0.1:1")
    async with watching() as found:
        await found.until(lambda: "the connection failed" in found.fault)
        write_kubeconfig(tmp_path / "config", server.url)
        await found.until(lambda: found.urls == [FIRST, SECOND] and not found.fault)


async def test_inside_a_pod_its_service_account_counts(
    server: KubernetesServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("")
    monkeypatch.setattr(kubernetes_api, "TOKEN", token)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    async with watching() as found:
        await found.until(lambda: "Service token file does not exist" in found.fault)
