# SPDX-License-Identifier: BSD-2-Clause
"""`patchbay call` for scripts and for people: its JSON, its exit status, and none of its secrets."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import gateway.simulator.place_calls
from gateway.cli import app
from gateway.simulator.call_plan import UNHEARD, CallPlan, CallReport
from gateway.simulator.redacted_url import redacted

TOKEN = "AQAAAaH-gDP-r37UNdDlWgwH0Gir44RGhdCT9gbgrEp0tEiEujnie1yT9UpWJFdS5IpReHii"
URL = f"wss://voice.example.com/ws/twilio/support.acme/{TOKEN}"

GOOD: dict[str, Any] = {"close_code": 1000, "ended_by": "caller", "agent_audible": True}


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Result, list[CallPlan]]]:
    """Run the command, whose calls all end with this report."""

    def run(*arguments: str, typed: str | None = None, **report: Any) -> tuple[Result, list[CallPlan]]:
        placed: list[CallPlan] = []

        async def place(plans: list[CallPlan], _: object) -> list[CallReport]:
            placed.extend(plans)
            return [CallReport(plan.carrier, plan.url, **(report or GOOD)) for plan in plans]

        monkeypatch.setattr(gateway.simulator.place_calls, "place_calls", place)
        monkeypatch.delenv("PATCHBAY_CONFIG", raising=False)
        return CliRunner().invoke(app, ["call", *arguments], input=typed), placed

    return run


Command = Callable[..., tuple[Result, list[CallPlan]]]


def test_one_json_object_for_scripts(command: Command) -> None:
    result, _ = command(URL, "--json", "--calls", "2", call_id="CA1", **GOOD)
    assert result.exit_code == 0
    value = json.loads(result.stdout)
    assert (value["ok"], value["exit_status"], value["error"]) == (True, 0, None)
    assert [(call["ok"], call["call_id"], call["close_code"]) for call in value["calls"]] == [
        (True, "CA1", 1000)
    ] * 2


@pytest.mark.parametrize(
    ("report", "status"),
    [
        (GOOD, 0),
        ({"error": "refused with HTTP 403 Forbidden", "refused": 403}, 1),
        ({"error": UNHEARD, "close_code": 1000}, 3),
        (GOOD | {"agent_audible": False}, 0),
    ],
)
def test_the_exit_status_says_what_came_of_it(command: Command, report: dict[str, Any], status: int) -> None:
    result, _ = command(URL, "--json", **report)
    assert (result.exit_code, json.loads(result.stdout)["exit_status"]) == (status, status)


def test_a_mute_agent_is_remarked_at_least(command: Command) -> None:
    result, _ = command(URL, **GOOD | {"agent_audible": False})
    assert "--expect-audio" in result.stderr


def test_what_cannot_be_called_is_told_in_json_too(command: Command) -> None:
    result, placed = command("ftp://voice.example.com", "--json")
    assert (result.exit_code, placed) == (1, [])
    assert "must begin with ws://" in json.loads(result.stdout)["error"]


def test_a_command_that_is_none_is_2(command: Command) -> None:
    assert command(URL, "--carrier", "nobody")[0].exit_code == 2


@pytest.mark.parametrize("report", [GOOD, {"error": "could not connect: Connection refused"}])
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_no_secret_is_printed(
    command: Command, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], report: dict[str, Any]
) -> None:
    monkeypatch.setenv("SECRET", "secret-of-the-account")
    url = f"{URL.replace('://', '://KEY:PASSWORD@')}?token=TOKEN-2&serviceHost=support.acme"
    result, (plan,) = command(url, "--auth-token", "env:SECRET", *options, **report)
    assert plan.url == url
    printed = result.stdout + result.stderr
    assert "voice.example.com" in printed
    for secret in (TOKEN, "PASSWORD", "TOKEN-2", "secret-of-the-account"):
        assert secret not in printed


def test_a_secret_in_the_arguments_is_refused(command: Command) -> None:
    """Everybody on the machine reads the arguments of a process (ps(1))."""
    result, placed = command(URL, "--auth-token", "secret-of-the-account")
    assert (result.exit_code, placed) == (1, [])
    assert "env:NAME, file:PATH or -" in result.stderr
    assert "secret-of-the-account" not in result.stderr


def test_a_url_with_a_token_need_not_be_an_argument(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("STREAM", URL)
    (tmp_path / "url").write_text(f"{URL}\n")
    for argument, typed in (("env:STREAM", None), (f"file:{tmp_path}/url", None), ("-", f"{URL}\n")):
        result, (plan,) = command(argument, typed=typed)
        assert (result.exit_code, plan.url) == (0, URL)


@pytest.mark.parametrize("argument", ["env:NOT_SET_ANYWHERE", "file:/nowhere/at/all", "-"])
def test_a_reference_to_nothing(command: Command, argument: str) -> None:
    assert command(argument, typed="")[0].exit_code == 1


@pytest.mark.parametrize("options", [("--param", "name"), ("--param", "=x"), ("--body", "{no json")])
def test_data_that_is_none(command: Command, options: tuple[str, ...]) -> None:
    result, placed = command(URL, *options)
    assert (result.exit_code, placed) == (1, [])


def test_parameters_and_body_are_planned(command: Command) -> None:
    _, (plan,) = command(URL, "--param", "a=1", "--param", "b=x=y", "--body", '{ "c": [1] }')
    assert (dict(plan.parameters), plan.body) == ({"a": "1", "b": "x=y"}, '{"c":[1]}')


@pytest.mark.parametrize(
    ("url", "printed"),
    [
        ("ws://127.0.0.1:7860", "ws://127.0.0.1:7860"),
        ("ws://[::1]:7860/ws/plivo?serviceHost=a.o", "ws://[::1]:7860/ws/plivo?serviceHost=a.o"),
        (URL, "wss://voice.example.com/ws/twilio/support.acme/…"),
        ("https://u:p@h/xml/twilio?agent=a&org=o&body=e30=", "https://h/xml/twilio?agent=a&org=o&body=…"),
        ("wss://h/ws/plivo?token=abc&x=1", "wss://h/ws/plivo?token=…&x=…"),
    ],
)
def test_urls_are_printed_without_what_is_secret(url: str, printed: str) -> None:
    assert redacted(url) == printed
