# SPDX-License-Identifier: BSD-2-Clause
"""Accounts with the carriers' REST servers, and outbound calls, for tests of the carriers' clients."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from gateway.carriers.registry import CARRIERS
from gateway.carriers.rest_interface import CarrierFailed, CarrierRest, DialRequest
from gateway.config import CarrierAccount
from tests.harness import rest_exotel, rest_plivo, rest_telnyx, rest_twilio
from tests.harness.rest_server import RestServer

SERVERS = {
    "twilio": rest_twilio.TwilioServer,
    "telnyx": rest_telnyx.TelnyxServer,
    "plivo": rest_plivo.PlivoServer,
    "exotel": rest_exotel.ExotelServer,
}
CREDENTIALS: dict[str, dict[str, Any]] = {
    "twilio": {"account": rest_twilio.ACCOUNT, "auth_tokens": [rest_twilio.AUTH_TOKEN]},
    "telnyx": {"api_key": rest_telnyx.API_KEY, "connection_id": rest_telnyx.CONNECTION},
    "plivo": {"auth_id": rest_plivo.AUTH_ID, "auth_tokens": [rest_plivo.AUTH_TOKEN]},
    "exotel": {
        "account": rest_exotel.ACCOUNT,
        "auth_id": rest_exotel.API_KEY,
        "auth_tokens": [rest_exotel.API_TOKEN],
    },
}
SECRETS = (rest_twilio.AUTH_TOKEN, rest_telnyx.API_KEY, rest_plivo.AUTH_TOKEN, rest_exotel.API_TOKEN)
TO, FROM = "+14155550142", "+14155550199"
STREAM_TOKEN = "tok3nOfTheStream"


def account(carrier: str, api_url: str | None, **changed: Any) -> CarrierAccount:
    return CarrierAccount.model_validate(
        {"carrier": carrier, "api_url": api_url} | CREDENTIALS[carrier] | changed
    )


def rest(
    server: RestServer, carrier: str, http: aiohttp.ClientSession, timeout_s: float | None = None
) -> CarrierRest:
    """The carrier's REST for the server's account; `timeout_s`: how long it is waited for."""
    return make_client(account(carrier, server.api_url), http, timeout_s)


def make_client(
    account: CarrierAccount, http: aiohttp.ClientSession, timeout_s: float | None = None
) -> CarrierRest:
    """Return the REST client of an account. `timeout_s`: seconds that it waits for an answer."""
    rest_class = CARRIERS[account.carrier].rest_class
    assert rest_class is not None
    return rest_class(account, http) if timeout_s is None else rest_class(account, http, timeout_s=timeout_s)


def dial_request(**changed: Any) -> DialRequest:
    asked: dict[str, Any] = {
        "to": TO,
        "from_number": FROM,
        "answer_url": "https://gw.test/xml/answer?session=s-1",
        "stream_url": f"wss://gw.test/ws/twilio/support.acme/{STREAM_TOKEN}",
        "document": None,
        "status_callback": "https://gw.test/callbacks/carrier/s-1",
        "ring_timeout_s": 30,
        "time_limit_s": 3600,
        "session_id": "s-1",
    }
    return DialRequest(**asked | changed)


async def failure(work: Any) -> CarrierFailed:
    """Run the work, which must fail; return the failure."""
    with pytest.raises(CarrierFailed) as caught:
        await work
    return caught.value
