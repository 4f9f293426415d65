# SPDX-License-Identifier: BSD-2-Clause
"""Which properties of a room and of a meeting token at Daily a client may set (docs.daily.co, POST /rooms and
POST /meeting-tokens).

A list of what is allowed, because Daily keeps adding what costs money or gives rights away: calls out,
recordings, transcripts, streams, SIP, hooks. The operator adds to both lists with `[organizations.daily]
room_properties` and `token_properties`. A feature that is only switched off needs no permission.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

ROOM_PROPERTIES: Final = frozenset(
    {
        "eject_after_elapsed",
        "enable_adaptive_simulcast",
        "enable_advanced_chat",
        "enable_chat",
        "enable_cpu_warning_notifications",
        "enable_emoji_reactions",
        "enable_hand_raising",
        "enable_hidden_participants",
        "enable_knocking",
        "enable_mesh_sfu",
        "enable_multiparty_adaptive_simulcast",
        "enable_network_ui",
        "enable_noise_cancellation_ui",
        "enable_people_ui",
        "enable_pip_ui",
        "enable_prejoin_ui",
        "enable_screenshare",
        "enable_shared_chat_history",
        "enable_terse_logging",
        "enable_video_processing_ui",
        "enforce_unique_user_ids",
        "exp",
        "experimental_optimize_large_calls",
        "geo",
        "lang",
        "max_participants",
        "nbf",
        "owner_only_broadcast",
        "sfu_switchover",
        "signaling_impl",
        "start_audio_off",
        "start_video_off",
    }
)
"""Properties of a room that neither cost anything nor give anybody rights."""

TOKEN_PROPERTIES: Final = frozenset(
    {
        "close_tab_on_exit",
        "eject_after_elapsed",
        "eject_at_token_exp",
        "enable_prejoin_ui",
        "enable_screenshare",
        "enable_terse_logging",
        "exp",
        "lang",
        "nbf",
        "redirect_on_meeting_exit",
        "start_audio_off",
        "start_video_off",
        "user_id",
        "user_name",
    }
)
"""Properties of a client's meeting token, likewise."""

DIALOUT: Final = "enable_dialout"
EJECT: Final = "eject_at_room_exp"
OWNER: Final = "is_owner"
"""Never a client's: an owner may call, record, eject, and make others owners."""

_SWITCH: Final = "enable_"


class PropertyRefused(ValueError):  # noqa: N818 - an answer, not a fault
    """A client may not set a property. `str()` names it, and the setting that would allow it."""


def check_room_properties(properties: Mapping[str, Any] | None, allowed: Collection[str]) -> None:
    """Raise PropertyRefused if a client may not set one of a room's properties.

    `allowed`: what the operator allows besides.
    """
    for name, value in (properties or {}).items():
        if name == EJECT and value is True:
            continue  # as we set it
        if name not in ROOM_PROPERTIES and name not in allowed and not _is_switched_off(name, value):
            raise PropertyRefused(_words(name, "room_properties"))


def check_token_properties(properties: Mapping[str, Any] | None, allowed: Collection[str]) -> None:
    """Raise PropertyRefused if a client may not set one of its meeting token's properties."""
    for name, value in (properties or {}).items():
        if name == OWNER:
            if value is None or value is False:
                continue  # as we set it
            raise PropertyRefused("is_owner: a client gets no owner's token")
        if name not in TOKEN_PROPERTIES and name not in allowed and not _is_switched_off(name, value):
            raise PropertyRefused(_words(name, "token_properties"))


def _is_switched_off(name: str, value: Any) -> bool:
    return name.startswith(_SWITCH) and (value is None or value is False)


def _words(name: str, setting: str) -> str:
    named = name if name.isascii() and name.isidentifier() and len(name) <= 64 else "a property"
    return f"{named} may be set where the operator allows it with organizations.daily.{setting}"
