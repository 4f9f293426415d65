# SPDX-License-Identifier: BSD-2-Clause
"""The signatures between nodes: nothing of a request can be changed, and none is good twice."""

from __future__ import annotations

import pytest

from gateway.nodes import node_signature
from gateway.nodes.node_signature import (
    DIGEST,
    NONCE,
    SIGNATURE,
    TIME,
    WINDOW_S,
    NodeSigner,
    NodeVerifier,
    RequestLine,
    SignatureRefused,
)

NOW = 1_790_000_000.0
SECRET = b"s" * 32
LINE = RequestLine("POST", "/nodes/1/" + "a" * 32 + "/command")
BODY = b'{"session": "s", "command": "hang_up"}'


def signed(secret: bytes = SECRET, at: float = NOW) -> dict[str, str]:
    return NodeSigner(secret, lambda: at).sign(LINE, BODY)


def verifier(at: float = NOW) -> NodeVerifier:
    return NodeVerifier(SECRET, lambda: at)


def why_refused(headers: dict[str, str], *, line: RequestLine = LINE, at: float = NOW) -> str:
    with pytest.raises(SignatureRefused) as caught:
        verifier(at).check_head(line, headers)
    return str(caught.value)


def test_a_request_of_a_node_is_good_once() -> None:
    headers, receiver = signed(), verifier()
    receiver.check_head(LINE, headers)
    receiver.use(headers, BODY)
    receiver.check_head(LINE, headers)
    with pytest.raises(SignatureRefused, match="received before"):
        receiver.use(headers, BODY)


@pytest.mark.parametrize("skew", [-10.0, 10.0, -WINDOW_S, WINDOW_S])
def test_clocks_may_differ(skew: float) -> None:
    verifier(NOW + skew).check_head(LINE, signed())


@pytest.mark.parametrize("skew", [-WINDOW_S - 1, WINDOW_S + 1, 86_400.0])
def test_a_request_of_another_time_is_refused(skew: float) -> None:
    assert why_refused(signed(), at=NOW + skew) == "its time is more than 60 s from here"


def test_another_secret_is_refused() -> None:
    assert why_refused(signed(b"t" * 32)) == "its signature is wrong"


@pytest.mark.parametrize("line", [RequestLine("GET", LINE.path), RequestLine("POST", LINE.path[:-1])])
def test_another_method_or_path_is_refused(line: RequestLine) -> None:
    assert why_refused(signed(), line=line) == "its signature is wrong"


@pytest.mark.parametrize(
    ("name", "value"), [(TIME, f"{NOW + 1:.3f}"), (NONCE, "0" * 32), (DIGEST, "0" * 64), (SIGNATURE, "é")]
)
def test_a_changed_header_is_refused(name: str, value: str) -> None:
    assert why_refused({**signed(), name: value}) == "its signature is wrong"


@pytest.mark.parametrize("name", [TIME, NONCE])
@pytest.mark.parametrize("value", [None, "", "nan", "1e9", "-5", "x" * 32])
def test_a_head_without_a_time_or_a_nonce_is_refused(name: str, value: str | None) -> None:
    headers = {key: text for key, text in {**signed(), name: value}.items() if text is not None}
    assert why_refused(headers) == "it has no signature"


def test_another_body_is_refused_and_the_request_is_not_used_up() -> None:
    headers, receiver = signed(), verifier()
    receiver.check_head(LINE, headers)
    with pytest.raises(SignatureRefused, match="its body is another"):
        receiver.use(headers, BODY + b" ")
    receiver.use(headers, BODY)


def test_what_is_remembered_has_a_limit_and_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_signature, "MAX_NONCES", 2)
    now = NOW
    receiver = NodeVerifier(SECRET, lambda: now)
    for _ in range(2):
        receiver.use(signed(), BODY)
    with pytest.raises(SignatureRefused, match="too many"):
        receiver.use(signed(), BODY)
    now += 2 * WINDOW_S
    receiver.use(signed(at=now), BODY)


def test_an_answer_is_good_for_its_request_alone() -> None:
    headers, other = signed(), signed()
    signature = verifier().sign_answer(headers, 200, b"yes")
    sender = NodeSigner(SECRET, lambda: NOW)
    assert sender.is_answer(headers, 200, b"yes", signature)
    assert not sender.is_answer(other, 200, b"yes", signature)
    assert not sender.is_answer(headers, 409, b"yes", signature)
    assert not sender.is_answer(headers, 200, b"no", signature)
    assert not sender.is_answer(headers, 200, b"yes", "")
    assert not NodeSigner(b"t" * 32, lambda: NOW).is_answer(headers, 200, b"yes", signature)
