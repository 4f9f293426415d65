# SPDX-License-Identifier: BSD-2-Clause
"""Every status that a carrier reports is understood; whatever a callback contains, nothing breaks."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.carriers.call_log import CallStatus
from gateway.carriers.callback_event import MAX_DETAIL, CallbackRequest
from gateway.carriers.registry import CARRIERS
from tests.carriers.case import Case
from tests.carriers.cases import CASES

every_callback = pytest.mark.parametrize(
    "case", [case for case in CASES.values() if case.callbacks is not None], ids=str
)


def read_callback(case: Case, request: CallbackRequest) -> Any:
    reader = CARRIERS[case.name].read_callback
    assert reader is not None
    return reader(request)


@every_callback
def test_every_status_of_a_call_is_understood(case: Case) -> None:
    assert case.callbacks is not None
    for request, status in case.callbacks.statuses:
        event = read_callback(case, request)
        assert (event.status, event.call_id) == (status, case.callbacks.call_id), request
        assert (event.stream_event, event.stream_failed, event.stream_ended) == (None, False, False)
    ends = {CallStatus.COMPLETED, CallStatus.BUSY, CallStatus.NO_ANSWER, CallStatus.FAILED}
    reported = {status for _, status in case.callbacks.statuses}
    assert ends | {CallStatus.RINGING, CallStatus.ANSWERED} <= reported, "what every carrier reports"


@every_callback
def test_a_status_that_is_unknown_is_none(case: Case) -> None:
    assert case.callbacks is not None
    event = read_callback(case, case.callbacks.unknown)
    assert (event.status, event.call_id) == (None, case.callbacks.call_id)


@every_callback
def test_a_stream_that_failed_says_nothing_of_its_call(case: Case) -> None:
    assert case.callbacks is not None
    for request in case.callbacks.stream_failed:
        event = read_callback(case, request)
        assert event.stream_failed
        assert (event.status, event.call_id) == (None, case.callbacks.call_id)
        assert event.stream_event


@every_callback
def test_a_callback_in_another_form_is_refused(case: Case) -> None:
    assert case.callbacks is not None
    for request in case.callbacks.malformed:
        with pytest.raises(ValueError, match=r"JSON|Call Control"):
            read_callback(case, request)


FIELD_NAMES = st.sampled_from(
    [
        *("CallSid", "CallUUID", "CallStatus", "Status", "EventType", "AnsweredBy", "Machine", "Event"),
        *("StreamEvent", "StreamError", "StatusReason", "SequenceNumber", "SipResponseCode", "Timestamp"),
    ]
)
FIELD_VALUES = st.text(max_size=300) | st.sampled_from(["completed", "9" * 20, "9999-12-31T23:59:59-23:59"])
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=9,
)
CALL_CONTROL = st.fixed_dictionaries(
    {},
    optional={
        "event_type": st.sampled_from(["call.hangup", "call.machine.x", "streaming.failed"]) | JSON_VALUES,
        "occurred_at": FIELD_VALUES | JSON_VALUES,
        "payload": st.dictionaries(
            st.sampled_from(["call_control_id", "hangup_cause", "result", "failure_reason"]), JSON_VALUES
        )
        | JSON_VALUES,
    },
).map(lambda data: {"data": data})
CALLBACKS = st.builds(
    CallbackRequest,
    fields=st.dictionaries(FIELD_NAMES | st.text(max_size=9), FIELD_VALUES, max_size=6),
    document=st.none() | CALL_CONTROL | JSON_VALUES,
    is_for_stream=st.booleans(),
)


@every_callback
@given(request=CALLBACKS)
def test_a_garbled_callback_raises_nothing_but_value_errors(case: Case, request: CallbackRequest) -> None:
    try:
        event = read_callback(case, request)
    except ValueError:
        return
    for text in (event.detail, event.stream_event):
        assert text is None or (text.isprintable() and text.isascii() and len(text) <= MAX_DETAIL)
