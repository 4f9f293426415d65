# SPDX-License-Identifier: BSD-2-Clause
"""`env:NAME`: a value from an environment variable, such as a key, which is never printed."""

from __future__ import annotations

import tomllib
from collections.abc import Callable

import pytest

from gateway.config import DailySettings, Problem, Settings
from gateway.config.toml_text import render

Read = Callable[..., Settings]
Problems = Callable[..., tuple[Problem, ...]]

ACME = "[[organizations]]\nname = 'acme'\n"
DAILY = ACME + "[organizations.daily]\n"


def account(settings: Settings) -> DailySettings:
    daily = settings.organizations[-1].daily
    assert daily is not None
    return daily


def test_an_organisation_needs_no_account_at_daily(read: Read) -> None:
    assert read(ACME).organizations[0].daily is None


def test_each_organisation_has_its_own_account(read: Read) -> None:
    settings = read(
        DAILY + "api_key = 'hunter2'\n" + DAILY.replace("acme", "globex") + "api_key = 'hunter3'\n"
    )
    first, second = (each.daily for each in settings.organizations)
    assert first is not None
    assert second is not None
    assert first.api_key.get_secret_value() == "hunter2"
    assert second.api_key.get_secret_value() == "hunter3"
    assert second.api_url == "https://api.daily.co/v1"


def test_a_reference_stands_for_the_value_of_its_variable(read: Read) -> None:
    text = DAILY + "api_key = 'env:DAILY_API_KEY'\napi_url = 'env:DAILY_API_URL'\n"
    settings = read(text, {"DAILY_API_KEY": "hunter2", "DAILY_API_URL": "http://127.0.0.1:9/v1/"})
    assert account(settings).api_key.get_secret_value() == "hunter2"
    assert account(settings).api_url == "http://127.0.0.1:9/v1"


def test_an_overriding_variable_may_be_a_reference(read: Read) -> None:
    environ = {"PATCHBAY_ORGANIZATIONS__0__DAILY__API_KEY": "env:DAILY_API_KEY", "DAILY_API_KEY": "hunter2"}
    assert account(read(ACME, environ)).api_key.get_secret_value() == "hunter2"


def test_the_value_of_a_variable_is_not_resolved_again(read: Read) -> None:
    settings = read(DAILY + "api_key = 'env:A'\n", {"A": "env:B", "B": "hunter2"})
    assert account(settings).api_key.get_secret_value() == "env:B"


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("env:DAILY_API_KEY", "names the environment variable DAILY_API_KEY, which is not set"),
        ("env:EMPTY", "names the environment variable EMPTY, which is empty"),
        ("env:", "must name an environment variable after env:"),
        ("env: X", "must name an environment variable after env:"),
        ("env:1X", "must name an environment variable after env:"),
    ],
)
@pytest.mark.parametrize("key", ["api_key", "api_url"])
def test_a_missing_variable_is_reported_once(
    problems: Problems, key: str, reference: str, words: str
) -> None:
    values = {"api_key": "hunter2", key: reference}
    text = DAILY + "".join(f"{name} = '{value}'\n" for name, value in values.items())
    (problem,) = problems(text, {"EMPTY": ""})
    assert problem.place == f"organizations[0].daily.{key}"
    assert problem.where.endswith("line 4" if key == "api_key" else "line 5")
    assert problem.message.startswith(words)


def test_a_missing_variable_is_reported_with_all_other_problems(problems: Problems) -> None:
    text = "[server]\nport = -1\n" + DAILY + "api_key = 'env:DAILY_API_KEY'\napi_ur = 'x'\n"
    assert {problem.place for problem in problems(text)} == {
        "server.port",
        "organizations[0].daily.api_key",
        "organizations[0].daily.api_ur",
    }


def test_a_missing_variable_in_an_overriding_one_is_reported_with_both_names(problems: Problems) -> None:
    (problem,) = problems(ACME, {"PATCHBAY_ORGANIZATIONS__0__DAILY__API_KEY": "env:DAILY_API_KEY"})
    assert problem.place == "PATCHBAY_ORGANIZATIONS__0__DAILY__API_KEY"
    assert "DAILY_API_KEY, which is not set" in problem.message


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("", "daily.api_key", "is missing"),
        ("api_key = 'hunter2 hunter2'", "daily.api_key", "hold no spaces"),
        ("api_key = ''", "daily.api_key", "must be a key"),
        ("api_key = 5", "daily.api_key", "must be a valid string"),
        ('api_key = "hunter2\\r\\nX: y"', "daily.api_key", "hold no spaces"),
        ("api_key = 'k'\napi_url = 'ftp://hunter2'", "daily.api_url", "must be a URL"),
        ("api_key = 'k'\napi_url = 'http://hunter2@x'", "daily.api_url", "user name"),
    ],
)
def test_a_problem_of_an_account_does_not_repeat_its_key(
    problems: Problems, text: str, place: str, words: str
) -> None:
    (problem,) = problems(DAILY + text + "\n")
    assert problem.place == f"organizations[0].{place}"
    assert words in problem.message
    assert "hunter2" not in str(problem)


@pytest.mark.parametrize("daily", ["'x'", "5", "[]", "[{}]"])
def test_an_account_is_a_table(problems: Problems, daily: str) -> None:
    (problem,) = problems(ACME + f"daily = {daily}\n")
    assert (problem.place, problem.message) == (
        "organizations[0].daily",
        "must be a table of keys and values",
    )


def test_a_key_is_never_printed(read: Read) -> None:
    settings = read(DAILY + "api_key = 'hunter2'\n" + ACME.replace("acme", "globex"))
    printed = render(settings)
    assert "hunter2" not in printed + repr(settings) + str(settings.model_dump_json())
    acme, globex = tomllib.loads(printed)["organizations"]
    assert acme["daily"] == {
        "api_key": "**********",
        "api_url": "https://api.daily.co/v1",
        "room_properties": [],
        "token_properties": [],
        "webhook_secrets": [],
        "allow_unsigned": False,
    }
    assert "daily" not in globex
