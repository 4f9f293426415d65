# SPDX-License-Identifier: BSD-2-Clause
"""Spellings of `body` and `serviceHost` in a URL: a document's and a media socket's are read alike."""

from __future__ import annotations

import base64
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.harness.agent import Agent, AgentPort
from tests.harness.document_calls import DocumentCalls
from tests.harness.gateway import Gateway

pytestmark = pytest.mark.parametrize("carrier", ["telnyx"], indirect=True)


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway], support_port: AgentPort) -> Gateway:
    agent = {"organization": "acme", "instances": [support_port.url], "sessions_per_instance": 50}
    return start_gateway(
        server={"public_url": "https://voice.example.com"}, agents=[{"name": "support", **agent}]
    )


def canonical(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


SLASHES = canonical('"?>?>?~"')
"""Its base64 has a plus sign and a slash."""
BODIES = {
    "body=e30%3D": canonical("{}"),
    "body=e30=": canonical("{}"),
    "body=e30": canonical("{}"),
    "body=MTI%3D": canonical("12"),
    "body=MQ%3D%3D": canonical("1"),
    "body=MQ": canonical("1"),
    "body=MTIz": canonical("123"),
    "body=Ij8+Pz4/fiI=": SLASHES,
    "body=Ij8+Pz4/fiI": SLASHES,
    "body=Ij8%2BPz4%2FfiI%3D": SLASHES,
    "body=Ij8-Pz4_fiI=": SLASHES,
    "body=Ij8-Pz4_fiI": SLASHES,
    "body=": None,
    "body": None,
    "body=&serviceHost=": None,
    "serviceHost=": None,
    "serviceHost=support.acme&body": None,
    "": None,
}
"""A query, and the body for the agent: None for none."""

BAD_BODIES = [
    "body=e",
    "body=e30x1",
    "body=MQ=",
    "body=MQ%3D%3D%3D",
    "body=MTIz=",
    "body=%3D",
    "body=M%3DQ",
    "body=%C3%A9",
    "body=e30.",
    "body=bm90IGpzb24",
    "body=e30&body=e30",
    "body=&body=e30",
]


@pytest.mark.parametrize("query", BODIES)
async def test_a_document_names_the_body_in_its_canonical_spelling(line: DocumentCalls, query: str) -> None:
    placed = await line.place(f"/xml/telnyx?agent=support&org=acme&{query}")
    assert placed.answered.status == 200
    parameters = parse_qs(urlsplit(placed.stream_url).query, keep_blank_values=True)
    assert parameters.get("body", [None]) == [BODIES[query]]


@pytest.mark.parametrize("query", BODIES)
async def test_a_media_sockets_agent_gets_the_canonical_spelling(
    line: DocumentCalls, support: Agent, query: str
) -> None:
    caller = await line.gateway.dial(f"/ws/generic/support.acme?{query}")
    assert caller.status == 101
    call = await support.call()
    assert call.query.get("body", [None]) == [BODIES[query]]
    await caller.leave()


@pytest.mark.parametrize("query", BAD_BODIES)
async def test_a_body_that_is_no_base64_of_json_is_400(line: DocumentCalls, query: str) -> None:
    placed = await line.place(f"/xml/telnyx?agent=support&org=acme&{query}")
    caller = await line.gateway.dial(f"/ws/generic/support.acme?{query}")
    assert (placed.answered.status, caller.status) == (400, 400)
    assert placed.answered.json["error"] == caller.json["error"]


async def test_an_empty_service_host_leaves_the_agent_to_the_other_names(line: DocumentCalls) -> None:
    caller = await line.gateway.dial("/ws/generic?serviceHost=")
    assert caller.refusal == (400, "bad_request"), "no agent is named"
