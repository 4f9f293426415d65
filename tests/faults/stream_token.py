# SPDX-License-Identifier: BSD-2-Clause
"""The URL of a stream with a token, made without the document."""

from __future__ import annotations

import json
import sqlite3
import time
from types import SimpleNamespace

from gateway.auth.call_tokens import Audience
from gateway.auth.media_tokens import CallGrant, MediaTokens
from tests.harness.gateway import Gateway
from tests.harness.transcripts import IDS


def url_with_token(gateway: Gateway) -> str:
    """Return the URL of Plivo's stream for the transcript's call, which Plivo dials again when it breaks."""
    connection = sqlite3.connect(f"file:{gateway.store}?mode=ro", uri=True)
    (value,) = connection.execute(
        "SELECT value FROM document WHERE kind = 'secret' AND key = 'tokens'"
    ).fetchone()
    connection.close()
    tokens = MediaTokens(bytes.fromhex(json.loads(value)), SimpleNamespace(key_values=None), time.time)
    token = tokens.mint_call(Audience("support.acme", "acme", "plivo"), CallGrant(call_id=IDS["plivo"][0]))
    return f"/ws/plivo?serviceHost=support.acme&token={token}"
