# SPDX-License-Identifier: BSD-2-Clause
"""Run a module's tests twice: with the accelerator, and without."""

from __future__ import annotations

import pytest

from gateway.fastpath.accelerator import ACTIVE


@pytest.fixture(scope="module", params=["on", "off"] if ACTIVE else ["off"])
def accelerator(request: pytest.FixtureRequest) -> str:
    """ "on" if frames may be relayed in C, else "off"."""
    return str(request.param)
