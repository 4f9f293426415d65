# SPDX-License-Identifier: BSD-2-Clause
"""Authentication of API requests by their bearer key."""

from __future__ import annotations

from typing import Any


async def test_a_revoked_key_is_401_at_once(api: Any) -> None:
    record, key = await api.api_keys.create("globex", "private", "the server")
    reply = await api("GET", "/v1/toys", key=key)
    assert (reply.status, reply.json["organization"]) == (200, "globex")
    await api.api_keys.revoke("globex", record.id)
    assert (await api("GET", "/v1/toys", key=key)).status == 401
