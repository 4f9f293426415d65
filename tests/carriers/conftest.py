# SPDX-License-Identifier: BSD-2-Clause
"""What the tests of the carriers' sides share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """For requests to the carriers."""
    async with aiohttp.ClientSession() as session:
        yield session
