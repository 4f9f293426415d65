# SPDX-License-Identifier: BSD-2-Clause
"""Which translator a call needs, if its agent is written for something else than its carrier."""

from __future__ import annotations

from gateway.config import AgentSettings
from gateway.config.agent_settings import AS_CARRIER
from gateway.model.reasons import CallEnded, Reasons
from serializers.dialect import Dialect, DialectError
from serializers.events import Start
from serializers.pcm16 import WITH_EVENTS
from serializers.translation.agents import AGENT_DIALECTS
from serializers.translation.translator import Translator


def translator_for(
    agent: AgentSettings, dialect: Dialect | None, start: Start | None, *, own_document: bool
) -> Translator | None:
    """Return a new translator between a call's carrier and its agent; None if bytes pass as they come.

    `dialect`, `start`: None for a client without a dialect, whose messages nobody knows.
    `own_document`: see `Dialect.agent_audio`.

    Raises CallEnded(bad_opening) if the sound of the call cannot be translated.
    """
    if agent.dialect == AS_CARRIER or dialect is None or start is None or agent.dialect == dialect.name:
        return None
    spoken = AGENT_DIALECTS[agent.dialect]
    if agent.start_message and spoken.name == WITH_EVENTS.name:
        spoken = WITH_EVENTS
    try:
        return Translator(dialect, start, spoken, sample_rate=agent.audio_rate, own_document=own_document)
    except DialectError as error:
        raise CallEnded(Reasons.bad_opening, str(error)) from None
