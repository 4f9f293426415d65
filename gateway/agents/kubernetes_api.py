# SPDX-License-Identifier: BSD-2-Clause
"""EndpointSlices as the Kubernetes API has them: lists, and watches that end.

Of kubernetes-asyncio this uses how it finds the server and authenticates, and its requests. Its `Watch` is
not used: it reconnects without a pause, repeats a 410 with the version that was refused, and has no timeout.
Nor are its models, which cost more than the rest of a list of a thousand endpoints.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import random
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp
import msgspec

from gateway.agents.endpoint_slices import EndpointSlice, Metadata
from gateway.config.source_urls import KubernetesSource
from gateway.dns.http_connector import open_connector

ANSWER_S: Final = 10.0
"""Seconds that the head of an answer, or a page of a list, may take."""

CONNECT_S: Final = 5.0

WATCH_S: Final = 90
"""Seconds after which the server is to end a watch; up to a third more, so that workers do not come at once.
"""

SILENT_S: Final = 15.0
"""Seconds beyond them after which the connection counts as lost."""

PAGE: Final = 500
MAX_SLICES: Final = 2000
"""Slices in a page, and in all. A slice has at most 1,000 endpoints, and usually 100."""

MAX_BYTES: Final = 32 * 1024 * 1024
"""Of a page."""

MAX_EVENT_BYTES: Final = 4 * 1024 * 1024
"""An object has at most about 1.5 MiB, which is etcd's limit."""

SERVICE_LABEL: Final = "kubernetes.io/service-name"
TOKEN: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")

_Read = TypeVar("_Read")


class ApiFailed(Exception):  # noqa: N818 - named for what happened
    """The API gave no answer that can be used. The message completes "SOURCE: …"."""


class Expired(Exception):  # noqa: N818 - an answer, not a fault
    """The version is too old (410): what happened since is not known any more. List again."""


class SliceList(msgspec.Struct, frozen=True):
    """A page of a list."""

    metadata: Metadata
    items: list[EndpointSlice] | None = None


class Event(msgspec.Struct, frozen=True):
    """An event of a watch. `object`: a slice, a bookmark, or a Status if `type` is ERROR."""

    type: str
    object: msgspec.Raw


class Status(msgspec.Struct, frozen=True):
    """The server's words on a failure."""

    code: int = 0
    message: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A slice that is new or different, or is gone if `is_deleted`; only a version if `slice` is None."""

    version: str
    slice: EndpointSlice | None = None
    is_deleted: bool = False


class KubernetesApi:
    """The EndpointSlices of one Service. Use `open_api`."""

    def __init__(self, discovery: Any, source: KubernetesSource, unusable: type[Exception]) -> None:
        """`discovery`: kubernetes-asyncio's DiscoveryV1Api. `unusable`: raised for a bad token file, too."""
        self._discovery = discovery
        self._source = source
        self._unusable = unusable

    async def list_slices(self) -> tuple[dict[str, EndpointSlice], str]:
        """Return all slices by name, and the version of the list. Raises ApiFailed, Expired."""
        slices: dict[str, EndpointSlice] = {}
        token: str | None = None
        while True:
            more = {"_continue": token} if token else {}
            async with _limit(ANSWER_S), self._request(limit=PAGE, **more) as answer:
                page = _decode(await _body(answer), SliceList)
            slices |= {each.metadata.name: each for each in page.items or ()}
            token = page.metadata.continue_
            if len(slices) > MAX_SLICES:
                raise ApiFailed(f"it has more than {MAX_SLICES} EndpointSlices")
            if not token:
                return slices, page.metadata.resource_version

    async def watch(self, version: str) -> AsyncGenerator[list[Change], None]:
        """Yield what changes after a version, as it comes, until the server ends the watch.

        Raises ApiFailed, Expired.
        """
        watch_s = random.randint(WATCH_S, WATCH_S * 4 // 3)  # noqa: S311 - it spreads requests
        async with (
            _limit(watch_s + SILENT_S),
            self._request(
                watch=True, resource_version=version, allow_watch_bookmarks=True, timeout_seconds=watch_s
            ) as answer,
        ):
            async for lines in _lines(answer):
                yield [_change(_decode(line, Event)) for line in lines]

    @asynccontextmanager
    async def _request(self, **options: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request, and yield its answer, whose head has come and says that it went well."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
        try:
            async with _limit(ANSWER_S):
                answer: aiohttp.ClientResponse = await self._discovery.list_namespaced_endpoint_slice(
                    self._source.namespace,
                    label_selector=f"{SERVICE_LABEL}={self._source.service}",
                    _preload_content=False,
                    _request_timeout=timeout,
                    **options,
                )
            async with answer:
                if answer.status != HTTPStatus.OK:
                    async with _limit(ANSWER_S):
                        raise await _failure(answer)
                yield answer
        except aiohttp.ClientError as error:
            raise ApiFailed(f"the connection failed: {type(error).__name__}") from None
        except (OSError, ValueError, self._unusable) as error:
            raise ApiFailed(f"it could not be asked: {type(error).__name__}") from None


@asynccontextmanager
async def open_api(source: KubernetesSource) -> AsyncIterator[KubernetesApi]:
    """Find the server and how to authenticate, and yield the API of one source.

    Inside a pod the service account counts, elsewhere the kubeconfig file. Raises ApiFailed;
    ModuleNotFoundError without the library.
    """
    client, config = await _load_library()
    configuration = client.Configuration()
    try:
        if "KUBERNETES_SERVICE_HOST" in os.environ and await asyncio.to_thread(TOKEN.exists):
            config.load_incluster_config(client_configuration=configuration)
        else:
            async with _limit(ANSWER_S):  # it may run a program for a token
                await config.load_kube_config(
                    config_file=os.environ.get("KUBECONFIG"),
                    client_configuration=configuration,
                    persist_config=False,
                )
        api = client.ApiClient(configuration)
    except ApiFailed:
        raise
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the file: it ends this try
        words = str(error).splitlines()[0] if isinstance(error, config.ConfigException) and str(error) else ""
        raise ApiFailed(f"no configuration for the API: {words or type(error).__name__}") from None
    try:
        await api.rest_client.close()
        api.rest_client.pool_manager = aiohttp.ClientSession(
            connector=open_connector(ssl=_tls_of(configuration)), trust_env=True, read_bufsize=2**20
        )
        yield KubernetesApi(client.DiscoveryV1Api(api), source, config.ConfigException)
    finally:
        await api.close()


async def _load_library() -> tuple[Any, Any]:
    def load() -> tuple[Any, Any]:
        names = ("kubernetes_asyncio.client", "kubernetes_asyncio.config")
        client, config = map(importlib.import_module, names)
        return client, config

    return await asyncio.to_thread(load)  # it takes a fifth of a second


def _tls_of(configuration: Any) -> ssl.SSLContext:
    """Return what kubernetes-asyncio makes of its configuration for its own session (client/rest.py)."""
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if configuration.disable_strict_ssl_verification:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


@asynccontextmanager
async def _limit(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise ApiFailed(f"no answer within {seconds:g} s") from None


def _change(event: Event) -> Change:
    match event.type:
        case "ERROR":
            status = _decode(event.object, Status)
            if status.code == HTTPStatus.GONE:
                raise Expired
            raise ApiFailed(
                f"the watch failed: {status.code} {status.message or status.reason or ''}".rstrip()
            )
        case "ADDED" | "MODIFIED" | "DELETED":
            found = _decode(event.object, EndpointSlice)
            return Change(found.metadata.resource_version, found, is_deleted=event.type == "DELETED")
        case _:  # BOOKMARK, whose object has a version and nothing else
            return Change(_decode(event.object, EndpointSlice).metadata.resource_version)


async def _failure(answer: aiohttp.ClientResponse) -> Exception:
    if answer.status == HTTPStatus.GONE:
        return Expired()
    try:
        status = msgspec.json.decode(await _body(answer), type=Status)
        words = status.message or status.reason or ""
    except (ApiFailed, msgspec.MsgspecError):
        words = answer.reason or ""
    return ApiFailed(f"the API answers {answer.status}: {words[:300]}")


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > MAX_BYTES:
            raise ApiFailed(f"the answer has more than {MAX_BYTES} bytes")
    return bytes(body)


async def _lines(answer: aiohttp.ClientResponse) -> AsyncGenerator[list[bytes], None]:
    """Yield the lines of an answer as they come; one that is cut off at its end is none."""
    rest = b""
    async for chunk in answer.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_EVENT_BYTES:
            raise ApiFailed(f"an event has more than {MAX_EVENT_BYTES} bytes")
        if lines := [line for line in lines if line.strip()]:
            yield lines


def _decode(text: bytes | msgspec.Raw, kind: type[_Read]) -> _Read:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise ApiFailed("the answer is none of the API") from None
