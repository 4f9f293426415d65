# SPDX-License-Identifier: BSD-2-Clause
"""One outbound call in the test's own loop: a real call on a real store, with a fake carrier client."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from gateway.calls.command_bus import CommandBus
from gateway.calls.outbound.dial_limits import CpsLimiter
from gateway.calls.outbound.outbound_call import OutboundCall, OutboundServices
from gateway.calls.outbound.outbound_request import OutboundRequest
from gateway.calls.outbound.outbound_state import OutboundEvent, OutboundState
from gateway.calls.session_end import SessionEnd
from gateway.carriers.call_log import CallLog
from gateway.carriers.rest_interface import CarrierFailed, DialedCall, DialRequest, MachineDetection
from gateway.config import AgentSettings, CarrierAccount, Organization
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import CallDetails, SlotLimits
from gateway.simulator.waiting import eventually
from gateway.store.notifications import Topic
from gateway.store.sqlite.sqlite_store import SqliteStore

INSTANCE = "http://127.0.0.1:8080"
TO, FROM = "+14155550142", "+14155550199"
ACCOUNT = CarrierAccount.model_validate(
    {"carrier": "twilio", "account": "AC1", "auth_tokens": ["t"], "calls_per_second": 10_000}
)
AGENT = AgentSettings(name="support", organization="acme", region="us-west")


class FakeCarrier:
    """A carrier's REST client. It gives the answers in `answers`, and records what it was asked.

    `holds_hang_up`: a hang-up is answered when `may_hang_up` is set. `found`: the result of a search.
    """

    name = "twilio"
    unsupported: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self, *answers: DialedCall | CarrierFailed, repeats_safely: bool = False, holds_hang_up: bool = False
    ) -> None:
        self.repeats_safely = repeats_safely
        self.answers: asyncio.Queue[DialedCall | CarrierFailed] = asyncio.Queue()
        for answer in answers:
            self.answers.put_nowait(answer)
        self.may_hang_up = asyncio.Event()
        if not holds_hang_up:
            self.may_hang_up.set()
        self.found: DialedCall | None = None
        self.dialed = 0
        self.hung_up: list[tuple[str, bool]] = []

    async def dial(self, request: DialRequest) -> DialedCall:
        self.dialed += 1
        answer = await self.answers.get()
        if isinstance(answer, CarrierFailed):
            raise answer
        return answer

    async def hang_up(self, call_id: str, *, answered: bool = True) -> bool:
        await self.may_hang_up.wait()
        self.hung_up.append((call_id, answered))
        return True

    async def transfer(
        self,
        call_id: str,
        to: str,
        *,
        document: str | None,
        document_url: str | None,
        caller_id: str | None,
        time_limit_s: int | None = None,
    ) -> None:
        raise AssertionError

    async def send_dtmf(self, call_id: str, digits: str) -> None:
        raise AssertionError

    async def find(
        self, request: DialRequest, *, since: float, known: Collection[str] = ()
    ) -> DialedCall | None:
        return self.found


class Turns:
    """A rate limiter that lets a call dial when the test calls `release`."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(0)

    async def wait_for_turn(self, account: CarrierAccount, max_wait_s: float) -> None:
        await self._free.acquire()

    def release(self) -> None:
        self._free.release()


class RecordedCall(OutboundCall):
    """An outbound call that records its steps: the state, the event, and the next state."""

    def __init__(self, *arguments: Any) -> None:
        self.steps: list[tuple[OutboundState, OutboundEvent, OutboundState]] = []
        super().__init__(*arguments)

    def _step(self, event: OutboundEvent) -> None:
        before = self.state
        super()._step(event)
        self.steps.append((before, event, self.state))


class Dialing:
    """One outbound call, its carrier, and the store that other workers write to."""

    def __init__(self, store: SqliteStore, carrier: FakeCarrier, turns: Turns | None = None) -> None:
        """`turns`: None for a rate limiter that does not let the call wait."""
        self.store = store
        self.carrier = carrier
        self.call_log = CallLog(store, time.time)
        self.turns = turns
        self.looks = 0
        self.session_id = str(uuid.uuid4())
        self.call: RecordedCall

    async def start(
        self, *, machine_detection: MachineDetection | None = None, timeout_s: float = 60.0
    ) -> None:
        """Admit the session and start to dial."""
        limits = SlotLimits(((INSTANCE, 0),), 1, 1)
        await self.store.admit(self._details(), limits, time.time())
        commands = CommandBus(self.store, time.time)
        commands.connect(lambda session_id, command: True)
        services = OutboundServices(
            store=self.store,
            call_log=self.call_log,
            cps=self.turns or CpsLimiter(self.store.key_values, time.time),  # type: ignore[arg-type]
            commands=commands,
            dial_request=_dial_request,
            look_s=self._look_s,
            now=time.time,
        )
        request = OutboundRequest(
            AGENT,
            Organization(name="acme"),
            ACCOUNT,
            TO,
            FROM,
            timeout_s=timeout_s,
            machine_detection=machine_detection,
        )
        self.call = RecordedCall(services, request, self.carrier, self.session_id)

    def _look_s(self) -> float:
        self.looks += 1
        return 0.0

    def _details(self, **ids: str) -> CallDetails:
        no_ids: dict[str, str | None] = {"call_id": None, "stream_id": None}
        return CallDetails(
            session_id=self.session_id,
            agent=AGENT.service_host,
            organization=AGENT.organization,
            region=AGENT.region,
            carrier="twilio",
            from_number=FROM,
            to_number=TO,
            **(no_ids | ids),
        )

    async def attach_stream(self) -> None:
        """Attach the call's stream to its session, as the worker does that the stream arrives at."""
        await self.store.attach_stream(self._details(call_id="CA1", stream_id="MZ1"), time.time())

    async def end_session(self) -> None:
        """End the session, as the worker does that has its stream."""
        end = SessionEnd(self.session_id, CallEnded(Reasons.caller_hangup), time.time(), ran=True)
        await self.store.end(self.session_id, end.result())

    async def reaches(self, state: OutboundState) -> None:
        await eventually(lambda: self.call.state is state, f"the call is {state}")

    async def makes_step(self, number: int) -> None:
        """Wait until the call has made its step of this number, from 0."""
        await eventually(lambda: len(self.call.steps) > number, f"step {number}")

    async def cancel(self) -> None:
        """Cancel the call where it stands."""
        self.call.task.cancel()
        await asyncio.wait([self.call.task])

    async def settle(self) -> None:
        """Wait until the call has seen everything that was written before.

        A call that looks at the store must do so three times more; every other one gets the loop three times,
        each time after the store has answered.
        """
        if self.call.state in (OutboundState.UNCERTAIN, OutboundState.RINGING, OutboundState.ATTACHED):
            for _ in range(3):
                seen = self.looks
                self.store.notifications.publish(Topic.SESSION_CHANGED, self.session_id)
                await eventually(lambda seen=seen: self.looks > seen, "the call has looked")
        for _ in range(3):
            await self.store.session(self.session_id)
            await asyncio.sleep(0)


def _dial_request(request: OutboundRequest, session_id: str) -> DialRequest:
    url = "https://gw.test"
    return DialRequest(request.to, request.from_number, url, "wss://gw.test", None, url, 5, 60, session_id)
