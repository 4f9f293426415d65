# SPDX-License-Identifier: BSD-2-Clause
"""How a call reaches its agent: the request for its socket, and the translator that it needs if the agent is
written for something else than the call's carrier.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import structlog

from gateway.agents.media_socket import MediaTarget, media_target
from gateway.calls.call_setup import BridgeSettings
from gateway.config import AgentSettings
from gateway.config.agent_settings import AS_CARRIER
from gateway.model.reasons import CallEnded, Reasons
from serializers.agent_dialect import AgentDialect
from serializers.dialect import DialectError
from serializers.pcm16 import WITH_EVENTS
from serializers.providers.provider import ProviderDialect, ProviderSettings
from serializers.providers.registry import PROVIDERS
from serializers.translation.agents import AGENT_DIALECTS
from serializers.translation.translator import Translator

log = structlog.get_logger(__name__)

MAX_WORDS: Final = 500
"""Characters of an agent's own words that are logged."""


@dataclass(frozen=True, slots=True)
class AgentEndpoint:
    """The request for the agent's socket, and the translator for what passes there; None if bytes do."""

    target: MediaTarget
    translator: Translator | None


def agent_endpoint(
    agent: AgentSettings, settings: BridgeSettings, session_id: str, carrier: str
) -> AgentEndpoint:
    """Return how a call reaches its agent, with a new translator.

    `agent`: as it is now. `settings`: of the call; its agent may be as it was before.

    Raises CallEnded: bad_opening if the sound of the call cannot be translated; bad_request for a client
    without a dialect, whose messages nobody knows, if the agent needs them translated.
    """
    dialect, start = settings.dialect, settings.start
    spoken = None if agent.dialect == AS_CARRIER else _dialect_of(agent)
    target = media_target(
        agent,
        settings.query,
        session_id=session_id,
        carrier=carrier,
        call_id=start.call_id if start else None,
    )
    if isinstance(spoken, ProviderDialect):
        if start is None:
            raise CallEnded(Reasons.bad_request, "the agent takes calls of carriers only")
        request = spoken.request()
        path, _, query = request.path.partition("?")
        target = MediaTarget(path, query, headers=request.headers)
    if spoken is None or dialect is None or start is None or spoken.name == dialect.name:
        return AgentEndpoint(target, None)
    try:
        translator = Translator(
            dialect,
            start,
            spoken,
            sample_rate=agent.audio_rate,
            own_document=settings.ownership is not None,
            on_problem=lambda words: log.warning(
                "agent reports an error",
                session=session_id,
                agent=agent.service_host,
                error=words[:MAX_WORDS],
            ),
        )
    except DialectError as error:
        raise CallEnded(Reasons.bad_opening, str(error)) from None
    return AgentEndpoint(target, translator)


def _dialect_of(agent: AgentSettings) -> AgentDialect:
    make, given = PROVIDERS.get(agent.dialect), agent.provider
    if make is not None and given is not None:
        return make(
            ProviderSettings(
                key=given.key.get_secret_value(),
                agent=given.agent,
                model=given.model,
                voice=given.voice,
                instructions=given.instructions,
                greeting=given.greeting,
            )
        )
    if agent.start_message and agent.dialect == WITH_EVENTS.name:
        return WITH_EVENTS
    return AGENT_DIALECTS[agent.dialect]
