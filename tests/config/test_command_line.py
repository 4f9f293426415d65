# SPDX-License-Identifier: BSD-2-Clause
"""`patchbay check`, `patchbay serve` and `patchbay --version` as an operator types them."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import gateway.server.serve
from gateway import __version__
from gateway.cli import app
from gateway.config import Settings
from gateway.server.configuration_source import ConfigurationSource

Write = Callable[[str], Path]
PATCHBAY = Path(sys.executable).with_name("patchbay")


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    for name in os.environ:
        if name.startswith("PATCHBAY_"):
            monkeypatch.delenv(name)
    return CliRunner()


def test_check_prints_the_resolved_configuration_as_toml(runner: CliRunner, write: Write, full: str) -> None:
    result = runner.invoke(app, ["check", "--config", str(write(full))])

    assert (result.exit_code, result.stderr) == (0, "")
    printed = tomllib.loads(result.stdout)
    assert printed["server"]["port"] == 8000
    assert printed["server"]["drain_timeout"] == 7200
    assert printed["agents"][0]["region"] == "eu-central"
    assert len(printed["regions"]) == 4


def test_check_hides_secrets(runner: CliRunner, write: Write, full: str) -> None:
    result = runner.invoke(app, ["check", "--config", str(write(full))])

    assert "secret-0123456789" not in result.output
    assert 'private_keys = ["**********", "**********"]' in result.stdout


def test_the_output_of_check_is_a_configuration_with_the_same_meaning(
    runner: CliRunner, write: Write, read: Callable[..., Settings], full: str
) -> None:
    text = full.replace("sk_acme-secret-0123456789", "").replace(
        '["", "pcc_pat_acme-secret-0123456789"]', "[]"
    )
    odd = '\n[[regions]]\ncode = "eu-central"\ndisplay_name = "\\u007f \\"ü\\" \\\\ \\n\\u0001 🎧"\n'
    text += odd + '[[regions]]\ncode = "us-west"\ndisplay_name = "W"\n'

    printed = runner.invoke(app, ["check", "--config", str(write(text))]).stdout

    assert read(printed) == read(text)


def test_check_takes_the_file_and_values_from_the_environment(
    runner: CliRunner, write: Write, full: str
) -> None:
    environ = {"PATCHBAY_CONFIG": str(write(full)), "PATCHBAY_AGENTS__1__MAX_AGENTS": "5"}
    result = runner.invoke(app, ["check"], env=environ)
    assert tomllib.loads(result.stdout)["agents"][1]["max_agents"] == 5


def test_check_without_a_file_prints_the_defaults(runner: CliRunner) -> None:
    agents = {"PATCHBAY_AGENTS": '[{"name": "support", "organization": "acme"}]'}
    result = runner.invoke(app, ["check"], env=agents)
    assert result.exit_code == 0
    assert "# public_url is not set" in result.stdout


@pytest.mark.parametrize("command", ["check", "serve"])
def test_every_problem_goes_to_stderr(runner: CliRunner, write: Write, command: str) -> None:
    path = write("[server]\nport = 99999\nhsot = 'x'\n[[organizations]]\nprivate_keys = ['hunter2']\n")
    result = runner.invoke(app, [command, "--config", str(path)])

    assert (result.exit_code, result.stdout) == (1, "")
    first, *others = result.stderr.splitlines()
    assert first == "The configuration has 4 problems:"
    assert len(others) == 4
    assert f"  server.hsot ({path}, line 3): is not a known key: did you mean host?" in others
    assert "hunter2" not in result.stderr
    assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_missing_file_is_reported(runner: CliRunner, tmp_path: Path, command: str) -> None:
    result = runner.invoke(app, [command, "--config", str(tmp_path / "none.toml")])
    assert result.exit_code == 1
    assert "none.toml: cannot be read: No such file or directory" in result.stderr


def test_serve_runs_with_the_settings_and_exits_with_the_status(
    runner: CliRunner, write: Write, full: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[tuple[Settings, int | None]] = []
    path = write(full)

    def run(settings: Settings, *, replace: int | None, source: ConfigurationSource) -> int:
        served.append((settings, replace))
        assert source.file == path
        return 7

    monkeypatch.setattr(gateway.server.serve, "run", run)
    result = runner.invoke(app, ["serve", "--config", str(path)])
    assert result.exit_code == 7
    runner.invoke(app, ["serve", "--config", str(path), "--replace", "4711"])

    assert [settings.server.port for settings, _ in served] == [8000, 8000]
    assert [replace for _, replace in served] == [None, 4711]


def test_version(runner: CliRunner) -> None:
    assert runner.invoke(app, ["--version"]).stdout == f"patchbay {__version__}\n"


def test_the_installed_command_checks_a_file(write: Write, full: str) -> None:
    path = write(full)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PATCHBAY_")}

    def check(**more: str) -> subprocess.CompletedProcess[str]:
        command = [PATCHBAY, "check", "--config", path]
        return subprocess.run(
            command, env=environ | more, capture_output=True, text=True, timeout=120, check=False
        )

    good, bad = check(), check(PATCHBAY_SERVER__PORT="none")
    assert (good.returncode, good.stderr) == (0, "")
    assert tomllib.loads(good.stdout)["agents"][0]["name"] == "support"
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "PATCHBAY_SERVER__PORT: must be a valid integer" in bad.stderr
    assert "Traceback" not in bad.stderr
