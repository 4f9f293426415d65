# SPDX-License-Identifier: BSD-2-Clause
"""What a worker has from its configuration, when it gets another one."""

from __future__ import annotations

import time
import wave
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.agents.agent_rules import fit
from gateway.agents.directory import AgentDirectory
from gateway.agents.health_check import health_checks
from gateway.agents.instance_health import InstanceHealth
from gateway.agents.stored_agents import StoredAgents
from gateway.audio.prompt import PromptError
from gateway.calls import reconfiguration
from gateway.calls.hold_audio import HeldStream
from gateway.calls.services import CallServices, make_call_services
from gateway.config import Settings
from gateway.model.reasons import CallEnded, Reasons
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId
from serializers.registry import DIALECTS
from tests.harness.transcripts import opening

HERE, THERE = "http://127.0.0.1:9001", "http://127.0.0.1:9002"
TWILIO = {"carrier": "twilio", "auth_tokens": ["a-token"], "account": "AC1"}


def settings(*agents: dict[str, Any], acme: dict[str, Any] | None = None, **more: Any) -> Settings:
    acme = {"name": "acme", "private_keys": ["sk_acme"], **(acme or {})}
    rows = [{"organization": "acme", "instances": [HERE], **agent} for agent in agents]
    return Settings.model_validate({"organizations": [acme, {"name": "globex"}], "agents": rows, **more})


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[CallServices]:
    store = SqliteStore(tmp_path / "patchbay.db", WorkerId.of_this_process("here"))
    await store.open()
    first = settings({"name": "support"}, acme={"carriers": [TWILIO]})
    directory = AgentDirectory(first)
    tokens: Any = None
    made = make_call_services(
        first, store, directory, InstanceHealth(health_checks(directory.agents)), tokens
    )
    yield made
    await made.clients.close()
    await store.close()


def configure(services: CallServices, new: Settings) -> None:
    reconfiguration.apply(services, reconfiguration.read(new))


async def test_agents_and_numbers_are_the_new_ones(services: CallServices) -> None:
    number = {"number": "+15559876543", "agent": "sales.acme"}
    new = settings({"name": "sales", "instances": [THERE]}, numbers=[number])
    configure(services, new)
    assert services.settings.agents == new.agents
    assert services.agents.called("+15559876543", None).name == "sales"
    assert services.health.is_watched(THERE)
    assert not services.health.is_watched(HERE)
    with pytest.raises(CallEnded) as refused:
        services.agents.agent("support.acme", None)
    assert refused.value.reason is Reasons.unknown_agent


async def test_an_unchanged_account_has_its_client_still_and_a_removed_one_leaves_nothing(
    services: CallServices,
) -> None:
    (account,) = services.accounts.of("acme", "twilio")
    client = services.clients.first([account], None)
    assert services.authenticated_carriers == {"twilio"}
    configure(services, settings({"name": "sales"}, acme={"carriers": [dict(TWILIO)]}))
    (same,) = services.accounts.of("acme", "twilio")
    assert services.clients.first([same], None) is client
    configure(services, settings({"name": "sales"}))
    assert services.accounts.of("acme", "twilio") == ()
    assert services.authenticated_carriers == frozenset()
    assert not services.clients._clients


async def test_a_connection_that_a_removed_key_opened_ends_at_once(services: CallServices) -> None:
    principal = await services.api_keys.identify("sk_acme")
    assert principal is not None
    with services.key_events.waiting(principal) as revoked:
        configure(services, settings({"name": "support"}))
        assert not revoked.done(), "its key is there still"
        configure(services, settings({"name": "support"}, acme={"private_keys": ["sk_another"]}))
        assert revoked.done()


async def test_stored_agents_are_fitted_again_without_the_store(services: CallServices) -> None:
    store, now = services.store, time.time()
    stored = StoredAgents(services.agents, store)
    made = fit({"name": "made", "organization": "acme", "instances": [HERE]}, services.settings)
    assert await stored.create(made, now) is not None
    await stored.refresh(services.health, now)
    assert services.agents.find("made.acme") is not None
    configure(services, settings({"name": "support", "instances": [THERE]}))
    assert services.agents.find("made.acme") is None, "its instance is in the configuration no more"
    configure(services, settings({"name": "support"}))
    assert services.agents.find("made.acme") == made
    configure(services, settings({"name": "support"}, {"name": "made", "media_path": "/mine"}))
    agent = services.agents.find("made.acme")
    assert agent is not None
    assert agent.media_path == "/mine", "the configured one counts"


def tone(path: Path, sample: bytes, rate: int = 8000) -> str:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(sample * rate)
    return str(path)


async def test_a_recording_that_was_replaced_is_played_to_the_next_caller(
    services: CallServices, tmp_path: Path
) -> None:
    dialect = DIALECTS["twilio"]
    start: Any = [dialect.read_carrier(message) for message in opening("twilio")][-1]
    with_tone = settings({"name": "support", "hold": tone(tmp_path / "hold.wav", b"\x00\x20")})
    (agent,) = with_tone.agents

    def heard() -> Any:
        return services.hold_audio.clip_of(agent, HeldStream(dialect, start), answered=False)

    configure(services, with_tone)
    first = heard()
    configure(services, with_tone)
    assert heard() is first, "the same file is the same clip"
    tone(tmp_path / "hold.wav", b"\x00\x10")
    configure(services, with_tone)
    assert heard() != first
    (tmp_path / "hold.wav").write_bytes(b"no sound")
    before = services.settings
    with pytest.raises(PromptError):
        configure(services, with_tone)
    assert services.settings is before
    configure(services, settings({"name": "support"}))
    assert not services.hold_audio._clips._clips, "what nobody plays is not in memory"
