# SPDX-License-Identifier: BSD-2-Clause
"""Which agent a call reaches: by path, query, parameter or called number, in its region
(docs/reference/public-api.md).
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import quote

import pytest

from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import assert_ended, assert_refused, connect, hang_up
from tests.harness.gateway import Gateway
from tests.harness.transcripts import CARRIERS, opening

SALES_NUMBER = "+14155550142"
INDIAN_NUMBER = "+914440000319"
EU_NUMBER = "+4930555012"
EU_HOSTS = ["eu-central.api.example.com", "eu-central.localhost", "EU-Central.localhost:7860"]


@pytest.fixture(scope="module")
def sales_port(agent_port: Callable[[], AgentPort]) -> AgentPort:
    return agent_port()


@pytest.fixture(scope="module")
def eu_port(agent_port: Callable[[], AgentPort]) -> AgentPort:
    return agent_port()


@pytest.fixture(scope="module")
def settings(sales_port: AgentPort, eu_port: AgentPort) -> dict[str, Any]:
    sales = {"name": "sales", "organization": "acme", "instances": [sales_port.url], "max_agents": 1}
    eu = {
        "name": "berlin",
        "organization": "acme",
        "region": "eu-central",
        "instances": [eu_port.url],
        "max_agents": 1,
    }
    numbers = {SALES_NUMBER: "sales.acme", INDIAN_NUMBER: "sales.acme", EU_NUMBER: "berlin.acme"}
    routes = [{"number": number, "agent": agent} for number, agent in numbers.items()]
    return {"agents": [sales, eu], "numbers": routes}


@pytest.fixture
async def sales(agent_at: Callable[..., Any], sales_port: AgentPort, support: Agent) -> AsyncIterator[Agent]:
    """sales.acme; the other agent is there too, and must not be called."""
    yield await agent_at(sales_port)
    assert support.upgrades == 0


@pytest.fixture
async def berlin(agent_at: Callable[..., Any], eu_port: AgentPort) -> Agent:
    agent: Agent = await agent_at(eu_port)
    return agent


async def reaches(gateway: Gateway, agent: Agent, target: str, name: str = "sales.acme", **how: Any) -> None:
    call = await connect(gateway, agent, target, **how)
    await hang_up(call)
    record = await assert_ended(gateway, call.session, "caller_hangup", "caller")
    assert record["agent"] == name


@pytest.mark.parametrize("carrier", [*CARRIERS, "generic"])
async def test_a_call_is_routed_by_path(gateway: Gateway, sales: Agent, carrier: str) -> None:
    await reaches(gateway, sales, f"/ws/{carrier}/sales.acme")


@pytest.mark.parametrize("carrier", [*CARRIERS, "generic"])
async def test_a_call_is_routed_by_query(gateway: Gateway, sales: Agent, carrier: str) -> None:
    await reaches(gateway, sales, f"/ws/{carrier}?serviceHost=sales.acme")


@pytest.mark.parametrize("key", ["_pipecatCloudServiceHost", "serviceHost"])
@pytest.mark.parametrize("carrier", CARRIERS)
async def test_a_call_is_routed_by_custom_parameter(
    gateway: Gateway, sales: Agent, carrier: str, key: str
) -> None:
    await reaches(gateway, sales, f"/ws/{carrier}", parameters={key: "sales.acme", "tenant": "7"})


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_a_call_is_routed_by_called_number(gateway: Gateway, sales: Agent, carrier: str) -> None:
    await reaches(gateway, sales, f"/ws/{carrier}", to_number=SALES_NUMBER)


@pytest.mark.parametrize("number", ["14155550142", "+1 (415) 555-0142"])
async def test_a_called_number_matches_however_it_is_written(
    gateway: Gateway, sales: Agent, number: str
) -> None:
    # docs/reference/carriers.md §4.4: without the plus
    await reaches(gateway, sales, "/ws/plivo", to_number=number)


@pytest.mark.parametrize(
    "address",
    [
        f"sip:{SALES_NUMBER}@acme.sip.us1.twilio.com",
        f"sip:{SALES_NUMBER};ext=7@203.0.113.7:5060;user=phone",
        f"tel:{SALES_NUMBER};phone-context=+44",
    ],
)
async def test_a_called_sip_or_tel_address_reaches_the_agent_of_its_number(
    gateway: Gateway, sales: Agent, address: str
) -> None:
    await reaches(gateway, sales, "/ws/telnyx", to_number=address)


@pytest.mark.parametrize(
    ("target", "parameters"),
    [
        ("/ws/twilio", {"To": f"sip:{SALES_NUMBER}@voice.example.com", "From": "sip:+4930123@example.com"}),
        ("/ws/plivo", {"callee": SALES_NUMBER.removeprefix("+")}),
        ("/ws/plivo?to=%2B14155550142", {}),
        ("/ws/plivo?callee=%2B15550000000", {"to_number": SALES_NUMBER}),
    ],
    ids=str,
)
async def test_a_called_number_counts_by_any_name_that_is_in_use(
    gateway: Gateway, sales: Agent, target: str, parameters: dict[str, str]
) -> None:
    await reaches(gateway, sales, target, parameters=parameters)


async def test_a_national_number_matches(gateway: Gateway, sales: Agent) -> None:
    """Exotel writes 0… for +91… (docs/reference/carriers.md §5.2)."""
    await reaches(gateway, sales, "/ws/exotel", to_number="0" + INDIAN_NUMBER.removeprefix("+91"))


async def test_a_name_counts_before_a_number(gateway: Gateway, sales: Agent, berlin: Agent) -> None:
    await reaches(gateway, sales, "/ws/telnyx/sales.acme", to_number=EU_NUMBER)


async def test_two_names_that_agree(gateway: Gateway, sales: Agent) -> None:
    await reaches(
        gateway,
        sales,
        "/ws/twilio/sales.acme?serviceHost=sales.acme",
        parameters={"_pipecatCloudServiceHost": "sales.acme", "serviceHost": "sales.acme"},
    )


# Regions


@pytest.mark.parametrize("host", EU_HOSTS)
@pytest.mark.parametrize("carrier", [*CARRIERS, "generic"])
async def test_the_region_comes_from_the_host(
    gateway: Gateway, berlin: Agent, carrier: str, host: str
) -> None:
    call = await connect(gateway, berlin, f"/ws/{carrier}/berlin.acme", host=host)
    await hang_up(call)
    record = await assert_ended(gateway, call.session, "caller_hangup", "caller")
    assert (record["region"], record["agent"]) == ("eu-central", "berlin.acme")


@pytest.mark.parametrize("host", EU_HOSTS)
async def test_the_called_number_in_its_region(gateway: Gateway, berlin: Agent, host: str) -> None:
    await reaches(gateway, berlin, "/ws/telnyx", "berlin.acme", to_number=EU_NUMBER, host=host)


@pytest.mark.parametrize(
    ("host", "agent"),
    [
        ("api.example.com", "berlin.acme"),
        ("us-west.api.example.com", "berlin.acme"),
        ("mars.api.example.com", "berlin.acme"),  # no region: the gateway's own
        ("eu-central", "berlin.acme"),  # a host of that name is no region
        ("127.0.0.1", "berlin.acme"),
        ("eu-central.localhost", "sales.acme"),
        ("ap-south.localhost", "sales.acme"),
    ],
)
async def test_a_region_reaches_only_its_own_agents(gateway: Gateway, host: str, agent: str) -> None:
    before = len(gateway.ends())
    caller = await gateway.dial(f"/ws/generic/{agent}", host=host)
    assert caller.refusal == (404, "wrong_region")
    await assert_refused(gateway, before, "wrong_region")


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_a_parameter_or_number_of_another_region(gateway: Gateway, carrier: str) -> None:
    for how in ({"parameters": {"serviceHost": "berlin.acme"}}, {"to_number": EU_NUMBER}):
        before = len(gateway.ends())
        caller = await gateway.dial(f"/ws/{carrier}")
        for message in opening(carrier, **how):  # type: ignore[arg-type]
            caller.say(message)
        code, detail = await caller.closed()
        assert (code, "eu-central" in detail or "us-west" in detail) == (1008, True)
        await assert_refused(gateway, before, "wrong_region")


# Two that disagree


@pytest.mark.parametrize(
    "target",
    [
        "/ws/twilio/sales.acme?serviceHost=support.acme",
        "/ws/generic/sales.acme?serviceHost=support.acme",
        "/ws/generic?serviceHost=sales.acme&serviceHost=support.acme",
    ],
)
async def test_two_names_in_the_url(gateway: Gateway, support: Agent, target: str) -> None:
    before = len(gateway.ends())
    caller = await gateway.dial(target)
    assert caller.refusal == (400, "bad_request")
    assert "sales.acme" in caller.json["error"]
    assert "support.acme" in caller.json["error"]
    await assert_refused(gateway, before, "bad_request")
    assert support.upgrades == 0


@pytest.mark.parametrize("target", ["/ws/{}/sales.acme", "/ws/{}?serviceHost=sales.acme"])
@pytest.mark.parametrize("carrier", CARRIERS)
async def test_a_parameter_that_names_another_agent_than_the_url(
    gateway: Gateway, support: Agent, carrier: str, target: str
) -> None:
    before = len(gateway.ends())
    caller = await gateway.dial(target.format(carrier))
    for message in opening(carrier, {"_pipecatCloudServiceHost": "support.acme"}):
        caller.say(message)
    assert await caller.closed() == (1008, "two agents are named: sales.acme and support.acme")
    await assert_refused(gateway, before, "bad_request")
    assert support.upgrades == 0


# The body for the agent

BODY = {"customer": "Zoë ≥ 1", "text": "?>" * 20}
STANDARD = base64.b64encode(json.dumps(BODY).encode()).decode()
URL_SAFE = base64.urlsafe_b64encode(json.dumps(BODY, ensure_ascii=False).encode()).decode()


@pytest.mark.parametrize("carrier", [*CARRIERS, "generic"])
@pytest.mark.parametrize(
    "body", [quote(STANDARD, safe=""), STANDARD, URL_SAFE], ids=["quoted", "bare", "safe"]
)
async def test_the_agent_gets_the_body(gateway: Gateway, support: Agent, carrier: str, body: str) -> None:
    call = await connect(gateway, support, f"/ws/{carrier}/support.acme?body={body}")
    (passed,) = call.agent.query["body"]
    assert json.loads(base64.b64decode(passed, validate=True)) == BODY
    await hang_up(call)


async def test_the_agent_gets_the_rest_of_the_query(gateway: Gateway, support: Agent) -> None:
    call = await connect(gateway, support, "/ws/twilio/support.acme?tenant=acme&x=%00")
    assert call.agent.path == "/ws?tenant=acme&x=%00"
    await hang_up(call)


async def test_the_longest_body(gateway: Gateway, support: Agent) -> None:
    text = json.dumps("x" * (4096 - 2)).encode()
    body = base64.b64encode(text).decode()
    call = await connect(gateway, support, f"/ws/twilio/support.acme?body={quote(body)}")
    assert base64.b64decode(call.agent.query["body"][0]) == text
    await hang_up(call)
