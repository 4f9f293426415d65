# SPDX-License-Identifier: BSD-2-Clause
"""The two spellings of a session's id."""

from __future__ import annotations

import uuid

import pytest

from gateway.model.session_ids import canonical_session_id, ulid_of


@pytest.mark.parametrize(
    ("session_id", "ulid"),
    [
        # The 128 bits in base 32, most significant first (https://github.com/ulid/spec).
        ("00000000-0000-0000-0000-000000000000", "sess_00000000000000000000000000"),
        ("00000000-0000-0000-0000-00000000001f", "sess_0000000000000000000000000Z"),
        ("ffffffff-ffff-ffff-ffff-ffffffffffff", "sess_7ZZZZZZZZZZZZZZZZZZZZZZZZZ"),
        ("018f7c59-a1c7-bfa0-3ea3-e6aa707c8378", "sess_01HXY5K8E7QYG3X8Z6N9R7S0VR"),
    ],
)
def test_both_spellings_name_one_session(session_id: str, ulid: str) -> None:
    assert ulid_of(session_id) == ulid
    for given in (ulid, ulid.lower(), session_id, session_id.upper()):
        assert canonical_session_id(given) == session_id


def test_letters_that_look_like_digits_are_read_as_those() -> None:
    assert canonical_session_id("sess_OOOOOOOOOOOOOOOOOOOOOOOOIL") == canonical_session_id(
        "sess_" + "0" * 24 + "11"
    )


def test_every_id_has_a_ulid() -> None:
    for _ in range(1000):
        session_id = str(uuid.uuid4())
        assert canonical_session_id(ulid_of(session_id) or "") == session_id


@pytest.mark.parametrize(
    "given",
    [
        "",
        "1",
        "sess_",
        "sess_8ZZZZZZZZZZZZZZZZZZZZZZZZZ",  # more than 128 bits
        "sess_01HXY5K8E7QYG3X8Z6N9R7S0V",
        "sess_01HXY5K8E7QYG3X8Z6N9R7S0VRR",
        "sess_01HXY5K8E7QYG3X8Z6N9R7S0VU",  # no U in it
        "sess_01HXY5K8E7QYG3X8Z6N9R7S0V\u0131",
        "SESS_01HXY5K8E7QYG3X8Z6N9R7S0VR",
        "01HXY5K8E7QYG3X8Z6N9R7S0VR",
        "018f7c59a1c7bfa03ea3e6aa707c8378",
        "018f7c59-a1c7-bfa0-3ea3-e6aa707c837\uff18",
        "{018f7c59-a1c7-bfa0-3ea3-e6aa707c8378}",
        "sess_018f7c59-a1c7-bfa0-3ea3-e6aa707c8378",
    ],
)
def test_what_is_no_id_stays_as_it_is(given: str) -> None:
    assert canonical_session_id(given) == given
    assert ulid_of(given) is None
