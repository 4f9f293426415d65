# SPDX-License-Identifier: BSD-2-Clause
"""The treatment of callers without a connected agent: the settings `after`, `busy`, `hold`, `overflow`,
`fallback`.

Each is one text in the configuration and one value in the settings, parsed once, here. `text_of` gives the
text back as it was written, for `patchbay check` and for agents in the store. The values of `after` and
`busy` are those of texml/document.py, because carriers' documents are written from them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from gateway.config.values import check_phone_number
from gateway.model.addresses import is_agent_name, is_label, is_phone_number, split_service_host
from texml.document import (
    AfterStream,
    Busy,
    Dial,
    HangUp,
    OwnXml,
    Play,
    Queue,
    Redirect,
    Reject,
    Say,
)

RECORDING_SUFFIX: Final = ".wav"

RecordingCheck = Callable[[Path], object]
"""Raises ValueError, with words, for a recording that cannot be played."""

CHECK_RECORDING: Final = "check_recording"
"""The key of pydantic's validation context for a RecordingCheck. Without one no file is read."""


@dataclass(frozen=True, slots=True)
class Ringback:
    """The ringback tone, which the gateway generates."""


@dataclass(frozen=True, slots=True)
class NoAudio:
    """No audio at all."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A WAV file to play. `file`: its name, relative to the working directory unless it is absolute."""

    file: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """The refusal of the call."""


@dataclass(frozen=True, slots=True)
class OtherAgent:
    """Another agent of the organisation, whose slots are tried. `service_host`: `AGENT.ORG`."""

    service_host: str


@dataclass(frozen=True, slots=True)
class TransferTo:
    """A transfer of the call by its carrier. `number`: in E.164 form."""

    number: str


Hold = Ringback | NoAudio | Recording
Overflow = Refuse | OtherAgent | TransferTo | Recording
Fallback = HangUp | TransferTo | Recording
CallHandling = AfterStream | Busy | Hold | Overflow | Fallback


def parse_hold(text: str) -> Hold:
    """Parse what a waiting caller hears. Raises ValueError with words."""
    if text == "ringback":
        return Ringback()
    if text == "none":
        return NoAudio()
    if not text.endswith(RECORDING_SUFFIX):
        raise ValueError(f"must be ringback, none, or a file whose name ends in {RECORDING_SUFFIX}")
    return Recording(text)


def parse_overflow(text: str) -> Overflow:
    """Parse what becomes of a call for which there is no slot. Raises ValueError with words."""
    if text == "refuse":
        return Refuse()
    if text.endswith(RECORDING_SUFFIX):
        return Recording(text)
    if text.startswith("+"):
        return TransferTo(check_phone_number(text))
    agent, organization = split_service_host(text)
    if not (is_agent_name(agent) and is_label(organization)):
        raise ValueError(
            "must be refuse, the service host AGENT.ORG of an agent, a number in E.164 form, or a file "
            f"whose name ends in {RECORDING_SUFFIX}"
        )
    return OtherAgent(text)


def looks_like_agent(overflow: str) -> bool:
    """Return True if a text of `overflow`, which need not be valid, can only mean a service host."""
    return "." in overflow and not overflow.startswith("+") and not overflow.endswith(RECORDING_SUFFIX)


def parse_fallback(text: str) -> Fallback:
    """Parse what becomes of a caller whose agent is lost. Raises ValueError with words."""
    if text.endswith(RECORDING_SUFFIX):
        return Recording(text)
    if text == "hangup":
        return HangUp()
    if not is_phone_number(text):
        raise ValueError(
            f"must be hangup, a number in E.164 form, or a file whose name ends in {RECORDING_SUFFIX}"
        )
    return TransferTo(text)


def text_of(value: CallHandling) -> str:  # noqa: PLR0911, PLR0912 - a table
    """Return the text that a value was parsed from."""
    match value:
        case HangUp():
            return "hangup"
        case Redirect():
            return "redirect"
        case Reject():
            return "reject"
        case Queue():
            return "queue"
        case Say(text):
            return value.written or f"say {text}"
        case Play(url):
            return value.written or f"play {url}"
        case OwnXml(elements):
            return elements
        case Ringback():
            return "ringback"
        case NoAudio():
            return "none"
        case Refuse():
            return "refuse"
        case OtherAgent(service_host):
            return service_host
        case Recording(file):
            return file
        case Dial(number) | TransferTo(number):
            return number


@dataclass(frozen=True, slots=True)
class ParsedText:
    """Annotation of a field whose value is parsed from a text, and serialised as that text again."""

    parse: Callable[[str], CallHandling]

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        """See pydantic, "Customizing validation with `__get_pydantic_core_schema__`"."""
        return core_schema.with_info_after_validator_function(
            self._validate,
            core_schema.str_schema(),
            serialization=core_schema.plain_serializer_function_ser_schema(
                text_of, return_schema=core_schema.str_schema()
            ),
        )

    def _validate(self, text: str, info: ValidationInfo) -> CallHandling:
        value = self.parse(text)
        check: RecordingCheck | None = (info.context or {}).get(CHECK_RECORDING)
        if isinstance(value, Recording) and check is not None:
            check(Path(value.file))
        return value
