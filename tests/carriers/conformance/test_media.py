# SPDX-License-Identifier: BSD-2-Clause
"""Every carrier's media-stream messages are understood, and written as the carrier documents them."""

from __future__ import annotations

import base64
import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serializers.dialect import DialectError
from serializers.events import Connected, Media, Start
from serializers.opening import Opening
from serializers.registry import DIALECTS
from serializers.transforms import UNCHANGED
from tests.carriers.case import AUDIO, Case, Message
from tests.carriers.cases import CASES

ROOT = Path(__file__).parents[3]
TRANSCRIPTS = ROOT / "fixtures" / "transcripts"

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def transcript(name: str) -> list[dict[str, Any]]:
    """The lines of a transcript that are messages on the socket."""
    lines = [json.loads(line) for line in (TRANSCRIPTS / f"{name}.jsonl").read_text().splitlines()]
    return [line for line in lines if "msg" in line]


def is_from_carrier(line: dict[str, Any]) -> bool:
    return bool(line["dir"] == "carrier->gateway")


def read(case: Case, line: dict[str, Any]) -> Any:
    """The event of a line, which is the same from a text and from a binary message."""
    dialect = DIALECTS[case.name]
    reader = dialect.read_carrier if is_from_carrier(line) else dialect.read_agent
    text = json.dumps(line["msg"])
    assert reader(text.encode()) == reader(text)
    return reader(text)


def write(case: Case, line: dict[str, Any], event: Any, start: Start) -> Message:
    dialect = DIALECTS[case.name]
    writer = dialect.write_carrier if is_from_carrier(line) else dialect.write_agent
    text = writer(event, start)
    message: Message = json.loads(text)
    assert text == json.dumps(message, separators=(",", ":")), "compact JSON"
    return message


def with_audio(line: dict[str, Any]) -> dict[str, Any]:
    """A documented media message, whose payload the documents cut short, with audio."""
    whole = copy.deepcopy(line)
    whole["msg"]["media"]["payload"] = base64.b64encode(AUDIO).decode()
    return whole


@every_case
def test_documented_messages_are_understood(case: Case) -> None:
    lines = transcript(f"{case.name}_documented_examples")
    for line, expected in zip(lines, case.media.documented, strict=True):
        message = line
        if isinstance(expected, Media):
            with pytest.raises(DialectError, match="base64"):
                read(case, line)
            message = with_audio(line)
        assert read(case, message) == expected
        payload = json.dumps(line["msg"]).encode()
        assert DIALECTS[case.name].event_of(payload) == line["msg"]["event"]


@every_case
def test_messages_are_written_as_documented_field_by_field(case: Case) -> None:
    start = next(event for event in case.media.documented if isinstance(event, Start))
    lines = transcript(f"{case.name}_documented_examples")
    for line, event in zip(lines, case.media.documented, strict=True):
        documented = case.media.comparable((with_audio(line) if isinstance(event, Media) else line)["msg"])
        written = case.media.comparable(write(case, line, event, start))
        assert written == documented
        if not line["kind"].startswith("captured"):  # what is captured may be older than the documents
            assert json.dumps(written) == json.dumps(documented), "in the documents' order"


@pytest.mark.parametrize(
    ("case", "name"), [(case, name) for case in CASES.values() for name in case.media.calls], ids=str
)
def test_whole_calls_are_understood_and_written_again(case: Case, name: str) -> None:
    opening = Opening(DIALECTS[case.name])
    start = None
    for line in transcript(name):
        event = read(case, line)
        if start is None:
            start = opening.feed(json.dumps(line["msg"]))
        expected = case.media.meaning(line["msg"], is_from_carrier(line))
        assert event == (start if expected is None else expected)
        if start is not None:
            written = write(case, line, event, start)
            assert case.media.comparable(written) == case.media.comparable(line["msg"])
    assert isinstance(start, Start)


@every_case
@given(data=st.data())
def test_what_the_carrier_sends_is_read_as_it_was_written(case: Case, data: st.DataObject) -> None:
    dialect = DIALECTS[case.name]
    start, event = data.draw(case.media.starts), data.draw(case.media.carrier_events)
    text = dialect.write_carrier(event, start)
    assert dialect.read_carrier(text) == event
    assert dialect.read_carrier(text.encode()) == event


@every_case
@given(data=st.data())
def test_how_the_carrier_opens_a_stream_is_read_as_it_was_written(case: Case, data: st.DataObject) -> None:
    dialect, start = DIALECTS[case.name], data.draw(case.media.starts)
    opening = Opening(dialect)
    if dialect.sends_connected:
        assert opening.feed(dialect.write_carrier(Connected(), start)) is None
    assert opening.feed(dialect.write_carrier(start, start)) == start


@every_case
@given(data=st.data())
def test_what_the_agent_sends_is_read_as_it_was_written(case: Case, data: st.DataObject) -> None:
    dialect = DIALECTS[case.name]
    start, event = data.draw(case.media.starts), data.draw(case.media.agent_events)
    text = dialect.write_agent(event, start)
    assert dialect.read_agent(text) == event
    is_audio = dialect.event_of(text.encode()) in dialect.agent_media_events
    assert is_audio == isinstance(event, Media)


@every_case
def test_a_call_passes_the_transforms_unchanged_and_in_order(case: Case) -> None:
    for name in case.media.calls:
        to_agent, to_carrier = DIALECTS[case.name].transforms()
        for from_carrier, transform in ((True, to_agent), (False, to_carrier)):
            lines = [line for line in transcript(name) if is_from_carrier(line) is from_carrier]
            messages = [json.dumps(line["msg"]).encode() for line in lines]
            passed: list[bytes] = []
            for message in messages:
                answer = transform.feed(message)
                passed += [message] if answer is UNCHANGED else answer
            assert passed == messages
            assert not transform.has_buffered


@every_case
def test_a_message_can_name_the_stream_by_another_id(case: Case) -> None:
    dialect = DIALECTS[case.name]
    to_agent, _ = dialect.renaming_transforms("the agent's", case.media.start.stream_id)
    message = {"event": "mark", dialect.stream_id_field: case.media.start.stream_id}
    (renamed,) = to_agent.feed(json.dumps(message).encode()) or ()
    assert json.loads(renamed) == {**message, dialect.stream_id_field: "the agent's"}
