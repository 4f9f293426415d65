# SPDX-License-Identifier: BSD-2-Clause
"""A wish for a call out, and what every call out works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.calls.wishes import Wishes
from gateway.carriers.calls import CallBook
from gateway.carriers.rest import DialRequest, MachineDetection
from gateway.config import AgentSettings, CarrierAccount, Organization
from gateway.dialing.dial_line import Line
from gateway.sessions.store import Store


@dataclass(frozen=True, slots=True)
class DialWish:
    """Who is to be called.

    `to`, `from_number`: E.164. `body`: for the agent, base64 of JSON, None for none. `timeout_s`: seconds
    that it may wait in line, and again that it may ring. `machine_detection`: "detect" hangs up on a machine,
    "wait_for_end" lets the agent talk after its greeting. `metadata`: the client's own, JSON text.
    """

    agent: AgentSettings
    organization: Organization
    account: CarrierAccount
    to: str
    from_number: str
    body: str | None = None
    timeout_s: float = 60.0
    machine_detection: MachineDetection | None = None
    metadata: str | None = None


@dataclass(frozen=True, slots=True)
class DialMeans:
    """What every call out works with.

    `request`: of a wish and a session's id. `pause_s`: seconds between two looks at a call that rings.
    `now`: Unix seconds.
    """

    store: Store
    book: CallBook
    line: Line
    wishes: Wishes
    request: Callable[[DialWish, str], DialRequest]
    pause_s: Callable[[], float]
    now: Callable[[], float]
