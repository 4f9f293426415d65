# SPDX-License-Identifier: BSD-2-Clause
"""A gateway that is told to go while a call rings."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.simulator.waiting import eventually


@pytest.fixture(scope="module")
def tables() -> dict[str, Any]:
    return {"server": {"drain_timeout": 0.3}}


async def test_what_rings_is_hung_up_before_it_goes(outbound: Any) -> None:
    session, phone = await outbound.dial("telnyx")
    await phone.rings()
    outbound.gateway.terminate()
    await eventually(lambda: phone.hung_up, "the telephone rings no more")
    assert await outbound.gateway.ended() == 0
    record = await outbound.ended(session)
    assert (record["state"], record["reason"]) == ("failed", "draining")
