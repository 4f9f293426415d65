# SPDX-License-Identifier: BSD-2-Clause
"""Outbound calls that are not answered, and carriers that leave open whether there is a call."""

from __future__ import annotations

import pytest

from gateway.calls.outbound import outbound_call
from gateway.calls.outbound.outbound_state import OutboundEvent, OutboundState
from gateway.carriers.call_log import CallStatus
from gateway.carriers.rest_interface import CarrierFailed, DialedCall
from gateway.model.reasons import CallEnded, Reasons
from gateway.store.sqlite.sqlite_store import SqliteStore
from tests.harness.dialing import Dialing, FakeCarrier

LOST = CarrierFailed("timeout", "Twilio did not answer within 10 s", uncertain=True)


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every deadline pass at once, except the request's own."""
    names = ("RING_SLACK_S", "STREAM_S", "MACHINE_S", "FIRST_SEARCH_S", "MAX_SEARCH_S", "RATE_LIMIT_PAUSE_S")
    for name in names:
        monkeypatch.setattr(outbound_call, name, 0.0)


async def dial(
    store: SqliteStore, carrier: FakeCarrier, *callbacks: CallStatus, timeout_s: float = 0.05, **options: str
) -> Dialing:
    """Dial once, and return when the call is over. `callbacks`: what the carrier has reported by then."""
    dialing = Dialing(store, carrier)
    for status in callbacks:
        await dialing.call_log.record_status(dialing.session_id, status)
    await dialing.start(timeout_s=timeout_s, **options)  # type: ignore[arg-type]
    await dialing.call.task
    assert dialing.call.state is OutboundState.ENDED
    return dialing


async def end_of(dialing: Dialing) -> tuple[str | None, str | None]:
    """Return reason and detail of the session, whose slot must be free."""
    record = await dialing.store.session(dialing.session_id)
    assert record is not None
    assert not record.active
    return record.reason, record.detail


async def test_a_call_that_is_not_answered_is_hung_up(store: SqliteStore) -> None:
    carrier = FakeCarrier(DialedCall("CA1"))
    dialing = await dial(store, carrier, CallStatus.RINGING)
    assert (await end_of(dialing))[0] == "no_answer"
    assert dialing.call.accepted.result() == "CA1"
    assert (carrier.dialed, carrier.hung_up) == (1, [("CA1", False)])


async def test_a_call_that_is_answered_and_opens_no_stream_is_hung_up(store: SqliteStore) -> None:
    carrier = FakeCarrier(DialedCall("CA1"))
    dialing = await dial(store, carrier, CallStatus.ANSWERED)
    assert (await end_of(dialing))[0] == "no_stream"
    assert carrier.hung_up == [("CA1", True)]


async def test_a_request_that_has_no_call_yet_is_canceled(store: SqliteStore) -> None:
    """docs/reference/carriers.md §4.5: Plivo's request has an id before its call has one."""
    carrier = FakeCarrier(DialedCall(None, "REQ1"))
    dialing = await dial(store, carrier)
    assert (await end_of(dialing))[0] == "no_answer"
    assert carrier.hung_up == [("REQ1", False)]


async def test_a_request_with_a_lost_answer_is_not_sent_again(store: SqliteStore) -> None:
    carrier = FakeCarrier(LOST)
    dialing = await dial(store, carrier)
    reason, detail = await end_of(dialing)
    assert reason == "carrier_timeout"
    assert detail is not None
    assert detail.endswith("whether it called is not known")
    assert isinstance(dialing.call.accepted.exception(), CallEnded)
    assert (carrier.dialed, carrier.hung_up) == (1, [])


async def test_a_call_that_is_found_late_is_hung_up(store: SqliteStore) -> None:
    carrier = FakeCarrier(LOST)
    carrier.found = DialedCall("CA9")
    dialing = await dial(store, carrier)
    assert (await end_of(dialing))[0] == "no_answer"
    assert dialing.call.accepted.result() == "CA9"
    assert (carrier.dialed, carrier.hung_up) == (1, [("CA9", False)])


async def test_a_callback_shows_that_there_is_a_call(store: SqliteStore) -> None:
    carrier = FakeCarrier(LOST)
    dialing = Dialing(store, carrier)
    await dialing.start()
    await dialing.reaches(OutboundState.UNCERTAIN)
    await dialing.call_log.record_details(dialing.session_id, carrier="twilio", call_id="CA7")
    await dialing.call_log.record_status(dialing.session_id, CallStatus.RINGING)
    await dialing.reaches(OutboundState.RINGING)
    dialing.call.termination.set(CallEnded(Reasons.stopped))
    await dialing.call.task
    assert (OutboundState.UNCERTAIN, OutboundEvent.CALL_FOUND, OutboundState.RINGING) in dialing.call.steps
    assert dialing.call.accepted.result() == "CA7"
    assert carrier.hung_up == [("CA7", False)]


async def test_a_request_that_may_be_repeated_is_repeated_twice(store: SqliteStore) -> None:
    carrier = FakeCarrier(LOST, LOST, LOST, repeats_safely=True)
    dialing = await dial(store, carrier, timeout_s=60.0)  # it is not repeated after that
    assert (await end_of(dialing))[0] == "carrier_timeout"
    assert carrier.dialed == 3


async def test_a_call_of_an_earlier_request_is_hung_up_although_the_last_one_was_refused(
    store: SqliteStore,
) -> None:
    carrier = FakeCarrier(LOST, CarrierFailed("refused", "it says no"), repeats_safely=True)
    carrier.found = DialedCall("CA9")
    dialing = await dial(store, carrier, timeout_s=60.0)
    assert (await end_of(dialing))[0] == "carrier_refused"
    assert (carrier.dialed, carrier.hung_up) == (2, [("CA9", False)])


async def test_a_call_of_an_earlier_request_is_searched_although_the_carrier_is_rate_limited_now(
    store: SqliteStore,
) -> None:
    carrier = FakeCarrier(LOST, CarrierFailed("rate_limited", "not now"), repeats_safely=True)
    dialing = Dialing(store, carrier)
    await dialing.start()
    await dialing.makes_step(4)  # a third turn
    steps = [following for _, _, following in dialing.call.steps]
    assert steps[:4] == [OutboundState.DIALING, OutboundState.UNCERTAIN] * 2
    await dialing.cancel()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("refused", "carrier_refused"),
        ("rate_limited", "carrier_busy"),
        ("unreachable", "carrier_unreachable"),
        ("broken", "carrier_unreachable"),
    ],
)
async def test_a_carrier_that_fails_ends_the_call(store: SqliteStore, kind: str, reason: str) -> None:
    carrier = FakeCarrier(CarrierFailed(kind, "it says no", retry_after_s=60))  # type: ignore[arg-type]
    dialing = await dial(store, carrier)
    assert await end_of(dialing) == (reason, "it says no")
    assert (carrier.dialed, carrier.hung_up) == (1, [])


@pytest.mark.parametrize(
    ("machine_detection", "reason"), [("wait_for_end", "no_stream"), ("detect", "machine_answered")]
)
async def test_a_machine_ends_only_calls_that_detect_machines(
    store: SqliteStore, machine_detection: str, reason: str
) -> None:
    carrier = FakeCarrier(DialedCall("CA1"))
    dialing = await dial(store, carrier, CallStatus.MACHINE, machine_detection=machine_detection)
    assert (await end_of(dialing))[0] == reason
    assert carrier.hung_up == [("CA1", True)]
