# SPDX-License-Identifier: BSD-2-Clause
"""Calls out that nobody takes, and carriers that leave open whether there is a call; all times made short."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from gateway.calls.command_bus import CommandBus
from gateway.calls.outbound import outbound_call
from gateway.calls.outbound.dial_limits import CpsLimiter
from gateway.calls.outbound.outbound_call import OutboundCall
from gateway.calls.outbound.outbound_request import OutboundRequest, OutboundServices
from gateway.carriers.call_log import CallLog, CallStatus
from gateway.carriers.rest_interface import CarrierFailed, DialedCall, DialRequest, MachineDetection
from gateway.config import AgentSettings, CarrierAccount, Organization
from gateway.model.reasons import CallEnded
from gateway.model.session import CallDetails, SlotLimits
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId

Begin = Callable[..., Awaitable[OutboundCall]]
LOST = CarrierFailed("timeout", "Twilio did not answer within 10 s", uncertain=True)


class Carrier:
    """A carrier's REST that does as it is told; keeps what it was asked."""

    name = "twilio"
    cannot: Mapping[str, str] = MappingProxyType({})

    def __init__(self, *answers: DialedCall | CarrierFailed, repeats_safely: bool = False) -> None:
        self.repeats_safely = repeats_safely
        self._answers = list(answers)
        self.found: DialedCall | None = None
        self.dialled = 0
        self.hung_up: list[tuple[str, bool]] = []

    async def dial(self, request: DialRequest) -> DialedCall:
        self.dialled += 1
        answer = self._answers.pop(0)
        if isinstance(answer, CarrierFailed):
            raise answer
        return answer

    async def hang_up(self, call_id: str, *, answered: bool = True) -> bool:
        self.hung_up.append((call_id, answered))
        return True

    async def transfer(
        self, call_id: str, to: str, *, document: str | None, document_url: str | None, caller_id: str | None
    ) -> None:
        raise AssertionError

    async def send_dtmf(self, call_id: str, digits: str) -> None:
        raise AssertionError

    async def find(
        self, request: DialRequest, *, since: float, known: Collection[str] = ()
    ) -> DialedCall | None:
        return self.found


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RING_SLACK_S", "STREAM_S", "MACHINE_S", "FIRST_FIND_S", "LONGEST_FIND_S", "RATE_PAUSE_S"):
        monkeypatch.setattr(outbound_call, name, 0.0)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "patchbay.db", WorkerId.of_this_process("worker"))
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def call(store: SqliteStore) -> Begin:
    """Calls somebody through a carrier, and gives the call when it is over, with its session's record."""
    account = CarrierAccount.model_validate(
        {"carrier": "twilio", "account": "AC1", "auth_tokens": ["t"], "calls_per_second": 10_000}
    )
    agent = AgentSettings(name="support", organization="acme", region="us-west")
    means = OutboundServices(
        store=store,
        book=CallLog(store.documents, time.time),
        line=CpsLimiter(store.documents, time.time),
        commands=CommandBus(store.documents, time.time),
        request=_request,
        pause_s=lambda: 0.001,
        now=time.time,
    )

    async def begin(
        carrier: Carrier,
        *told: CallStatus,
        machines: MachineDetection | None = None,
        timeout_s: float = 0.05,
    ) -> OutboundCall:
        session = str(uuid.uuid4())
        details = CallDetails(
            session, "support.acme", "acme", "us-west", "twilio", None, None, "+14155550199", "+14155550142"
        )
        await store.admit(details, SlotLimits((("http://127.0.0.1:8080", 0),), 1, 1), time.time())
        wish = OutboundRequest(
            agent,
            Organization(name="acme"),
            account,
            "+14155550142",
            "+14155550199",
            timeout_s=timeout_s,
            machine_detection=machines,
        )
        for status in told:
            await means.book.record_status(session, status)
        made = OutboundCall(means, wish, carrier, session)
        await made.task
        return made

    return begin


def _request(wish: OutboundRequest, session_id: str) -> DialRequest:
    return DialRequest(
        wish.to,
        wish.from_number,
        "https://gw.test",
        "wss://gw.test",
        None,
        "https://gw.test",
        5,
        60,
        session_id,
    )


async def ended(store: SqliteStore, made: OutboundCall) -> tuple[str | None, str | None]:
    record = await store.session(made.session_id)
    assert record is not None
    assert not record.active
    return record.reason, record.detail


async def test_nobody_answers(store: SqliteStore, call: Begin) -> None:
    carrier = Carrier(DialedCall("CA1"))
    made = await call(carrier, CallStatus.RINGING)
    assert (await ended(store, made))[0] == "no_answer"
    assert made.taken.result() == "CA1"
    assert (carrier.dialled, carrier.hung_up) == (1, [("CA1", False)])


async def test_somebody_answers_and_no_stream_comes(store: SqliteStore, call: Begin) -> None:
    carrier = Carrier(DialedCall("CA1"))
    made = await call(carrier, CallStatus.ANSWERED)
    assert (await ended(store, made))[0] == "no_stream"
    assert carrier.hung_up == [("CA1", True)]


async def test_a_request_without_a_call_is_taken_back(store: SqliteStore, call: Begin) -> None:
    """docs/reference/carriers.md §4.5: Plivo's request has an id before its call has one."""
    carrier = Carrier(DialedCall(None, "REQ1"))
    made = await call(carrier)
    assert (await ended(store, made))[0] == "no_answer"
    assert carrier.hung_up == [("REQ1", False)]


async def test_a_call_of_which_nobody_knows_is_asked_for_once(store: SqliteStore, call: Begin) -> None:
    carrier = Carrier(LOST)
    made = await call(carrier)
    reason, detail = await ended(store, made)
    assert reason == "carrier_timeout"
    assert detail is not None
    assert detail.endswith("whether it called is not known")
    assert isinstance(made.taken.exception(), CallEnded)
    assert (carrier.dialled, carrier.hung_up) == (1, [])


async def test_a_call_that_shows_late_is_hung_up(store: SqliteStore, call: Begin) -> None:
    carrier = Carrier(LOST)
    carrier.found = DialedCall("CA9")
    made = await call(carrier)
    assert (await ended(store, made))[0] == "no_answer"
    assert made.taken.result() == "CA9"
    assert (carrier.dialled, carrier.hung_up) == (1, [("CA9", False)])


async def test_a_request_that_may_be_repeated_is_so_for_a_while(store: SqliteStore, call: Begin) -> None:
    carrier = Carrier(LOST, LOST, LOST, repeats_safely=True)
    made = await call(carrier, timeout_s=60.0)  # it repeats no longer than that
    assert (await ended(store, made))[0] == "carrier_timeout"
    assert carrier.dialled == 3


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("refused", "carrier_refused"),
        ("rate_limited", "carrier_busy"),
        ("unreachable", "carrier_unreachable"),
        ("broken", "carrier_unreachable"),
    ],
)
async def test_what_a_carrier_fails_with(store: SqliteStore, call: Begin, kind: str, reason: str) -> None:
    failure = CarrierFailed(kind, "it says no", retry_after_s=60)  # type: ignore[arg-type]
    carrier = Carrier(failure)
    made = await call(carrier)
    assert await ended(store, made) == (reason, "it says no")
    assert (carrier.dialled, carrier.hung_up) == (1, [])


async def test_a_machine_is_left_to_an_agent_that_wants_it(store: SqliteStore, call: Begin) -> None:
    made = await call(Carrier(DialedCall("CA1")), CallStatus.MACHINE, machines="wait_for_end")
    assert (await ended(store, made))[0] == "no_stream"
    made = await call(Carrier(DialedCall("CA2")), CallStatus.MACHINE, machines="detect")
    assert (await ended(store, made))[0] == "machine_answered"
