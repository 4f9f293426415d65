# SPDX-License-Identifier: BSD-2-Clause
"""A gateway that is told to go while a call rings."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.simulator.waiting import eventually


@pytest.fixture(scope="module")
def tables() -> dict[str, Any]:
    return {"server": {"drain_timeout": 0.3}}


async def test_what_rings_is_hung_up_before_it_goes(office: Any) -> None:
    session, phone = await office.dial("telnyx")
    await phone.rings()
    office.gateway.terminate()
    await eventually(lambda: phone.hung_up, "the telephone rings no more")
    assert await office.gateway.ended() == 0
    record = await office.over(session)
    assert (record["state"], record["reason"]) == ("failed", "draining")
