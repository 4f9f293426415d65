# SPDX-License-Identifier: BSD-2-Clause
"""Each simulated carrier's behaviour beyond its messages: ids, numbers, dialled URLs, answers to a clear."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl

from serializers.events import AudioFormat

SERVICE_HOST_PARAMETER = "_pipecatCloudServiceHost"
SERVICE_HOST_QUERY = "serviceHost"

EXOTEL_SAMPLE_RATES = (8000, 16000, 24000)
"""Hz, chosen by `?sample-rate=` on the URL (docs/reference/carriers.md §5.1)."""

EXOTEL_PARAMETERS = 3
"""Query parameters that Exotel hands on in `start` (docs/reference/carriers.md §5.1)."""


@dataclass(frozen=True, slots=True)
class Ids:
    """The ids of a call, in the carrier's form."""

    call_id: str
    stream_id: str
    account_id: str


@dataclass(frozen=True, slots=True)
class SimulatedCarrier:
    """The behaviour of one simulated carrier.

    `keeps_query`: whether a query string on the stream's URL survives (docs/reference/carriers.md §1).
    `clear_returns_marks`: whether a clear sends back the marks whose audio it dropped.
    `clear_is_confirmed`: whether a clear is answered with a message of its own.
    `sends_numbers`: whether `start` carries the caller's and the called number.
    `min_chunk_bytes`, `chunk_multiple`: audio of other sizes is played with gaps
    (docs/reference/carriers.md §5.2).
    `counts_unix_time`: whether media timestamps are Unix time rather than ms since the stream began.
    """

    make_ids: Callable[[], Ids]
    from_number: str
    to_number: str
    keeps_query: bool = True
    clear_returns_marks: bool = True
    clear_is_confirmed: bool = False
    sends_numbers: bool = True
    min_chunk_bytes: int = 1
    chunk_multiple: int = 1
    counts_unix_time: bool = False


def _twilio_ids() -> Ids:
    return Ids(
        "CA" + secrets.token_hex(16), "MZ" + secrets.token_hex(16), "AC00000000000000000000000000000001"
    )


def _telnyx_ids() -> Ids:
    return Ids("v3:" + secrets.token_urlsafe(40), str(uuid.uuid4()), "3E6F995F-85F7-4705-9741-53B116D28237")


def _plivo_ids() -> Ids:
    return Ids(str(uuid.uuid4()), str(uuid.uuid4()), "MAXXXXXXXXXXXXXXXXXX")


def _exotel_ids() -> Ids:
    return Ids(secrets.token_hex(16), secrets.token_hex(16), "exampleaccount1")


PROFILES: dict[str, SimulatedCarrier] = {
    "twilio": SimulatedCarrier(
        _twilio_ids, "+14155550100", "+14155550199", keeps_query=False, sends_numbers=False
    ),
    "telnyx": SimulatedCarrier(_telnyx_ids, "+13125550100", "+13125550199"),
    "plivo": SimulatedCarrier(
        _plivo_ids,
        "14155550100",
        "14155550199",
        clear_returns_marks=False,
        clear_is_confirmed=True,
        sends_numbers=False,
        counts_unix_time=True,
    ),
    # Whether Exotel returns marks after a clear is not documented, so this one does not
    # (docs/reference/carriers.md §11, point 4).
    "exotel": SimulatedCarrier(
        _exotel_ids,
        "09990000105",
        "04440000319",
        clear_returns_marks=False,
        min_chunk_bytes=3200,
        chunk_multiple=320,
    ),
}
"""The profiles by the carrier's name."""


def audio_format(carrier: str, query: str) -> AudioFormat:
    """Return the format of a call's audio, given the query string of the URL that the carrier dials."""
    if carrier != "exotel":
        return AudioFormat("mulaw", 8000)
    sample_rate = dict(parse_qsl(query)).get("sample-rate", "8000")
    rates = {str(rate): rate for rate in EXOTEL_SAMPLE_RATES}
    return AudioFormat("linear16", rates.get(sample_rate, 8000))


def first_timestamp_ms(profile: SimulatedCarrier) -> int:
    """Return the value, in ms, from which the carrier's media timestamps count."""
    return int(time.time() * 1000) if profile.counts_unix_time else 0
