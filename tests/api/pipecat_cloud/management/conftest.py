# SPDX-License-Identifier: BSD-2-Clause
"""The management API over real HTTP and a store in a file, for two organisations."""

from __future__ import annotations

import socket
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from gateway.agents.directory import AgentDirectory
from gateway.agents.instance_health import InstanceHealth
from gateway.api.framework.dispatch import routes
from gateway.api.framework.handler_services import Services
from gateway.api.framework.middleware import ApiMiddleware, http_exception
from gateway.api.pipecat_cloud.conventions import CLI_TAG, REST_TAG
from gateway.api.routes import OPERATIONS
from gateway.config import Settings
from gateway.model.lifecycle import SessionState
from gateway.model.reasons import Reason
from gateway.model.session import CallDetails, SessionOptions, SessionResult, SlotLimits, Traffic
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId
from tests.harness.wiring import wire

ANSWER_S = 60.0
HERE = "http://127.0.0.1:8080"
THERE = "http://127.0.0.1:8081"

TABLES: dict[str, Any] = {
    "organizations": [
        {
            "name": "acme",
            "public_keys": ["pk_acme"],
            "private_keys": ["sk_acme", "pcc_pat_acme"],
            "daily": {"api_key": "daily-key-of-acme"},
        },
        {"name": "globex", "public_keys": ["pk_globex"], "private_keys": ["sk_globex"]},
    ],
    "agents": [
        {
            "name": "support",
            "organization": "acme",
            "instances": [HERE, THERE],
            "min_agents": 1,
            "max_agents": 5,
            "max_session_duration": 900,
            "websocket_auth": "token",
        },
        {"name": "night", "organization": "acme", "region": "eu-central", "instances": [HERE]},
        {"name": "sales", "organization": "globex", "instances": ["http://127.0.0.1:9090"]},
    ],
}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer."""

    status: int
    headers: dict[str, str]
    json: Any


class Worker:
    """A worker's API at work, with the store of all."""

    def __init__(self, services: Services, url: str, client: aiohttp.ClientSession) -> None:
        self.services = services
        self.store = services.calls.store
        self.directory = services.calls.agents
        self._url = url
        self._client = client
        self._calls = 0

    async def __call__(
        self, method: str, path: str, *, key: str | None = "sk_acme", value: Any = None
    ) -> Reply:
        """One request. `value`: the body."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        given = {} if value is None else {"json": value}
        async with self._client.request(method, f"{self._url}{path}", headers=headers, **given) as answer:
            body = await answer.json() if answer.content_type == "application/json" else await answer.read()
            return Reply(answer.status, dict(answer.headers), body)

    async def begins(
        self,
        agent: str = "support.acme",
        at: float = 1000.0,
        *,
        running_after: float | None = 0.5,
        **options: Any,
    ) -> str:
        """A session of the agent that has its place, and runs unless `running_after` is None."""
        session_id = str(uuid.uuid4())
        name, organization = agent.split(".")
        details = CallDetails(
            session_id=session_id,
            agent=f"{name}.{organization}",
            organization=organization,
            region="us-west",
            carrier="twilio",
            call_id=f"CA{session_id}",
            stream_id=None,
            from_number="+15550001111",
            to_number="+15559876543",
        )
        await self.store.admit(details, SlotLimits(((HERE, 0),), 100, 100), at, SessionOptions(**options))
        if running_after is not None:
            await self.store.mark_running(session_id, at + running_after)
        return session_id

    async def ends(
        self, session_id: str, state: SessionState, reason: Reason, at: float, **more: Any
    ) -> None:
        """Its end."""
        result = SessionResult(
            state, at, reason.code, reason.party, "", reason.close_code, Traffic(), None, **more
        )
        await self.store.end(session_id, result)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "patchbay.db"


@pytest.fixture
async def work(file: Path) -> AsyncIterator[Callable[..., Any]]:
    """Puts a worker to work. `agents`: more of its file. `server`: settings. All have the same store."""
    async with AsyncExitStack() as ends:
        client = await ends.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_S))
        )

        async def begin(*, agents: Sequence[dict[str, Any]] = (), **server: Any) -> Worker:
            tables = {**TABLES, "agents": [*TABLES["agents"], *agents]}
            settings = Settings(**tables, server=server, limits={"requests_burst": 10_000})
            store = SqliteStore(file, WorkerId.of_this_process(uuid.uuid4().hex))
            await store.open()
            ends.push_async_callback(store.close)
            directory = AgentDirectory(settings)
            services = Services(
                *wire(settings, store, directory, InstanceHealth(()), None), bots=None, http=client
            )
            app = Starlette(
                routes=routes(
                    [each for each in OPERATIONS if each.tag in (REST_TAG, CLI_TAG, "Reports")], services
                ),
                middleware=[Middleware(ApiMiddleware)],
                exception_handlers={HTTPException: http_exception},
            )
            # Only where the protocol is named does asyncio turn off Nagle's algorithm.
            port = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            port.bind(("127.0.0.1", 0))
            config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None, access_log=False)
            config.load()
            server_ = uvicorn.Server(config)
            server_.lifespan = config.lifespan_class(config)
            await server_.startup(sockets=[port])
            ends.push_async_callback(server_.shutdown, sockets=[port])
            return Worker(services, f"http://127.0.0.1:{port.getsockname()[1]}", client)

        yield begin


@pytest.fixture
async def api(work: Callable[..., Any]) -> Worker:
    """One worker."""
    worker: Worker = await work()
    return worker


@pytest.fixture(params=["rest", "cli"])
def agents(request: pytest.FixtureRequest) -> str:
    """Where agents are, in each of the two spellings."""
    return {"rest": "/v1/agents", "cli": "/v1/organizations/acme/services"}[request.param]


@pytest.fixture(params=["/v1", "/v1/organizations/acme"])
def root(request: pytest.FixtureRequest) -> str:
    """What the paths of an organisation's things begin with, in each of the two spellings."""
    return str(request.param)
