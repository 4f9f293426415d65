# SPDX-License-Identifier: BSD-2-Clause
"""`[agents.provider]`: an agent that is a provider's API, with no bot in between."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from pydantic import Field

from gateway.config.values import CarrierKey, Table

PROVIDER_URLS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "openai-realtime": "https://api.openai.com",
        "elevenlabs": "https://api.elevenlabs.io",
        "deepgram": "https://agent.deepgram.com",
    }
)
"""The public address of each provider's API (docs/reference/translation.md §3-5)."""

PROVIDER_DEFAULTS: Final[Mapping[str, Any]] = MappingProxyType(
    {"sessions_per_instance": 100, "health_interval": 0, "max_resumes": 0}
)
"""The settings of a provider's agent that says nothing else: a provider takes many calls at one address, has
no health check, and does not know a call again that it has lost.
"""


class Provider(Table):
    """`[agents.provider]`: what a provider's API is told, for an agent whose dialect is a provider's."""

    key: CarrierKey = Field(description="The key of the provider's API. Never printed.")
    agent: str = Field(
        default="", max_length=200, description="ElevenLabs' id of the agent that is configured there."
    )
    model: str = Field(
        default="",
        max_length=200,
        description="The model: OpenAI's (`gpt-realtime` unless set), or the one that Deepgram thinks with, "
        "as in `open_ai/gpt-4o-mini`.",
    )
    voice: str = Field(
        default="",
        max_length=200,
        description="The voice, by the provider's name or id. Left out: the provider's own.",
    )
    instructions: str = Field(
        default="",
        max_length=100_000,
        description="What the agent is to do. `{from}` and `{to}` stand for the numbers, and other names in "
        "braces for custom parameters of the call.",
    )
    greeting: str = Field(
        default="",
        max_length=10_000,
        description="What it says first, with the same names. Left out: the caller speaks first, but for an "
        "agent that is configured otherwise at its provider.",
    )


def with_provider_defaults(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a table of `[[agents]]` with what a provider's agent has where the table says nothing."""
    url = PROVIDER_URLS.get(str(table.get("dialect")))
    return table if url is None else {"instances": [url], **PROVIDER_DEFAULTS, **table}
