# SPDX-License-Identifier: BSD-2-Clause
"""docs/security.md, "What a stranger gets": the table has every route of the application.

tests/test_docs.py compares the table with the answers of a running gateway.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from docs import public_routes
from gateway.app import _application
from tests.harness.start_api import running_worker

PAGE = Path(__file__).parents[2] / "docs" / "security.md"

ELSEWHERE = {"/ws/{target:path}", "/v1", "/v1/{rest:path}"}
"""Requests for media sockets, whose upgrades are requested (gateway/server/uvicorn_adapter.py), and all paths
that are none.
"""


async def test_every_route_of_the_application_is_requested(tmp_path: Path) -> None:
    async with running_worker(tmp_path / "patchbay.db", public_routes.settings()) as worker:
        batcher = cast(Any, SimpleNamespace(pause=lambda: None))
        application = _application(worker.services, batcher)
    served = {str(cast(Any, route).path) for route in application.routes}
    assert {*public_routes.paths(), *ELSEWHERE} == served


def test_nobody_who_has_nothing_gets_anything_but_health_and_documentation() -> None:
    """The words of the table are by hand; its answers are not."""
    part = PAGE.read_text().partition("<!-- routes -->")[2].partition("<!-- /routes -->")[0]
    rows = [line.strip("| ").split(" | ") for line in part.strip().splitlines()[2:]]
    assert len(rows) > len(public_routes.HEALTH)
    answered = {request for request, *answers, _ in rows if any(each.startswith("2") for each in answers)}
    paths = {request.partition("`")[2].rstrip("`") for request in answered}
    assert paths == {*public_routes.HEALTH, "/openapi.json", "/docs", "/docs/{file}"}
