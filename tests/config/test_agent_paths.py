# SPDX-License-Identifier: BSD-2-Clause
"""The paths of an agent's media socket and health check, and how often it is asked."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.config import AgentSettings


def agent(**keys: Any) -> AgentSettings:
    return AgentSettings.model_validate({"name": "support", "organization": "acme", **keys})


def test_an_agent_keeps_the_contract_of_the_base_image_unless_it_says_otherwise() -> None:
    support = agent()
    assert (support.media_path, support.health_path, support.health_interval) == ("/ws", "/readyz", 2.0)


@pytest.mark.parametrize(
    "path",
    ["/", "/media-stream", "/a/{session}", "/{carrier}/{call_id}/x-{session}", "/a%20b/c;v=1", "/ws/"],
)
def test_a_media_path_may_have_placeholders(path: str) -> None:
    assert agent(media_path=path).media_path == path


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", "begin with one slash"),
        ("media", "begin with one slash"),
        ("//media", "begin with one slash"),
        ("/a?token=1", "a path alone"),
        ("/a#b", "a path alone"),
        ("/{session", "characters that URLs have"),
        ("/a b", "characters that URLs have"),
        ("/a%2", "characters that URLs have"),
        ("/" + "a" * 1000, "at most 1000"),
        ("/a/../b", "segments . or .."),
        ("/{sesion}", "unknown placeholder {sesion}; known are {session}, {carrier}, {call_id}"),
        ("/{}", "unknown placeholder {}"),
    ],
)
def test_what_is_no_media_path_is_refused(path: str, words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        agent(media_path=path)
    assert words in str(refused.value)


@pytest.mark.parametrize("path", ["", "/", "/healthz", "/api/v1/health"])
def test_a_health_path_may_be_empty(path: str) -> None:
    assert agent(health_path=path).health_path == path


@pytest.mark.parametrize("path", ["health", "/health?full=1", "/{session}", "/.."])
def test_what_is_no_health_path_is_refused(path: str) -> None:
    with pytest.raises(ValidationError):
        agent(health_path=path)


@pytest.mark.parametrize("seconds", [0, 0.5, 30, 3600])
def test_a_health_interval_may_be_none_at_all(seconds: float) -> None:
    assert agent(health_interval=seconds).health_interval == seconds


@pytest.mark.parametrize("seconds", [-1, 0.1, 3601, True])
def test_other_health_intervals_are_refused(seconds: float) -> None:
    with pytest.raises(ValidationError):
        agent(health_interval=seconds)
