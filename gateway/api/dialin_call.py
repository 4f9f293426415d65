# SPDX-License-Identifier: BSD-2-Clause
"""What Daily's dial-in webhook says of a call (carriers.md §6.3)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

from gateway.api.operation import Style
from gateway.api.refusals import bad_json, invalid
from gateway.api.strict_json import BadJson, parse

log = structlog.get_logger(__name__)

MAX_FIELD_CHARACTERS: Final = 256
MAX_SIP_HEADERS: Final = 64
MAX_SIP_HEADER_CHARACTERS: Final = 1024

_SIP_HEADER_NAME: Final = re.compile(r"[!%'*+\-.`~0-9A-Za-z_]{1,128}")  # RFC 3261 §25.1, `token`


@dataclass(frozen=True, slots=True)
class Dialin:
    """A caller on hold, as the webhook told it. `sip_headers`: those that can be passed on."""

    call_id: str
    call_domain: str
    from_number: str
    to_number: str
    sip_headers: Mapping[str, str]


def read_dialin(raw: bytes) -> Dialin | None:
    """Reads the webhook's body; None for a probe, which is whatever has no `callId`. Raises Refusal.

    Also where `test` is set, as Pipecat's runner has it (carriers.md §6.2, §6.5).
    """
    try:
        given = parse(raw or b"{}")
    except BadJson as error:
        raise bad_json(str(error), Style.PCC) from None
    if not isinstance(given, dict) or given.get("test") or given.get("Test") or "callId" not in given:
        return None
    return Dialin(
        call_id=_text(given, "callId"),
        call_domain=_text(given, "callDomain"),
        from_number=_text(given, "From"),
        to_number=_text(given, "To"),
        sip_headers=_sip_headers(given.get("sipHeaders")),
    )


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_FIELD_CHARACTERS or not value.isprintable():
        words = f"{name} must be a text of 1 to {MAX_FIELD_CHARACTERS} characters that can be printed"
        raise invalid(words, Style.PCC, name)
    return value


def _sip_headers(given: object) -> dict[str, str]:
    """Names and texts that can stand in a SIP header; the agent's model takes no other (carriers.md §6.5).

    The rest is left out rather than refused: a caller is not turned away for a header.
    """
    if given is None:
        return {}
    found = {
        name: value
        for name, value in (given.items() if isinstance(given, dict) else ())
        if _SIP_HEADER_NAME.fullmatch(name)
        and isinstance(value, str)
        and len(value) <= MAX_SIP_HEADER_CHARACTERS
        and (value.isprintable() or not value)
    }
    kept = dict(list(found.items())[:MAX_SIP_HEADERS])
    left_out = len(given) - len(kept) if isinstance(given, dict) else 1
    if left_out:
        log.info("sip headers left out", count=left_out)
    return kept
