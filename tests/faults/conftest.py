# SPDX-License-Identifier: BSD-2-Clause
"""Fixtures of the cases: a gateway with short limits, the rows, and the page made of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.case import MEMORY_MIB, Case
from tests.faults.launcher import Launcher
from tests.faults.report_page import PAGE, Row, page
from tests.faults.suite_settings import LIMITS, WAITS, agents_at, warmed
from tests.harness.agent import AgentPort
from tests.harness.gateway import Gateway
from tests.harness.prepared_process import patchbay_starts_anew  # noqa: F401 - a fixture

ROWS = pytest.StashKey[list[Row]]()
OUTCOMES = pytest.StashKey[dict[str, str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []
    config.stash[OUTCOMES] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    if report.skipped:
        item.config.stash[OUTCOMES][item.nodeid] = str(report.longrepr[2]).removeprefix("Skipped: ")
    return report


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write the page if every case was run, and none failed."""
    config = session.config
    chosen = config.option.keyword or config.option.markexpr or any(".py" in one for one in config.args)
    if exitstatus == 0 and not chosen and not config.option.collectonly:
        rows, skipped = config.stash[ROWS], list(config.stash[OUTCOMES].values())
        text = page(rows, skipped, memory_mib=MEMORY_MIB, waits=WAITS)
        PAGE.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def gateways() -> Iterator[list[Gateway]]:
    """The gateways of the module. Each must end well, also if another did not."""
    with contextlib.ExitStack() as ends:
        running: list[Gateway] = []
        yield running
        for gateway in running:
            ends.callback(gateway.end)


@pytest.fixture(scope="module")
def support_port() -> Iterator[AgentPort]:
    port = AgentPort()
    yield port
    port.free()


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway], support_port: AgentPort) -> Gateway:
    return start_gateway(agents=agents_at(support_port.url), limits=LIMITS)


@pytest.fixture(scope="module")
def bases() -> dict[int, int]:
    """The resident memory of each gateway before its first fault, by process id."""
    return {}


@pytest.fixture
async def base(gateway: Gateway, bases: dict[int, int], support_port: AgentPort) -> int:
    """The gateway's resident memory, in bytes, after its first calls."""
    return await warmed(gateway, bases, support_port)


@pytest.fixture(scope="module")
def on_the_way() -> str:
    """What the rows of the module say of the way to the gateway."""
    return ""


@pytest.fixture
def case(request: pytest.FixtureRequest, gateway: Gateway, base: int, on_the_way: str) -> Any:
    """Make the case of this test. Its group is its file's: that of test_gateway_….py is Gateway."""
    made: list[Case] = []

    def make(fault: str, *, of: Gateway = gateway, before: int = base) -> Case:
        group = request.path.stem.removeprefix("test_").partition("_")[0].capitalize()
        made.append(Case(group, fault + on_the_way, of, before))
        return made[-1]

    yield make
    request.config.stash[ROWS] += [one.row for one in made if one.row is not None]


@pytest.fixture
def launcher(start_gateway: Callable[..., Gateway], tmp_path: Path) -> Launcher:
    """Start gateways in surroundings that can be made to fail."""
    return Launcher(start_gateway, tmp_path)
