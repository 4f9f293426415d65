# SPDX-License-Identifier: BSD-2-Clause
"""Large bodies: which members may be large, what is never parsed as a whole, and the share of a key."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers

from gateway.api.framework import body_reader, json_steps, request_body, strict_json
from gateway.api.framework.body_reader import BURST_S, WHOLE_BYTES, BodyReader
from gateway.api.framework.errors import ApiError
from gateway.api.framework.operation import Access, Answer, Context, LargeMember, Operation, Style
from gateway.model.json_text import JsonText, dump
from tests.api.conftest import table
from tests.harness.clock import Clock

MAX_BYTES = 400_000
PATH = "/v1/reports"
HEAD = b"POST /v1/reports HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer sk_acme\r\n"


class Entry(BaseModel):
    """One of many."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(max_length=100_000)


class Report(BaseModel):
    """What may be large."""

    model_config = ConfigDict(extra="forbid")

    name: str = ""
    entries: list[Entry] | None = Field(default=None, min_length=1, max_length=50)
    results: Any = None


async def report(context: Context) -> Answer:
    given = context.body_as(Report)
    entries = None if given.entries is None else [len(entry.text) for entry in given.entries]
    text = dump(given.results)
    return Answer(
        200, {"name": given.name, "entries": entries, "results": len(text), "passed": _passed(given)}
    )


async def missing(_: Context) -> None:
    raise ApiError(404, "not_found", "There is no such thing")


def _passed(given: Report) -> bool:
    return isinstance(given.results, JsonText)


OPERATION = Operation(
    "POST",
    PATH,
    report,
    Access.PRIVATE,
    Style.ENVELOPE,
    "Report",
    "Things",
    body=Report,
    answers={200: None},
    max_body_bytes=MAX_BYTES,
    large=(
        LargeMember("entries", "entries", b'[{"text":""}]', MAX_BYTES, entry=Entry, max_entries=50),
        LargeMember("results", "results", b"true", 300_000),
    ),
)


@pytest.fixture
def operations() -> list[Operation]:
    return [*table(), OPERATION, MISSING]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all texts that are parsed as a whole."""
    sizes: list[int] = []

    def noting(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        def noted(raw: bytes) -> Any:
            sizes.append(len(raw))
            return parse(raw)

        return noted

    for module in (request_body, json_steps):
        monkeypatch.setattr(module, "parse", noting(strict_json.parse))
    return sizes


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may read a body."""

    async def read(*_: Any) -> Any:
        raise AssertionError("the body was read")

    monkeypatch.setattr(BodyReader, "read", read)


# What is looked at before

MISSING = Operation(
    "POST",
    "/v1/missing",
    report,
    Access.PRIVATE,
    Style.ENVELOPE,
    "Report of what is not there",
    "Things",
    body=Report,
    answers={200: None},
    check=missing,
)


@pytest.mark.usefixtures("untouched")
async def test_a_body_for_something_that_is_not_there_is_not_read(api: Any) -> None:
    reply = await api("POST", "/v1/missing", value={"name": "x" * 5000})
    assert (reply.status, reply.json["error"]["code"]) == (404, "not_found")
    assert reply.header("Connection") == "close"


@pytest.mark.usefixtures("untouched")
async def test_a_body_with_an_unknown_key_is_not_read(api: Any) -> None:
    assert (await api("POST", "/v1/missing", value={"name": "x" * 5000}, key="sk_nobody")).status == 401


# Sizes by kind


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("path", "most"), [(PATH, MAX_BYTES), ("/v1/things", WHOLE_BYTES), ("/v1/public/support/start", 10_000)]
)
async def test_a_body_over_the_limit_of_its_kind_is_refused_before_it_is_read(
    api: Any, path: str, most: int
) -> None:
    reply, _, _ = await api.says(
        HEAD.replace(PATH.encode(), path.encode()) + b"Content-Length: %d\r\n\r\n" % (most + 1)
    )
    assert reply.status == 413


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ({"results": ["x" * 200_000]}, {"name": "", "entries": None, "results": 200_004, "passed": True}),
        (
            {"name": "n", "entries": [{"text": "x" * 3000}] * 50, "results": None},
            {"name": "n", "entries": [3000] * 50, "results": 4, "passed": False},
        ),
        (
            {"entries": [{"text": "x" * 90_000}, {"text": "é"}], "results": {"a": [1] * 50_000}, "name": "n"},
            {"name": "n", "entries": [90_000, 1], "results": 100_007, "passed": True},
        ),
    ],
)
async def test_large_members_pass_and_are_not_parsed_as_a_whole(
    api: Any, parsed: list[int], value: Any, answer: Any
) -> None:
    body = json.dumps(value, separators=(",", ":")).encode()
    assert len(body) > WHOLE_BYTES
    reply = await api("POST", PATH, body=body)
    assert (reply.status, reply.json) == (200, answer)
    assert max(parsed) < 1000


async def test_a_small_body_is_read_as_ever(api: Any) -> None:
    value = {"name": "n", "entries": [{"text": "x"}], "results": {"a": 1}}
    reply = await api("POST", PATH, value=value)
    assert reply.json == {"name": "n", "entries": [1], "results": 7, "passed": False}


@pytest.mark.parametrize(
    ("value", "status", "message"),
    [
        (
            {"name": "x" * (WHOLE_BYTES + 1)},
            413,
            "The request's body is larger than 32768 bytes without entries and results",
        ),
        ({"results": "x" * 300_000}, 422, "results: has 300002 bytes of JSON; 300000 are allowed"),
        ({"entries": [{"text": "x" * 2000}] * 51}, 422, "entries: List should have at most 50 items"),
        ({"entries": [{"text": "x" * 140_000}]}, 422, "entries[0]: is too large"),
        ({"entries": "x" * 100_000}, 422, "entries: Input should be a valid list"),
        ({"results": "x" * 100_000, "other": 1}, 422, "other: Extra inputs are not permitted"),
        (
            {"entries": [{"text": "x" * 2000}] * 40 + [{"text": "x", "more": 1}] + [{"text": "x" * 2000}]},
            422,
            "entries[40].more: Extra inputs are not permitted",
        ),
        (
            {"entries": [{"text": "x" * 99_000}, {"text": 7}]},
            422,
            "entries[1].text: Input should be a valid string",
        ),
    ],
)
async def test_a_large_body_that_is_refused(
    api: Any, parsed: list[int], value: Any, status: int, message: str
) -> None:
    reply = await api("POST", PATH, value=value)
    assert (reply.status, reply.json["error"]["message"]) == (status, message)
    assert max(parsed, default=0) < 1000


@pytest.mark.parametrize(
    ("member", "detail"),
    [
        (b'"results": {"a": 1, "a": 2}', "The body is not taken: an object has the same name twice"),
        (b'"results": 1, "results": 2', "The body is not taken: an object has the same name twice"),
        (
            b'"results": ' + b"[" * 64 + b"]" * 64,
            "The body is not taken: it is nested deeper than 64 levels",
        ),
        (b'"results": 1e999', "The body is not taken: a number is too large"),
    ],
)
async def test_a_large_body_is_strict_json_too(api: Any, member: bytes, detail: str) -> None:
    body = b'{"entries": [{"text": "' + b"x" * 90_000 + b'"}], ' + member + b"}"
    reply = await api("POST", PATH, body=body)
    assert (reply.status, reply.json["error"]["message"]) == (400, detail)


# The share of a key


async def test_a_key_that_takes_more_time_than_its_share_gets_429(
    serve: Callable[..., Any], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body_reader, "BURST_S", 1e-9)  # which the first body uses up
    api = await serve(json_share=1e-6)
    value = {"name": "x" * 5000}
    assert (await api("POST", PATH, value=value)).status == 200
    reply = await api("POST", PATH, value=value, headers={"X-Request-Id": "r"})
    assert reply.status == 429
    assert int(reply.header("Retry-After")) >= 1
    assert reply.json["error"]["code"] == "rate_limited"
    assert "take more time" in reply.json["error"]["message"]
    # A small one, and one with another key, are served.
    assert (await api("POST", PATH, value={"name": "x"})).status == 200
    assert (await api("POST", PATH, value=value, key="sk_globex")).status == 200
    clock.now += int(reply.header("Retry-After"))
    assert (await api("POST", PATH, value=value)).status == 200


class Stopwatch:
    """A timer by which everything takes an eighth of a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.125
        return self.now


async def test_what_is_charged_is_the_time_that_was_taken(clock: Clock) -> None:
    reader = BodyReader(0.1, clock, Stopwatch())
    body = dump({"name": "x" * 5000})
    for _ in range(round(BURST_S / 0.125)):
        await reader.read(body, Headers(), OPERATION, "key")
    with pytest.raises(ApiError) as caught:
        await reader.read(body, Headers(), OPERATION, "key")
    assert caught.value.status == 429
    clock.now += 1
    await reader.read(body, Headers(), OPERATION, "key")
    # A large one is charged for each of its steps.
    clock.now += 10
    await reader.read(dump({"results": "x" * 100_000}), Headers(), OPERATION, "key")
    with pytest.raises(ApiError) as caught:
        await reader.read(body, Headers(), OPERATION, "key")
    clock.now += 1


# Other texts that could take long


async def test_a_query_with_very_many_parameters_is_refused(api: Any) -> None:
    reply = await api("GET", "/v1/toys?" + "&".join(f"a{number}=1" for number in range(101)))
    assert (reply.status, reply.json["error"]) == (400, "The query has more than 100 parameters")


async def test_a_content_type_that_is_very_long_is_refused(api: Any) -> None:
    headers = {"Content-Type": "application/json; a=" + "b" * 300}
    reply = await api("POST", "/v1/public/support/start", body=b"{}", headers=headers)
    assert (reply.status, reply.json["error"]) == (400, "The body's Content-Type is too long")
