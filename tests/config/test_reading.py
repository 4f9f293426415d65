# SPDX-License-Identifier: BSD-2-Clause
"""Loading a valid configuration: the defaults, a full file, the environment over it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.config import AgentSettings, Organization, Settings, load

Read = Callable[..., Settings]


def test_without_file_and_variables_the_defaults_apply() -> None:
    settings = load(None, {"PATH": "/bin", "PATCHBAY_CONFIG": "elsewhere.toml"})

    assert settings == Settings()
    server, limits = settings.server, settings.limits
    assert (server.host, server.port, server.public_url) == ("127.0.0.1", 7860, None)
    assert (server.region, server.workers, server.drain_timeout) == ("us-west", 1, 7200)
    assert (server.log_format, server.log_level) == ("auto", "info")
    assert (settings.store.url, settings.store.path) == ("sqlite:///patchbay.db", Path("patchbay.db"))
    assert {region.code: region.display_name for region in settings.regions} == {
        "us-west": "US West (Oregon)",
        "us-east": "US East (Virginia)",
        "eu-central": "Europe (Frankfurt)",
        "ap-south": "Asia Pacific (Mumbai)",
    }
    assert (settings.organizations, settings.agents, settings.numbers) == ([], [], [])
    assert (limits.start_timeout, limits.agent_connect_timeout) == (10, 15)
    assert (limits.stall_timeout, limits.close_timeout) == (10, 2)
    assert (limits.max_message_bytes, limits.max_opening_bytes) == (1048576, 65536)
    assert (limits.max_body_bytes, limits.max_early_bytes) == (4096, 262144)


def test_an_agent_needs_a_name_and_an_owner_only() -> None:
    (agent,) = Settings(agents=[AgentSettings(name="support", organization="acme")]).agents

    assert agent.service_host == "support.acme"
    assert agent.region == "us-west"
    assert agent.instances == ["http://127.0.0.1:8080"]
    assert (agent.sessions_per_instance, agent.min_agents, agent.max_agents) == (1, 0, 50)
    assert (agent.max_session_duration, agent.idle_timeout, agent.websocket_auth) == (7200, 30, "none")


def test_a_full_file(read: Read, full: str) -> None:
    settings = read(full)

    support, reception = settings.agents
    assert settings.server.port == 8000
    assert settings.server.public_url == "https://voice.example.com"
    assert settings.store.path == Path("/var/lib/patchbay.db")
    assert support.region == "eu-central"  # the server's, because it names none
    assert support.instances == ["http://10.0.0.5:8080", "https://[::1]:8443"]
    assert support.websocket_auth == "token"
    assert (reception.region, reception.idle_timeout) == ("us-west", 0.5)
    assert settings.numbers[0].agent == support.service_host
    assert settings.limits.start_timeout == 2
    (acme,) = settings.organizations
    assert [key.get_secret_value() for key in acme.private_keys] == [
        "sk_acme-secret-0123456789",
        "pcc_pat_acme-secret-0123456789",
    ]


def test_regions_of_the_file_replace_the_default_ones(read: Read) -> None:
    settings = read(
        '[server]\nregion = "home"\n[[regions]]\ncode = "home"\ndisplay_name = "The cellar"\n', {}
    )
    assert [region.code for region in settings.regions] == ["home"]


def test_an_empty_list_of_regions_means_the_default_ones(read: Read) -> None:
    assert read("regions = []").regions == Settings().regions


def test_a_file_may_begin_with_a_byte_order_mark(read: Read) -> None:
    assert read("\ufeff[server]\nport = 1\n").server.port == 1


@pytest.mark.parametrize(
    ("variable", "value", "get", "expected"),
    [
        ("PATCHBAY_SERVER__PORT", "9000", lambda s: s.server.port, 9000),
        ("PATCHBAY_SERVER__PUBLIC_URL", "", lambda s: s.server.public_url, None),
        ("PATCHBAY_LIMITS__START_TIMEOUT", "0.25", lambda s: s.limits.start_timeout, 0.25),
        ("PATCHBAY_LIMITS", '{"stall_timeout": 3}', lambda s: s.limits.stall_timeout, 3),
        ("PATCHBAY_AGENTS__0__MAX_AGENTS", "5", lambda s: s.agents[0].max_agents, 5),
        ("PATCHBAY_AGENTS__1__REGION", "eu-central", lambda s: s.agents[1].region, "eu-central"),
        ("PATCHBAY_AGENTS__1__INSTANCES", '["http://a:1"]', lambda s: s.agents[1].instances, ["http://a:1"]),
        ("PATCHBAY_AGENTS__0__INSTANCES__1", "http://b:2", lambda s: s.agents[0].instances[1], "http://b:2"),
        ("PATCHBAY_AGENTS__0__INSTANCES__2", "http://c:3", lambda s: len(s.agents[0].instances), 3),
        (
            "PATCHBAY_AGENTS__1",
            '{"name": "desk", "organization": "acme", "region": null}',
            lambda s: (s.agents[1].service_host, s.agents[1].region),
            ("desk.acme", "eu-central"),
        ),
        (
            "PATCHBAY_AGENTS",
            '[{"name": "support", "organization": "acme", "max_agents": 7}]',
            lambda s: [agent.max_agents for agent in s.agents],
            [7],
        ),
    ],
)
def test_a_variable_overrides_the_file(
    read: Read, full: str, variable: str, value: str, get: Callable[[Settings], object], expected: object
) -> None:
    assert get(read(full, {variable: value})) == expected


@pytest.mark.parametrize("service", ["PATCHBAY", "PATCHBAY_INTERNAL", "PATCHBAY_EU_2_REDIS"])
def test_variables_that_kubernetes_sets_for_a_service_are_no_settings(service: str) -> None:
    """Of a Service named `patchbay`, or as the chart names its own: they are in every container beside it."""
    linked = {
        "SERVICE_HOST": "10.96.0.12",
        "SERVICE_PORT": "7860",
        "SERVICE_PORT_HTTP": "7860",
        "SERVICE_PORT_HTTP_ALT": "7861",
        "PORT": "tcp://10.96.0.12:7860",
        "PORT_7860_TCP": "tcp://10.96.0.12:7860",
        "PORT_7860_TCP_PROTO": "tcp",
        "PORT_7860_TCP_PORT": "7860",
        "PORT_7860_TCP_ADDR": "10.96.0.12",
    }
    environ = {f"{service}_{name}": value for name, value in linked.items()}
    assert load(None, {**environ, "PATCHBAY_SERVER__PORT": "9000"}).server.port == 9000


def test_a_variable_changes_its_value_only(read: Read, full: str) -> None:
    changed = read(full, {"PATCHBAY_AGENTS__0__MAX_AGENTS": "5"})
    support = read(full).agents[0]
    assert changed.agents[0] == support.model_copy(update={"max_agents": 5})
    assert changed.agents[1:] == read(full).agents[1:]


def test_variables_alone_can_define_an_agent_in_any_order() -> None:
    settings = load(
        None,
        {
            "PATCHBAY_AGENTS__1__NAME": "reception",
            "PATCHBAY_AGENTS__1__ORGANIZATION": "acme",
            "PATCHBAY_AGENTS__0__ORGANIZATION": "acme",
            "PATCHBAY_AGENTS__0__NAME": "support",
        },
    )
    assert [agent.service_host for agent in settings.agents] == ["support.acme", "reception.acme"]


def test_a_variable_for_a_list_applies_before_those_inside_it() -> None:
    environ = {
        "PATCHBAY_AGENTS__0__MAX_AGENTS": "3",
        "PATCHBAY_AGENTS": '[{"name": "support", "organization": "acme", "max_agents": 9}]',
    }
    assert load(None, environ).agents[0].max_agents == 3


def test_a_settings_object_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER", '{"port": 1}')
    monkeypatch.setenv("PATCHBAY_SERVER__PORT", "1")
    assert Settings().server.port == 7860


def test_settings_are_frozen() -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.server.port = 1
    with pytest.raises(ValidationError):
        settings.agents = []


def test_settings_that_are_built_in_code_are_checked_too() -> None:
    agent = AgentSettings(name="support", organization="nobody")
    with pytest.raises(ValidationError, match="no organisation 'nobody'"):
        Settings(agents=[agent], organizations=[Organization(name="acme")])
