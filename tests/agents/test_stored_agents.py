# SPDX-License-Identifier: BSD-2-Clause
"""Agents made through the API take what they leave out from the server's settings."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.agents.agent_rules import fit
from gateway.agents.instance_health import InstanceHealth
from gateway.api.pipecat_cloud.agent_models import agent_view
from gateway.api.pipecat_cloud.agent_scaling import AgentScaling
from gateway.config import Settings

NONE_RUN = AgentScaling(
    needed=0, running=0, starting=0, ready=0, draining=0, free_places=0, crash_loop=False, troubles=[]
)
CONFIGURED = {"name": "support", "organization": "acme"}
TWILIO = {"carrier": "twilio", "auth_tokens": ["a-token"]}


@pytest.mark.parametrize(
    ("server", "table", "websocket_auth", "shown"),
    [
        ({}, {}, "none", "none"),
        ({"host": "::"}, {}, "required", "token"),
        ({"host": "::"}, {"websocket_auth": "none"}, "none", "none"),
        ({"websocket_auth": "token"}, {}, "token", "token"),
        ({"public_url": "https://voice.example.com"}, {}, "required", "token"),
    ],
)
def test_an_agent_of_the_api_is_as_closed_as_one_of_the_file(
    server: dict[str, Any], table: dict[str, Any], websocket_auth: str, shown: str
) -> None:
    acme = {"name": "acme", "carriers": [TWILIO]}
    settings = Settings.model_validate({"server": server, "organizations": [acme], "agents": [CONFIGURED]})
    made = fit({"name": "made", "organization": "acme", **table}, settings)
    assert (made.websocket_auth, made.region) == (websocket_auth, "us-west")
    assert agent_view(made, None, 0, InstanceHealth([]), NONE_RUN).websocket_auth == shown
