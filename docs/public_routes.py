# SPDX-License-Identifier: BSD-2-Clause
"""The table of docs/security.md: what every route answers to a client that has no key, signature or token.

A gateway is started with a plain configuration, as if it listened on 0.0.0.0, and every route of it is
requested. A route that this file has no words for is an error, so none is forgotten.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from os.path import commonpath
from pathlib import Path
from typing import Any, Final

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from gateway.api.framework.docs_page import reading_operations
from gateway.api.framework.operation import Access, Operation
from gateway.api.routes import OPERATIONS
from gateway.config import Settings
from gateway.simulator.free_ports import LOOPBACK
from gateway.simulator.gateway_process import GatewayProcess
from gateway.simulator.waiting import WAIT_S

PLAIN, CONFIGURED = "acme", "globex"
"""An organisation that has keys and an agent, and one that has configured everything that signs as well."""

SESSION: Final = "00000000-0000-4000-8000-000000000000"
ALL_INTERFACES: Final = "0.0.0.0"  # noqa: S104 - nothing listens there: see `settings`
HEALTH: Final = ("/livez", "/readyz", "/status")
SOCKETS: Final = ("/ws/generic/{service_host}", "/ws/{carrier}/{service_host}", "/ws/{carrier}")
SESSION_SOCKET: Final = "/v1/public/{agent}/sessions/{session_id}/{path}"
OTHER: Final = "/{anything}"

NEEDS: Final = {Access.PUBLIC: "nothing; it needs a key", Access.PRIVATE: "nothing; it needs a private key"}
NOTES: Final = {
    "/livez": "that the process lives",
    "/readyz": "whether it takes calls, and how many it still has while it drains",
    "/status": "counts of agents, instances, calls and sessions, version and regions; no names, no addresses",
    "/openapi.json": "the documentation of the API, the same for every gateway",
    "/docs": "the same as a page",
    "/docs/{file}": "the page's script and style sheet",
    "/v1/public/webhooks/{org}/{agent}/dialin": "nothing; Daily's probe is answered where it is configured",
    "/v1/public/webhooks/{org}/{agent}/whatsapp": "nothing",
    "/xml/{carrier}": "nothing",
    "/plivo-xml": "nothing",
    "/callbacks/{carrier}": "nothing; without an account that authenticates it changes nothing",
    "/callbacks/{carrier}/{session_id}/{document}": "nothing; the same as the next",
    "/callbacks/{carrier}/{session_id}/{what}": "nothing; who knows the id of a session whose carrier has no "
    "account that authenticates can report the status of its call",
    SOCKETS[0]: 'nothing; an agent with `websocket_auth = "none"` can be called',
    SOCKETS[1]: "nothing; the same",
    SOCKETS[2]: "an open socket for `start_timeout` at most, in which it names an agent in vain; the same",
    SESSION_SOCKET: "nothing; it needs a key",
    OTHER: "nothing",
}
"""What the client gets, by path."""

_FORM: Final = "application/x-www-form-urlencoded"
_START: Final[dict[str, Any]] = {
    "event": "start",
    "sequenceNumber": "1",
    "streamSid": "MZ1",
    "start": {
        "accountSid": "AC1",
        "streamSid": "MZ1",
        "callSid": "CA1",
        "tracks": ["inbound"],
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
    },
}


@dataclass(frozen=True, slots=True)
class Row:
    """A request, its answer for each organisation, and what the client gets, in Markdown."""

    request: str
    answers: dict[str, str]
    note: str


def settings() -> dict[str, Any]:
    """Return the tables of the gateway that is requested.

    It listens on this machine alone, with the defaults of a gateway that listens on every interface.
    """
    organizations: list[dict[str, Any]] = [
        {"name": PLAIN, "public_keys": ["pk_acme_0123456789"], "private_keys": ["sk_acme_0123456789"]},
        {
            "name": CONFIGURED,
            "public_keys": ["pk_globex_0123456789"],
            "private_keys": ["sk_globex_0123456789"],
            "daily": {"api_key": "a-key", "webhook_secrets": ["c2VjcmV0LXNlY3JldA=="]},
            "whatsapp": {"app_secrets": ["a-secret"]},
            "carriers": [
                {"carrier": "twilio", "auth_tokens": ["a-token"]},
                {"carrier": "plivo", "auth_tokens": ["a-token"]},
            ],
        },
    ]
    agents = [{"name": "support", "organization": name} for name in (PLAIN, CONFIGURED)]
    numbers = [{"number": "+15559876543", "agent": f"support.{PLAIN}"}]
    tables = {"organizations": organizations, "agents": agents, "numbers": numbers}
    server = {"public_url": "https://voice.example.com"}
    exposed = Settings.model_validate({**tables, "server": {**server, "host": ALL_INTERFACES}})
    server["websocket_auth"] = "required"
    assert Settings.model_validate({**tables, "server": server}).agents == exposed.agents
    return {**tables, "server": server}


def paths() -> list[str]:
    """Return the paths of the application's routes, as Starlette has them."""
    operations = [*OPERATIONS, *reading_operations(OPERATIONS, url=None)]
    return [*HEALTH, *dict.fromkeys(operation.path for operation in operations)]


@functools.cache
def table() -> str:
    """Return the table, in Markdown."""
    with (
        tempfile.TemporaryDirectory(prefix="patchbay-routes-") as directory,
        GatewayProcess(Path(directory), settings()) as gateway,
    ):
        rows = [*_http_rows(gateway), *_socket_rows(gateway)]
    head = ["Request", "Answer", "Configured, unsigned", "What a stranger gets"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        lines.append([row.request, row.answers[PLAIN], row.answers[CONFIGURED], row.note])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _http_rows(gateway: GatewayProcess) -> Iterator[Row]:
    for path in HEALTH:
        yield Row(f"GET `{path}`", _of_both(lambda _, path=path: _request(gateway, "GET", path)), NOTES[path])
    operations = [*OPERATIONS, *reading_operations(OPERATIONS, url=None)]
    # One row for the operations that answer alike and are for the same.
    rows: dict[tuple[str, str, str, str], list[Operation]] = {}
    for operation in operations:
        answers = _of_both(functools.partial(_request_operation, gateway, operation))
        needs_key = operation.access in NEEDS
        name = "" if needs_key else _shown(operation)
        note = NEEDS[operation.access] if needs_key else NOTES[name]
        rows.setdefault((name, answers[PLAIN], answers[CONFIGURED], note), []).append(operation)
    for (name, plain, configured, note), alike in rows.items():
        request = f"{' '.join(dict.fromkeys(each.method for each in alike))} `{name}`"
        if not name:
            request = f"{len(alike)} operations under `{commonpath([each.path for each in alike])}`"
        yield Row(request, {PLAIN: plain, CONFIGURED: configured}, note)
    for path in ("/ws/{carrier}", "/v1/{anything}", OTHER):
        answers = _of_both(lambda name, path=path: _request(gateway, "GET", _filled(path, name, "twilio")))
        yield Row(f"GET `{path}`", answers, "nothing")


def _shown(operation: Operation) -> str:
    """Return a path as the table has it: those of one kind alike."""
    path = operation.path.replace(":path}", "}")
    if path.startswith("/callbacks/{carrier}/") and not path.endswith("{session_id}/{what}"):
        return "/callbacks/{carrier}/{session_id}/{document}"
    return "/docs/{file}" if path.startswith("/docs/") else path


def _of_both(request: Any) -> dict[str, str]:
    return {organization: request(organization) for organization in (PLAIN, CONFIGURED)}


def _request_operation(gateway: GatewayProcess, operation: Operation, organization: str) -> str:
    carrier = "plivo" if operation.path == "/plivo-xml" else "twilio"
    path = _filled(operation.path, organization, carrier)
    body, content_type = b"{}", "application/json"
    if operation.path in ("/xml/{carrier}", "/plivo-xml"):
        path, body, content_type = f"{path}?agent=support&org={organization}", b"CallSid=CA1", _FORM
    elif operation.path.startswith("/callbacks/"):
        path, body, content_type = f"{path}?org={organization}", b"CallStatus=completed", _FORM
    elif operation.path.endswith("/dialin"):
        body = json.dumps(
            {"callId": "1", "callDomain": "1", "From": "+15550100", "To": "+15559876543"}
        ).encode()
    if operation.method == "GET":
        body, content_type = b"", ""
    return _request(gateway, operation.method, path, body, content_type)


def _filled(path: str, organization: str, carrier: str) -> str:
    """Return a path with every parameter filled in."""
    values = {
        "org": organization,
        "agent": "support",
        "service_host": f"support.{organization}",
        "carrier": carrier,
        "session_id": SESSION,
        "what": "status",
    }
    return re.sub(r"{(\w+)(:path)?}", lambda name: values.get(name[1], "anything"), path)


def _request(
    gateway: GatewayProcess, method: str, path: str, body: bytes = b"", content_type: str = ""
) -> str:
    """Return the status of the answer."""
    connection = http.client.HTTPConnection(LOOPBACK, gateway.port, timeout=WAIT_S)
    try:
        connection.request(method, path, body or None, {"Content-Type": content_type} if body else {})
        return str(connection.getresponse().status)
    finally:
        connection.close()


def _socket_rows(gateway: GatewayProcess) -> Iterator[Row]:
    for path in SOCKETS[:2]:
        answers = _of_both(lambda name, path=path: _upgrade(gateway, _filled(path, name, "twilio")))
        yield Row(f"upgrade `{path}`", answers, NOTES[path])
    answers = _of_both(functools.partial(_open_stream, gateway))
    yield Row(f"upgrade `{SOCKETS[2]}`", answers, NOTES[SOCKETS[2]])
    answers = _of_both(lambda name: _upgrade(gateway, _filled(SESSION_SOCKET, name, "")))
    yield Row(f"upgrade `{SESSION_SOCKET}`", answers, NOTES[SESSION_SOCKET])
    answers = _of_both(lambda _: _upgrade(gateway, "/anything"))
    yield Row(f"upgrade `{OTHER}`", answers, NOTES[OTHER])


def _upgrade(gateway: GatewayProcess, path: str) -> str:
    """Return the status of the answer to a WebSocket upgrade."""
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAECAwQFBgcICQoLDA0ODw==",
    }
    connection = http.client.HTTPConnection(LOOPBACK, gateway.port, timeout=WAIT_S)
    try:
        connection.request("GET", path, headers=headers)
        return str(connection.getresponse().status)
    finally:
        connection.close()


def _open_stream(gateway: GatewayProcess, organization: str) -> str:
    """Open a carrier's stream that names its agent in `start`; return the close code."""
    start = json.loads(json.dumps(_START))
    start["start"]["customParameters"] = {"_pipecatCloudServiceHost": f"support.{organization}"}
    with connect(f"{gateway.media_url}/ws/twilio", compression=None, open_timeout=WAIT_S) as socket:
        socket.send(json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"}))
        socket.send(json.dumps(start))
        with contextlib.suppress(ConnectionClosed):
            socket.recv(timeout=WAIT_S)
        return f"101, {socket.close_code}"
