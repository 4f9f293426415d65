# SPDX-License-Identifier: BSD-2-Clause
"""A worker whose organisation has a domain at Daily, with numbers, and an agent for the calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.api.webhooks import dialin
from gateway.api.webhooks.dialin import DIALIN
from tests.harness.agent import AgentPort
from tests.harness.daily_dialin import OLD_SECRET, SECRET
from tests.harness.daily_numbers_server import DailyWithNumbers
from tests.harness.daily_server import API_KEY
from tests.harness.http_requests import serving
from tests.harness.start_api import Worker, tables

LONGEST_S = 900


@pytest.fixture
async def daily() -> AsyncIterator[DailyWithNumbers]:
    server = await DailyWithNumbers().start()
    yield server
    await server.stop()


@pytest.fixture
def settings(port: AgentPort, daily: DailyWithNumbers) -> dict[str, Any]:
    secrets = [OLD_SECRET, SECRET]
    return tables(
        port.url,
        agent={"max_session_duration": LONGEST_S},
        acme={"daily": {"api_key": API_KEY, "api_url": daily.api_url, "webhook_secrets": secrets}},
        limits={"agent_connect_timeout": 5},
    )


@pytest.fixture
async def url(worker: Worker) -> AsyncIterator[str]:
    async with serving(worker, DIALIN) as address:
        yield f"{address}/v1/public/webhooks/acme/support/dialin"


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Daily waits as long as it takes, so that a slow machine is no failure."""
    monkeypatch.setattr(dialin, "ANSWER_S", 20.0)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Daily does not wait at all."""
    monkeypatch.setattr(dialin, "ANSWER_S", 0.0)
