# SPDX-License-Identifier: BSD-2-Clause
"""The `body` that an inbound call's agent gets (docs/sockets.md, "What reaches the agent")."""

from __future__ import annotations

from typing import Final

from gateway.calls.call_setup import CallSetup
from gateway.calls.services import CallServices
from gateway.calls.target import Target
from gateway.carriers.agent_body import from_parameters, is_ours, with_custom
from gateway.carriers.registry import CARRIERS
from serializers.events import Start

_OUR_NUMBERS: Final = ("from_number", "to_number")
"""Custom parameters that bots get under shorter names."""


def body_for_agent(
    services: CallServices, setup: CallSetup, target: Target, start: Start | None
) -> str | None:
    """Return the body for the agent: the query's, that of an outbound call, or the parameters'.

    Custom data is added where bots find it nowhere else, but not to a body that a token is bound to.
    """
    if start is None:
        return target.body
    max_bytes = services.settings.limits.max_body_bytes
    body = target.body
    if body is None:
        owned = setup.ownership.body if setup.ownership is not None else None
        body = owned if owned is not None else from_parameters(start.parameters, max_bytes)
    profile = CARRIERS[target.carrier].profile
    if profile.bots_read_parameters or setup.credentials.session is not None:
        return body
    custom: dict[str, str | None] = {**start.parameters, **dict(target.custom)}
    if not profile.sends_numbers:
        custom["from"] = start.from_number or custom.get("from")
        custom["to"] = start.to_number or custom.get("to")
        custom = {name: value for name, value in custom.items() if name not in _OUR_NUMBERS}
    own = {name: value for name, value in custom.items() if value and not is_ours(name)}
    return with_custom(body, own, max_bytes) if own else body
