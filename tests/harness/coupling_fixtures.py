# SPDX-License-Identifier: BSD-2-Clause
"""Fixtures that run a module's outbound calls once with each way of coupling the two sides of a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.harness.gateway import Gateway

COUPLINGS = {"in C": ("on", "bytes"), "in Python": ("off", "bytes"), "through messages": ("on", "messages")}


@pytest.fixture(scope="module", params=COUPLINGS)
def coupling(request: pytest.FixtureRequest) -> tuple[str, str]:
    found: tuple[str, str] = COUPLINGS[request.param]
    return found


@pytest.fixture(scope="module")
def tables(coupling: tuple[str, str]) -> dict[str, Any]:
    return {"support": {"media": coupling[1]}}


@pytest.fixture(scope="module")
def start_gateway(start_gateway: Callable[..., Gateway], coupling: tuple[str, str]) -> Callable[..., Gateway]:
    def start(**tables: Any) -> Gateway:
        return start_gateway(accelerator=coupling[0], **tables)

    return start
