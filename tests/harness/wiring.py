# SPDX-License-Identifier: BSD-2-Clause
"""Connect the parts that carry calls, as gateway/app.py does, for tests that run them in their own loop."""

from __future__ import annotations

from typing import Any, NamedTuple

from gateway.calls.active import ActiveCalls
from gateway.calls.dispatcher import Dispatcher
from gateway.calls.outbound.outbound_calls import OutboundCalls
from gateway.calls.services import CallServices, make_call_services


class Wiring(NamedTuple):
    """One worker's calls: the first fields of the API's `Services`, in their order."""

    calls: CallServices
    active: ActiveCalls
    outbound: OutboundCalls
    dispatcher: Dispatcher


def wire(*parts: Any, **options: Any) -> Wiring:
    """Make the call services of `make_call_services`, and what carries calls with them."""
    calls, active = make_call_services(*parts, **options), ActiveCalls()
    outbound = OutboundCalls(calls, active)
    return Wiring(calls, active, outbound, Dispatcher(calls, active, outbound))
