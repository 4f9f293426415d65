# SPDX-License-Identifier: BSD-2-Clause
"""For modules whose tests are about frames: each runs with the accelerator, and without."""

from __future__ import annotations

import pytest

from gateway.fastpath.accelerator import ACTIVE


@pytest.fixture(scope="module", params=["on", "off"] if ACTIVE else ["off"])
def accelerator(request: pytest.FixtureRequest) -> str:
    """Whether frames may pass in C."""
    return str(request.param)
