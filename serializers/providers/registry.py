# SPDX-License-Identifier: BSD-2-Clause
"""All providers, by the name that `dialect` of `[[agents]]` has for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from serializers.providers.deepgram import Deepgram
from serializers.providers.elevenlabs import ElevenLabs
from serializers.providers.openai_realtime import OpenAiRealtime
from serializers.providers.provider import ProviderSettings

PROVIDERS: Final[Mapping[str, Callable[[ProviderSettings], OpenAiRealtime | ElevenLabs | Deepgram]]] = (
    MappingProxyType({each.name: each for each in (OpenAiRealtime, ElevenLabs, Deepgram)})
)
