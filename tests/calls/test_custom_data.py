# SPDX-License-Identifier: BSD-2-Clause
"""What a media socket's query and its opening say beside the gateway's own keys reaches the agent
(docs/sockets.md, "What reaches the agent").
"""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from tests.harness.agent import Agent, AgentCall
from tests.harness.call_assertions import connect, hang_up
from tests.harness.gateway import Gateway
from tests.harness.transcripts import CARRIERS


def encoded(value: Any) -> str:
    return quote(base64.b64encode(json.dumps(value).encode()).decode(), safe="")


def query_of(call: AgentCall) -> str:
    return urlsplit(call.path).query


def body_of(call: AgentCall) -> Any:
    bodies = call.query.get("body")
    return None if bodies is None else json.loads(base64.b64decode(bodies[0], validate=True))


@pytest.mark.parametrize("carrier", [*CARRIERS, "generic"])
async def test_the_query_goes_on_without_our_own_keys(gateway: Gateway, support: Agent, carrier: str) -> None:
    target = f"/ws/{carrier}?caller=1&serviceHost=support.acme&sample-rate=16000&token=secret&name=Zo%C3%AB+B"
    call = await connect(gateway, support, target)
    sent = [part for part in query_of(call.agent).split("&") if not part.startswith("body=")]
    assert "&".join(sent) == "caller=1&sample-rate=16000&name=Zo%C3%AB%20B"
    assert "secret" not in call.agent.path
    await hang_up(call)


@pytest.mark.parametrize(
    ("query", "sent"),
    [
        ("", ""),
        ("serviceHost=", ""),
        ("tok%65n=secret&caller=1", "caller=1"),
        ("_pipecatCloudServiceHost=support.acme&caller=1", "caller=1"),
        ("caller=1&caller=2&empty=&alone", "caller=1&caller=2&empty=&alone="),
        ("a=1;token=2", "a=1%3Btoken%3D2"),
        ("a=1%26token%3D2%23%0D%0A", "a=1%26token%3D2%23%0D%0A"),
        ("body=e30&caller=1", "body=e30%3D&caller=1"),
        (f"caller={'1' * 2041}", f"caller={'1' * 2041}"),
    ],
)
async def test_a_parameter_stays_what_it_was(gateway: Gateway, support: Agent, query: str, sent: str) -> None:
    call = await connect(gateway, support, f"/ws/generic/support.acme?{query}")
    assert query_of(call.agent) == sent
    await hang_up(call)


@pytest.mark.parametrize("query", [f"caller={'1' * 2042}", "&".join(f"a{n}=" for n in range(60))])
async def test_a_query_that_is_too_long_is_refused(gateway: Gateway, query: str) -> None:
    caller = await gateway.dial(f"/ws/generic/support.acme?{query}")
    assert caller.refusal == (413, "too_large")


@pytest.mark.parametrize("carrier", ["telnyx", "plivo"])
async def test_custom_data_is_in_the_body_where_bots_read_it_nowhere_else(
    gateway: Gateway, support: Agent, carrier: str
) -> None:
    """docs/reference/carriers.md §8.1: bots read no custom parameters of these carriers."""
    said = {"customer": 4711, "campaign": "mine"}
    call = await connect(
        gateway,
        support,
        f"/ws/{carrier}?serviceHost=support.acme&campaign=spring&user=7&body={encoded(said)}",
        parameters={"plan": "gold", "user": "8", "serviceHost": "support.acme"},
    )
    assert body_of(call.agent) == {"plan": "gold", "user": "7", "customer": 4711, "campaign": "mine"}
    await hang_up(call)


async def test_plivos_agent_gets_the_numbers_of_a_document_of_the_operators_own(
    gateway: Gateway, support: Agent
) -> None:
    call = await connect(
        gateway, support, "/ws/plivo/support.acme", from_number="14155550100", to_number="14155550199"
    )
    assert body_of(call.agent) == {"from": "14155550100", "to": "14155550199"}
    await hang_up(call)


async def test_plivos_agent_gets_the_numbers_of_the_streams_url(gateway: Gateway, support: Agent) -> None:
    """extraHeaders may have letters and digits alone (docs/reference/carriers.md §4.4), a URL anything."""
    target = "/ws/plivo/support.acme?caller=%2B14155550100&callee=%2B14155550199"
    call = await connect(gateway, support, target, parameters={"from": "newsletter"})
    assert body_of(call.agent) == {
        "from": "+14155550100",
        "to": "+14155550199",
        "caller": "+14155550100",
        "callee": "+14155550199",
    }
    (record,) = gateway.sessions(call.session)
    assert (record["from_number"], record["to_number"]) == ("+14155550100", "+14155550199")
    await hang_up(call)


async def test_custom_data_that_is_called_like_a_number_stays(gateway: Gateway, support: Agent) -> None:
    call = await connect(gateway, support, "/ws/plivo/support.acme", parameters={"from": "newsletter"})
    assert body_of(call.agent) == {"from": "newsletter"}
    await hang_up(call)


@pytest.mark.parametrize("carrier", ["twilio", "exotel"])
async def test_custom_parameters_stay_in_the_opening_where_bots_read_them(
    gateway: Gateway, support: Agent, carrier: str
) -> None:
    """`connect` asserts that the opening passes byte for byte."""
    call = await connect(gateway, support, f"/ws/{carrier}/support.acme", parameters={"plan": "gold"})
    assert query_of(call.agent) == ""
    await hang_up(call)


async def test_a_body_that_is_no_object_stays_as_it_is(gateway: Gateway, support: Agent) -> None:
    call = await connect(gateway, support, f"/ws/telnyx/support.acme?user=7&body={encoded([1])}")
    assert query_of(call.agent) == f"body={encoded([1])}&user=7"
    await hang_up(call)


async def test_a_body_never_grows_beyond_its_limit(gateway: Gateway, support: Agent) -> None:
    said = {"text": "x" * 4080}
    call = await connect(gateway, support, f"/ws/plivo/support.acme?user=7&body={encoded(said)}")
    assert body_of(call.agent) == said
    assert query_of(call.agent).endswith("&user=7")
    await hang_up(call)
