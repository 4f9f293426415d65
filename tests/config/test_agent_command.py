# SPDX-License-Identifier: BSD-2-Clause
"""`[[agents]] command`: the settings by which the gateway starts an agent's instances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.config import AgentSettings, Problem, Settings
from gateway.config.toml_text import render

AGENT = "[[agents]]\nname = 'support'\norganization = 'acme'\n"
COMMAND = AGENT + "command = ['python', 'bot.py', '--port', '{port}']\n"


def test_an_agent_with_a_command_has_no_instances_of_its_own() -> None:
    agent = AgentSettings(name="support", organization="acme", command=["bot", "{port}"])
    assert agent.instances == []
    assert AgentSettings.model_validate(agent.model_dump()) == agent
    assert AgentSettings(name="support", organization="acme").instances == ["http://127.0.0.1:8080"]


@pytest.mark.parametrize(
    ("text", "place", "line", "words"),
    [
        (COMMAND + "instances = ['http://a']\n", "agents[0].instances", 5, "left out beside command"),
        (AGENT + "command = ['bot']\n", "agents[0].command", 4, "must say {port}"),
        (AGENT + "command = ['', '{port}']\n", "agents[0].command", 4, "the name of a program"),
        (AGENT + "command = 'bot {port}'\n", "agents[0].command", 4, "must be a list"),
        (COMMAND + "ports = '9000'\n", "agents[0].ports", 5, "must be two ports"),
        (COMMAND + "ports = '9001-9000'\n", "agents[0].ports", 5, "the smaller first"),
        (COMMAND + "ports = '1-70000'\n", "agents[0].ports", 5, "must be two ports"),
        (COMMAND + "ports = '9000-9001'\n", "agents[0].ports", 5, "at least as many as max_agents"),
        (
            COMMAND + "environment = { '1X' = 'secret' }\n",
            "agents[0].environment",
            5,
            "no name of a variable",
        ),
        (COMMAND + "user = 'a b'\n", "agents[0].user", 5, "user of this machine"),
        (COMMAND + "buffer = -1\n", "agents[0].buffer", 5, "greater than or equal to 0"),
        (COMMAND + "cooldown = 90000\n", "agents[0].cooldown", 5, "less than or equal to 86400"),
        (COMMAND + "start_limit = 0\n", "agents[0].start_limit", 5, "greater than 0"),
    ],
)
def test_a_command_that_cannot_work_is_refused_with_its_line(
    text: str, place: str, line: int, words: str, problems: Callable[..., tuple[Problem, ...]]
) -> None:
    (problem,) = problems(text)
    assert problem.place == place
    assert problem.where.endswith(f"line {line}")
    assert words in problem.message
    assert "secret" not in problem.message


def test_the_port_may_stand_in_the_environment(read: Callable[..., Settings]) -> None:
    (agent,) = read(AGENT + "command = ['bot']\nenvironment = { PORT = '{port}' }\n").agents
    assert agent.environment == {"PORT": "{port}"}


def test_places_of_started_instances_are_counted_by_their_limit(read: Callable[..., Settings]) -> None:
    (agent,) = read(COMMAND + "max_agents = 3\nreserve_inbound = 2\n").agents
    assert agent.reserve_inbound == 2


def test_an_environment_may_be_set_by_variables_and_references(read: Callable[..., Settings]) -> None:
    variables: dict[str, Any] = {
        "PATCHBAY_AGENTS__0__ENVIRONMENT": '{"KEY": "env:SECRET"}',
        "SECRET": "s3cret",
    }
    (agent,) = read(COMMAND, variables).agents
    assert agent.environment == {"KEY": "s3cret"}


def test_check_prints_no_variable_of_a_program(read: Callable[..., Settings]) -> None:
    printed = render(read(COMMAND + "environment = { KEY = 's3cret' }\n"))
    assert "s3cret" not in printed
    assert 'KEY = "****' in printed
