# SPDX-License-Identifier: BSD-2-Clause
"""`patchbay call` where it is needed: at a gateway that has accounts with carriers, and refuses others."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.simulator.agent_call import AgentBehaviour
from gateway.simulator.call_options import CallOptions, PlannedCall, plan_call
from gateway.simulator.call_plan import UNHEARD, CallPlan, CallReport
from gateway.simulator.fake_agent import FakeAgent
from gateway.simulator.fake_carrier import place_call
from gateway.simulator.gateway_process import GatewayProcess
from gateway.simulator.wav import Recording

KEY = Ed25519PrivateKey.generate()
PRIVATE = base64.b64encode(KEY.private_bytes_raw()).decode()
ACCOUNTS: list[dict[str, Any]] = [
    {"carrier": "twilio", "account": "AC11111111111111111111111111111111", "auth_tokens": ["secret-1"]},
    {"carrier": "plivo", "account": "MA1", "auth_tokens": ["secret-2"]},
    {"carrier": "exotel", "account": "acme1", "auth_id": "key", "auth_tokens": ["secret-3"]},
    {
        "carrier": "telnyx",
        "public_keys": [base64.b64encode(KEY.public_key().public_bytes_raw()).decode()],
    },
]
CARRIERS = ("twilio", "telnyx", "plivo", "exotel")
NUMBER = "+15559876543"
HURRY: dict[str, Any] = {"answer_wait": 5.0, "pause": 0.2, "quiet": 1.0, "reply_limit": 5.0}


def settings(instance: str, **agent: Any) -> dict[str, Any]:
    support = {
        "name": "support",
        "organization": "acme",
        "instances": [instance],
        "sessions_per_instance": 20,
    }
    return {
        "server": {"public_url": "https://voice.example.com"},
        "organizations": [{"name": "acme", "carriers": ACCOUNTS}],
        "numbers": [{"number": NUMBER, "agent": "support.acme"}],
        "agents": [support | agent],
    }


@pytest.fixture
def proven(word: Recording, monkeypatch: pytest.MonkeyPatch) -> Callable[..., CallPlan]:
    """Plan a call as the command does, with the configuration of the gateway."""
    monkeypatch.setenv("TELNYX_TEST_KEY", PRIVATE)

    def plan(gateway: GatewayProcess, url: str, carrier: str, **options: Any) -> CallPlan:
        if carrier == "telnyx":
            options.setdefault("auth_token", "env:TELNYX_TEST_KEY")
        options.setdefault("config", gateway.directory / "patchbay.toml")
        planned = plan_call(CallOptions(url, carrier, **options), word)
        assert not planned.remarks
        return replace(planned.plan, **HURRY)

    return plan


@pytest.fixture
async def gateway(
    agent: Callable[..., AbstractAsyncContextManager[str]], tmp_path: Path
) -> AsyncIterator[GatewayProcess]:
    """A gateway whose calls must prove that they are a carrier's."""
    async with agent(sessions=20) as host, GatewayProcess(tmp_path, settings(f"http://{host}")) as running:
        yield running


async def all_of(*plans: CallPlan) -> list[CallReport]:
    return list(await asyncio.gather(*map(place_call, plans)))


async def test_every_carrier_fetches_its_document_and_dials_what_it_names(
    gateway: GatewayProcess, proven: Callable[..., CallPlan]
) -> None:
    url = f"{gateway.url}/xml/{{}}?agent=support&org=acme"
    reports = await all_of(*(proven(gateway, url.format(name), name, expect_audio=True) for name in CARRIERS))
    assert [report.error for report in reports] == [None] * len(CARRIERS)
    assert all(report.agent_audible for report in reports)
    for name, report in zip(CARRIERS, reports, strict=True):
        assert gateway.ended_session(report.call_id)["carrier"] == name


async def test_a_stream_is_dialled_with_the_accounts_signature(
    gateway: GatewayProcess, proven: Callable[..., CallPlan]
) -> None:
    names = ("twilio", "plivo", "exotel")
    plans = [proven(gateway, gateway.media_url, name, agent="support.acme") for name in names]
    reports = await all_of(*plans)
    assert [report.error for report in reports] == [None] * len(names)


async def test_without_it_the_call_is_refused(
    gateway: GatewayProcess, proven: Callable[..., CallPlan]
) -> None:
    streams = [proven(gateway, gateway.media_url, name, agent="support.acme") for name in CARRIERS]
    documents = [
        proven(gateway, f"{gateway.url}/xml/{name}?agent=support&org=acme", name) for name in CARRIERS
    ]
    reports = await all_of(*(replace(plan, signer=None) for plan in streams + documents))
    assert [report.refused for report in reports] == [403] * len(reports)
    assert all("refused with HTTP 403 Forbidden: " in (report.error or "") for report in reports)


async def test_the_called_number_routes_the_call(
    gateway: GatewayProcess, proven: Callable[..., CallPlan]
) -> None:
    documents = [proven(gateway, f"{gateway.url}/xml/{name}", name, to_number=NUMBER) for name in CARRIERS]
    streams = [proven(gateway, gateway.media_url, name, to_number=NUMBER) for name in ("twilio", "plivo")]
    reports = await all_of(*documents, *streams)
    assert [report.error for report in reports] == [None] * len(reports)
    for report in reports:
        record = gateway.ended_session(report.call_id)
        assert record["agent"] == "support.acme"
        assert record["to_number"].removeprefix("+") == NUMBER.removeprefix("+")


async def test_a_secret_of_ones_own_instead_of_the_configuration(
    gateway: GatewayProcess, proven: Callable[..., CallPlan], tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret-1\n")
    own: dict[str, Any] = {"config": None, "auth_token": f"file:{secret}", "account": ACCOUNTS[0]["account"]}
    plan = proven(gateway, gateway.media_url, "twilio", agent="support.acme", **own)
    assert (await place_call(plan)).refused == 403, "what is signed is the public URL"
    assert (await place_call(replace(plan, public_url="https://voice.example.com"))).error is None


@pytest.mark.parametrize("way", ["document", "stream"])
async def test_body_and_parameters_reach_the_agent(
    way: str, far_side: Callable[..., Any], proven: Callable[..., CallPlan], tmp_path: Path
) -> None:
    body = '{"customer": 4711}'
    async with far_side() as side:
        instance = side.url.replace("ws:", "http:")
        async with GatewayProcess(tmp_path, settings(instance)) as gateway:
            for name in CARRIERS if way == "document" else ("twilio", "plivo", "exotel"):
                url = f"{gateway.url}/xml/{name}?agent=support&org=acme"
                given: dict[str, Any] = {"body": body, "parameters": ("campaign=sale 5",)}
                if way == "stream":
                    url, given = gateway.media_url, given | {"agent": "support.acme"}
                elif name == "exotel":  # three parameters are all that its documents can have
                    del given["parameters"]
                side.path = ""
                plan = replace(proven(gateway, url, name, **given), answer_wait=0.1, quiet=0.2)
                report = await place_call(plan)
                assert report.error is None, name
                query = parse_qs(urlsplit(side.path).query)
                assert '"customer":4711' in base64.b64decode(query["body"][0]).decode(), name
                told = unquote(json.dumps([query, side.events("start")[-1]]))
                assert "sale 5" in told or "parameters" not in given, name


async def test_a_mute_agent_is_no_success_though_the_caller_hears_the_ringback(
    proven: Callable[..., CallPlan], tmp_path: Path
) -> None:
    behaviour = AgentBehaviour(delay=60.0, accept_after=1.0)
    mute = FakeAgent(behaviour, slots=20)
    async with mute.listening() as instance, GatewayProcess(tmp_path, settings(instance)) as gateway:
        url = f"{gateway.url}/xml/{{}}?agent=support&org=acme"
        plans = [proven(gateway, url.format(name), name, expect_audio=True) for name in CARRIERS]
        short: dict[str, Any] = {"answer_wait": 0.1, "greeting_limit": 1.0, "reply_limit": 1.0}
        reports = await all_of(*(replace(plan, **short) for plan in plans))
    for report in reports:
        assert report.audible_ms > 0, "it is the gateway's"
        assert (report.error, report.unheard, report.agent_audible) == (UNHEARD, True, False)
        assert report.setup_ms is None


def test_an_account_that_cannot_sign_is_told(word: Recording, tmp_path: Path) -> None:
    file = tmp_path / "patchbay.toml"
    file.write_text(
        '[server]\npublic_url = "https://voice.example.com"\n'
        '[[organizations]]\nname = "acme"\n[[organizations.carriers]]\ncarrier = "telnyx"\n'
        f'public_keys = ["{ACCOUNTS[3]["public_keys"][0]}"]\n'
    )
    planned = plan_call(CallOptions("https://voice.example.com/xml/telnyx", "telnyx", config=file), word)
    assert planned.plan.signer is None
    assert "a key that nobody else has" in planned.remarks[0]
    planned = plan_call(CallOptions("https://voice.example.com/xml/plivo", "plivo", config=file), word)
    assert "no account with plivo" in planned.remarks[0]


def test_whose_account_signs_is_told_by_the_agent(word: Recording, tmp_path: Path) -> None:
    file = tmp_path / "patchbay.toml"
    file.write_text(
        "".join(
            f'[[organizations]]\nname = "{name}"\n[[organizations.carriers]]\ncarrier = "twilio"\n'
            f'account = "AC{name}"\nauth_tokens = ["of-{name}"]\n'
            for name in ("acme", "globex")
        )
    )
    for url, agent in (
        ("wss://h.example", "support.globex"),
        ("wss://h.example/ws/twilio/support.globex/token", None),
        ("https://h.example/xml/twilio?agent=support&org=globex", None),
    ):
        plan = plan_call(CallOptions(url, "twilio", agent=agent, config=file), word).plan
        assert plan.account == "ACglobex"
    with pytest.raises(ValueError, match="name the agent"):
        plan_call(CallOptions("wss://h.example", "twilio", config=file), word)


def test_nobody_else_is_sent_what_is_good_at_the_gateway(
    word: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "secret-1")
    file = tmp_path / "patchbay.toml"
    file.write_text(
        '[server]\npublic_url = "https://voice.example.com"\n[[organizations]]\nname = "acme"\n'
        '[[organizations.carriers]]\ncarrier = "twilio"\nauth_tokens = ["secret-1"]\n'
    )

    def planned(url: str, **options: Any) -> PlannedCall:
        return plan_call(CallOptions(url, "twilio", config=file, **options), word)

    for ours in ("wss://voice.example.com", "wss://eu-central.voice.example.com", "ws://127.0.0.1:7860"):
        assert planned(ours).plan.signer is not None
    strange = planned("wss://elsewhere.example")
    assert strange.plan.signer is None
    assert "elsewhere.example is neither this machine nor public_url" in strange.remarks[0]
    assert planned("wss://elsewhere.example", auth_token="env:SECRET").plan.public_url is None
    behind = planned("ws://gateway.internal:7860", public_url="https://voice.example.com")
    assert behind.plan.signer is not None
