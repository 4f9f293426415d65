# SPDX-License-Identifier: BSD-2-Clause
"""The settings of an agent at a provider, and its interface: a dialect of one call, and how it is reached."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from serializers.agent_dialect import AgentDialect, ClearAnswer
from serializers.events import AudioFormat, Start

PLACEHOLDER: Final = re.compile(r"\{([A-Za-z0-9_.-]{1,100})\}")
"""A name in braces: in instructions it stands for a custom parameter of the call, or for `from` and `to`."""


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """An operator's settings of a provider's agent; "" for the provider's own choice.

    `key`: of the provider's API. `agent`: the provider's id of an agent that is configured there.
    """

    key: str = field(repr=False)
    agent: str = ""
    model: str = ""
    voice: str = ""
    instructions: str = ""
    greeting: str = ""


@dataclass(frozen=True, slots=True)
class ProviderRequest:
    """The request that opens a provider's socket. `path`: with its query; `headers` hold the key."""

    path: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)


class ProviderDialect(AgentDialect):
    """A provider's messages in one call. It has a state, so each call has one of its own."""

    frame_ms: int | None = 20
    clear_answer: ClearAnswer = "nothing"
    held_s = 600.0  # it sends a whole answer at once, and that the caller speaks comes behind it

    @abstractmethod
    def request(self) -> ProviderRequest:
        """Return the request for the socket."""

    def start_of(self, start: Start, audio: AudioFormat) -> Start:
        return start


def filled(text: str, start: Start) -> str:
    """Return a text with the call's data in place of their names in braces; unknown names stay."""
    known: Mapping[str, str | None] = {
        "from": start.from_number,
        "to": start.to_number,
        **start.parameters,
    }
    return PLACEHOLDER.sub(lambda match: known.get(match[1]) or match[0], text)


def call_data(start: Start) -> dict[str, str]:
    """Return the call's custom parameters and its numbers, as `from` and `to`."""
    numbers = {"from": start.from_number, "to": start.to_number}
    return {**{name: number for name, number in numbers.items() if number}, **start.parameters}
