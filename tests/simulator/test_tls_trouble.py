# SPDX-License-Identifier: BSD-2-Clause
"""A call whose connection comes to nothing says why, and what to do."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from gateway.simulator.call_options import CallOptions, plan_call
from gateway.simulator.call_plan import CallReport
from gateway.simulator.fake_carrier import place_call
from gateway.simulator.wav import Recording
from tests.harness.certificates import issue_certificate

SOON: dict[str, Any] = {"answer_wait": 0.1, "quiet": 0.1, "reply_limit": 0.1}


@asynccontextmanager
async def listening(tls: ssl.SSLContext | None) -> AsyncIterator[int]:
    async def handle(connection: ServerConnection) -> None:
        async for _ in connection:
            pass

    async with serve(handle, "127.0.0.1", 0, ssl=tls) as server:
        yield server.sockets[0].getsockname()[1]


def certified(directory: Path, **how: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*issue_certificate(directory, 1, **how))
    return context


@pytest.fixture
def call(word: Recording) -> Callable[..., Any]:
    async def place(url: str, **options: Any) -> CallReport:
        plan = plan_call(CallOptions(url, "twilio", **options), word).plan
        return await place_call(replace(plan, **SOON))

    return place


CASES: list[tuple[dict[str, Any], str]] = [
    ({}, "signed by itself, which no carrier accepts; --ca FILE trusts it here"),
    ({"days": -1}, "has expired: renew it"),
    ({"host": "other.example.com"}, "is not for localhost: it must name every host that carriers dial"),
]


@pytest.mark.parametrize("scheme", ["wss", "https"])
@pytest.mark.parametrize(("how", "words"), CASES)
async def test_a_certificate_that_is_no_good(
    call: Callable[..., Any], tmp_path: Path, scheme: str, how: dict[str, Any], words: str
) -> None:
    async with listening(certified(tmp_path, **how)) as port:
        trusted = {"ca": tmp_path / "certificate.pem"} if how else {}
        report = await call(f"{scheme}://localhost:{port}", **trusted)
    assert report.failed
    assert words in (report.error or "")


async def test_another_authority_is_trusted_or_any_certificate_taken(
    call: Callable[..., Any], tmp_path: Path
) -> None:
    async with listening(certified(tmp_path)) as port:
        assert (await call(f"wss://localhost:{port}", ca=tmp_path / "certificate.pem")).error is None
    async with listening(certified(tmp_path, days=-1, host="other.example.com")) as port:
        assert (await call(f"wss://localhost:{port}", insecure=True)).error is None


async def test_tls_where_there_is_none_and_none_where_there_is(
    call: Callable[..., Any], tmp_path: Path
) -> None:
    async with listening(None) as port:
        report = await call(f"wss://localhost:{port}")
    assert "it speaks no TLS: ws:// or http:// instead" in (report.error or "")
    async with listening(certified(tmp_path)) as port:
        report = await call(f"ws://localhost:{port}")
    assert "does it speak TLS? then wss://" in (report.error or "")


@pytest.mark.parametrize(
    ("content", "words"), [("no certificate", "has no certificates"), (None, "cannot be read")]
)
def test_authorities_that_are_none(word: Recording, tmp_path: Path, content: str | None, words: str) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValueError, match=words):
        plan_call(CallOptions("wss://localhost", "twilio", ca=file), word)
