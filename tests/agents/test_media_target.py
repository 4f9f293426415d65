# SPDX-License-Identifier: BSD-2-Clause
"""What is requested of an instance for a call's media socket, and what the Session API must not request."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.agents.directory import MAX_FORMER_AGENTS, MAX_FORMER_PATHS, AgentDirectory
from gateway.agents.media_socket import is_media_path, media_target
from gateway.config import AgentSettings, Settings

SESSION = "7c9e6679-7425-40de-944b-e07fc1f90ae7"


def agent(**keys: Any) -> AgentSettings:
    return AgentSettings.model_validate({"name": "support", "organization": "acme", **keys})


def path_of(call_id: str | None, **keys: Any) -> str:
    target = media_target(agent(**keys), "a=1", session_id=SESSION, carrier="twilio", call_id=call_id)
    assert target.query == "a=1"
    return target.path


def test_every_placeholder_is_filled_in() -> None:
    assert path_of("CA1", media_path="/s/{carrier}/{call_id}/{session}") == f"/s/twilio/CA1/{SESSION}"
    assert path_of("CA1") == "/ws"
    assert path_of("CA1", media_path="/media-stream") == "/media-stream"


@pytest.mark.parametrize(
    ("call_id", "escaped"),
    [("v3:a/b", "v3%3Aa%2Fb"), ("a?b#c", "a%3Fb%23c"), ("{session}", "%7Bsession%7D"), ("ä", "%C3%A4")],
)
def test_a_call_id_cannot_change_the_path(call_id: str, escaped: str) -> None:
    assert path_of(call_id, media_path="/c/{call_id}") == f"/c/{escaped}"


@pytest.mark.parametrize("call_id", [None, "", ".", ".."])
def test_a_call_without_a_usable_id_is_known_by_its_session(call_id: str | None) -> None:
    assert path_of(call_id, media_path="/c/{call_id}") == f"/c/{SESSION}"


def test_a_hidden_call_id_is_not_in_the_path() -> None:
    assert path_of("CA1", media_path="/c/{call_id}", hide_call_id=True) == f"/c/{SESSION}"


@pytest.mark.parametrize(
    ("media_path", "names", "is_one"),
    [
        ("/media-stream", ["media-stream"], True),
        ("/Media-Stream/", ["media-stream"], True),
        ("/media%2Dstream", ["media-stream"], True),
        ("/media-stream;v=1", ["media-stream"], True),
        ("/media-stream", ["media-stream", "token"], True),
        ("/media-stream", ["media"], False),
        ("/a/{session}/b", ["a", "anything", "b"], True),
        ("/a/{session}/b", ["a", "anything", "c"], False),
        ("/a/x-{session}", ["a", "x-1"], True),
        ("/a/x-{session}", ["a", "y-1"], False),
        ("/{session}", ["anything"], True),
        ("/{session}", ["anything", "below"], False),
        ("/", [], True),
        ("/", ["anything"], False),
    ],
)
def test_a_media_path_is_recognised_whatever_its_placeholders_stand_for(
    media_path: str, names: list[str], is_one: bool
) -> None:
    assert is_media_path(media_path, names) is is_one


def test_the_media_paths_that_an_agent_had_are_remembered_but_not_for_ever() -> None:
    directory = AgentDirectory(Settings())
    for number in range(2 * MAX_FORMER_PATHS):
        directory.refresh([agent(media_path=f"/{number}")])
    remembered = list(directory.media_paths("support.acme"))
    assert len(remembered) == MAX_FORMER_PATHS
    assert remembered[-1] == f"/{2 * MAX_FORMER_PATHS - 1}"
    directory.refresh([])
    assert list(directory.media_paths("support.acme")) == remembered, "its sessions may still run"
    for number in range(2 * MAX_FORMER_AGENTS):
        directory.refresh([agent(name=f"other-{number}", media_path="/media")])
    assert len(directory._media_paths) <= MAX_FORMER_AGENTS + 1
    assert list(directory.media_paths("support.acme")) == []
