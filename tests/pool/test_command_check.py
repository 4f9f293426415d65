# SPDX-License-Identifier: BSD-2-Clause
"""`patchbay check` says why an agent's command could not be run here."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Settings
from gateway.config.consistency import format_path
from gateway.config.workability import Concern, Severity
from gateway.pool.command_check import find_command_concerns

ENVIRON = {"PATH": os.environ["PATH"]}


def concerns(folder: Path, server: dict[str, Any] | None = None, **agent: Any) -> list[Concern]:
    table = {
        "name": "support",
        "organization": "acme",
        "command": [sys.executable, "bot.py", "{port}"],
        **agent,
    }
    tables = {"agents": [table], "server": {"pool_folder": str(folder / "pool"), **(server or {})}}
    return list(find_command_concerns(Settings.model_validate(tables), ENVIRON))


def test_a_command_that_can_be_run_is_no_concern(tmp_path: Path) -> None:
    assert concerns(tmp_path) == []
    assert concerns(tmp_path, command=["env", "{port}"], cwd=str(tmp_path)) == []
    assert not (tmp_path / "pool").exists()


@pytest.mark.parametrize(
    ("agent", "place", "words"),
    [
        ({"command": ["no-such-program", "{port}"]}, "agents[0].command", "is in no directory of PATH"),
        ({"command": ["./no-such-bot", "{port}"]}, "agents[0].command", "./no-such-bot is not there"),
        ({"command": ["./text", "{port}"]}, "agents[0].command", "./text cannot be executed"),
        ({"command": ["env", "{port}"], "environment": {"PATH": "/none"}}, "agents[0].command", "of PATH"),
        ({"cwd": "/no/such/folder"}, "agents[0].cwd", "is no directory"),
        ({"user": "no-such-user"}, "agents[0].user", "there is no user 'no-such-user'"),
        ({"log_folder": "/dev/null/logs"}, "agents[0].log_folder", "/dev/null is none"),
    ],
)
def test_what_is_missing_is_named_with_its_place(
    agent: dict[str, Any], place: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("")
    (concern,) = concerns(tmp_path, **{"cwd": str(tmp_path), **agent})
    assert format_path(concern.location) == place
    assert words in concern.message
    assert concern.severity is Severity.REPAIRABLE


def test_another_user_needs_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (concern,) = concerns(tmp_path, user="root")
    assert concern.severity is Severity.REFUSED
    assert "only where the gateway runs as root" in concern.message


def test_a_folder_that_cannot_be_made_is_a_concern(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (concern,) = concerns(tmp_path, server={"pool_folder": str(tmp_path / "file" / "pool")})
    assert format_path(concern.location) == "server.pool_folder"


def test_agents_without_a_command_need_nothing(tmp_path: Path) -> None:
    table = {"name": "support", "organization": "acme"}
    settings = Settings.model_validate({"agents": [table], "server": {"pool_folder": "/dev/null/pool"}})
    assert list(find_command_concerns(settings, ENVIRON)) == []
