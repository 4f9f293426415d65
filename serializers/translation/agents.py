# SPDX-License-Identifier: BSD-2-Clause
"""All dialects of agents, by the name that `dialect` of `[[agents]]` has for them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from serializers import exotel, pcm16, pipecat, plivo, telnyx, twilio, vonage
from serializers.agent_dialect import AgentDialect
from serializers.events import AudioFormat
from serializers.translation.carrier_style import CarrierStyle, hex_id, twilio_id, uuid_id

_MULAW: Final = AudioFormat("mulaw", 8000)
_LINEAR: Final = AudioFormat("linear16", 8000)

AGENT_DIALECTS: Final[Mapping[str, AgentDialect]] = MappingProxyType(
    {
        "twilio": CarrierStyle(twilio.DIALECT, _MULAW, twilio_id, "marks", numbers_as_parameters=True),
        "telnyx": CarrierStyle(telnyx.DIALECT, _MULAW, uuid_id, "marks"),
        "plivo": CarrierStyle(plivo.DIALECT, _MULAW, uuid_id, "cleared", numbers_as_parameters=True),
        "exotel": CarrierStyle(exotel.DIALECT, _LINEAR, hex_id, "marks"),
        "vonage": vonage.DIALECT,
        "pcm16": pcm16.PLAIN,
        "pipecat": pipecat.DIALECT,
    }
)
