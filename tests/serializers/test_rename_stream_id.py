# SPDX-License-Identifier: BSD-2-Clause
"""A stream with two ids: each side gets the id that it knows, and everything else unchanged."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serializers.registry import DIALECTS
from serializers.transforms import NOTHING, UNCHANGED, Transform

FIELDS = {"twilio": "streamSid", "telnyx": "stream_id", "plivo": "streamId", "exotel": "stream_sid"}
KNOWN, LATEST = "MZ-first", "MZ-second"

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.sampled_from([KNOWN, LATEST]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def others(carrier: str) -> st.SearchStrategy[dict[str, object]]:
    """Fields of a message that the transforms do not read."""
    read = {"event", "media", FIELDS[carrier]}
    return st.dictionaries(names.filter(lambda name: name not in read), values, max_size=6)


@pytest.fixture(params=FIELDS)
def carrier(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def transforms(carrier: str) -> tuple[Transform, Transform]:
    return DIALECTS[carrier].renaming_transforms(KNOWN, LATEST)


def passed(transform: Transform, message: bytes) -> bytes:
    """The one message that a message becomes."""
    passing = transform.feed(message)
    if passing is UNCHANGED:
        return message
    (changed,) = passing
    return changed


@given(before=others("twilio"), after=others("twilio"), data=st.data())
def test_only_the_streams_id_changes(
    before: dict[str, object], after: dict[str, object], data: st.DataObject
) -> None:
    carrier = data.draw(st.sampled_from(sorted(FIELDS)))
    field = FIELDS[carrier]
    fields = {name: value for name, value in (before | after).items() if name not in FIELDS.values()}
    index = data.draw(st.integers(0, len(fields)))
    pairs = [("event", "dtmf"), *fields.items()]
    text = data.draw(st.booleans())
    for transform, old, new in zip(transforms(carrier), (LATEST, KNOWN), (KNOWN, LATEST), strict=True):
        pairs.insert(index + 1, (field, old))
        message = json.dumps(dict(pairs), ensure_ascii=text).encode()
        pairs[index + 1] = (field, new)
        renamed = json.loads(passed(transform, message))
        assert list(renamed.items()) == list(json.loads(json.dumps(dict(pairs))).items())
        del pairs[index + 1]


@given(st.data())
def test_a_message_that_does_not_name_the_stream_is_unchanged(data: st.DataObject) -> None:
    carrier = data.draw(st.sampled_from(sorted(FIELDS)))
    field = FIELDS[carrier]
    message = {"event": "mark", **data.draw(others(carrier))}
    if data.draw(st.booleans()):
        message[field] = data.draw(values.filter(lambda value: value not in (KNOWN, LATEST)))
    text = json.dumps(message).encode()
    for renaming, plain in zip(transforms(carrier), DIALECTS[carrier].transforms(), strict=True):
        assert _all(renaming, text) == _all(plain, text)


@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_what_is_no_message_is_treated_as_by_the_dialects_transforms(text: bytes) -> None:
    for carrier in FIELDS:
        for renaming, plain in zip(transforms(carrier), DIALECTS[carrier].transforms(), strict=True):
            assert renaming.feed(text) == plain.feed(text)


@pytest.mark.parametrize(
    "text", [b"", b"hello", b"[]", b"{}", b'{"event":"\xff"}', b'{"event":"mark","mark":' + b"[" * 100_000]
)
def test_it_is_dropped(carrier: str, text: bytes) -> None:
    for transform in transforms(carrier):
        assert transform.feed(text) == NOTHING


def test_other_values_stay_byte_for_byte(carrier: str) -> None:
    """A number or a text may be written in several ways, and stays as the sender wrote it."""
    value = b'[1.50, 1e400, "\\u0041\\/", -0, {"a" : null}]'
    message = b'{"event": "mark", "x": ' + value + b', "%s": "%s"}'
    to_agent, _ = transforms(carrier)
    renamed = passed(to_agent, message % (FIELDS[carrier].encode(), LATEST.encode()))
    assert value in renamed
    assert KNOWN.encode() in renamed


def test_the_dialects_own_transforms_are_applied_too() -> None:
    """Telnyx's audio is put in order and Exotel's cut into sizes, both with the other id."""

    def telnyx(number: int, stream: str) -> bytes:
        sound = {"chunk": str(number), "payload": "AAAA"}
        return json.dumps({"event": "media", "media": sound, "stream_id": stream}).encode()

    to_agent, _ = transforms("telnyx")
    renamed = [one for number in (1, 3, 2) for one in _all(to_agent, telnyx(number, LATEST))]
    assert [json.loads(one) for one in renamed] == [json.loads(telnyx(number, KNOWN)) for number in (1, 2, 3)]

    _, to_carrier = transforms("exotel")
    sound = {"payload": "AAAA" * 400}
    message = json.dumps({"event": "media", "stream_sid": KNOWN, "media": sound}).encode()
    pieces = [one for _ in range(4) for one in _all(to_carrier, message)]
    assert to_carrier.has_buffered
    pieces += to_carrier.flush()
    assert {json.loads(piece)["stream_sid"] for piece in pieces} == {LATEST}
    assert not to_carrier.has_buffered


def _all(transform: Transform, message: bytes) -> list[bytes]:
    passing = transform.feed(message)
    return [message] if passing is UNCHANGED else list(passing)
