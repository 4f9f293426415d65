# SPDX-License-Identifier: BSD-2-Clause
"""`patchbay daily setup`: what it shows of a number at Daily, what it writes, and what it leaves alone."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gateway.cli import app
from gateway.simulator.gateway_process import to_toml
from tests.harness.agent import AgentPort
from tests.harness.daily_numbers_server import DailyWithNumbers
from tests.harness.daily_server import API_KEY
from tests.harness.failing_server import fails, resets, says
from tests.harness.gateway import Gateway

NUMBER = "+14155550199"
SECRET = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
OTHERS_SECRET = "b3RoZXJzc2VjcmV0b3RoZXJzc2VjcmV0b3RoZXJzISE="
URL = "https://voice.example.com/v1/public/webhooks/acme/support/dialin"
OURS = {"phone_number": NUMBER, "room_creation_api": "https://old.example.com/hook", "hmac": OTHERS_SECRET}
ANOTHER = {
    "phone_number": "+14155550111",
    "room_creation_api": "https://user:hidden@other.example.com/hook?key=hidden",
    "hmac": OTHERS_SECRET,
    "hold_music_url": "https://other.example.com/music.mp3",
    "timeout_config": {"message": "Nobody is here"},
}
INTERCONNECT = {
    "name_prefix": "sip-only",
    "room_creation_api": "https://sip.example.com",
    "hmac": OTHERS_SECRET,
}


@pytest.fixture
async def daily() -> AsyncIterator[DailyWithNumbers]:
    server = await DailyWithNumbers().start()
    yield server
    await server.stop()


@pytest.fixture
def configured(tmp_path: Path, daily: DailyWithNumbers) -> Callable[..., Path]:
    """A file of settings; `secrets`: the organisation's."""

    def write(secrets: tuple[str, ...] = (SECRET,), public_url: str = "https://voice.example.com") -> Path:
        file = tmp_path / "patchbay.toml"
        tables = {
            "server": {"public_url": public_url} if public_url else {},
            "organizations": [{"name": "acme", "public_keys": ["pk_acme"]}],
            "organizations.daily": {
                "api_key": API_KEY,
                "api_url": daily.api_url,
                "webhook_secrets": list(secrets),
            },
            "agents": [{"name": "support", "organization": "acme"}],
        }
        file.write_text(to_toml(tables))
        return file

    return write


async def setup(
    file: Path, *more: str, agent: str = "support.acme", number: str = NUMBER, secret: str = ""
) -> Result:
    """The command, beside Daily's own loop. No secret is printed but `secret`, which was just made."""
    arguments = ["daily", "setup", agent, "--number", number, "--config", str(file), *more]
    result = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    for hidden in (API_KEY, SECRET, OTHERS_SECRET, "hidden"):
        assert hidden not in result.output
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def entries(daily: DailyWithNumbers) -> list[dict[str, Any]]:
    """The domain's array, without what Daily adds."""
    return [{name: value for name, value in each.items() if name != "sip_uri"} for each in daily.pinless]


def with_sip(*given: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**each, "sip_uri": f"static-address--{place}@x"} for place, each in enumerate(given)]


def writes(daily: DailyWithNumbers) -> list[str]:
    return [
        seen.operation
        for seen in daily.seen
        if seen.operation not in ("get_domain", "list_configs", "get_config")
    ]


# In the domain's array


async def test_it_shows_what_would_change_and_changes_nothing(
    daily: DailyWithNumbers, configured: Callable[..., Path]
) -> None:
    daily.pinless = with_sip(ANOTHER, OURS)
    result = await setup(configured())
    assert result.exit_code == 0
    assert "pinless_dialin of the domain (1 other entry stays as it is)" in result.stdout
    assert "- room_creation_api: https://old.example.com/hook" in result.stdout
    assert f"+ room_creation_api: {URL}" in result.stdout
    assert "- hmac: another, not of webhook_secrets" in result.stdout
    assert "+ hmac: one of webhook_secrets" in result.stdout
    assert "Nothing was written" in result.stdout
    assert writes(daily) == []


async def test_it_writes_the_number_and_keeps_the_other_entries(
    daily: DailyWithNumbers, configured: Callable[..., Path]
) -> None:
    mine = OURS | {"hold_music_url": "https://old.example.com/music.mp3", "name_prefix": "mine"}
    daily.pinless = with_sip(ANOTHER, mine, INTERCONNECT)
    result = await setup(configured(), "--write")
    assert result.exit_code == 0, result.output
    assert entries(daily) == [ANOTHER, mine | {"room_creation_api": URL, "hmac": SECRET}, INTERCONNECT]
    assert "Written" in result.stdout
    assert writes(daily) == ["set_domain"]

    again = await setup(configured(), "--write")
    assert "Nothing is to be changed" in again.stdout
    assert writes(daily) == ["set_domain"]


async def test_a_secret_that_is_configured_stays(
    daily: DailyWithNumbers, configured: Callable[..., Path]
) -> None:
    daily.pinless = with_sip(OURS | {"hmac": SECRET})
    result = await setup(configured(("b2xkZXI=", SECRET)), "--write")
    assert result.exit_code == 0
    assert entries(daily) == [OURS | {"room_creation_api": URL, "hmac": SECRET}]


async def test_a_secret_that_was_made_is_shown_once_and_where_it_goes(
    daily: DailyWithNumbers, configured: Callable[..., Path]
) -> None:
    daily.pinless = with_sip(ANOTHER, OURS)
    shown = await setup(configured(()))
    assert "webhook_secrets = " not in shown.stdout
    result = await setup(configured(()), "--write")
    assert result.exit_code == 0
    made = re.search(r'webhook_secrets = \["([^"]+)"\]', result.stdout)
    assert made is not None
    assert entries(daily)[1]["hmac"] == made[1]
    assert "[organizations.daily]" in result.stdout

    again = await setup(configured((made[1],)), "--write")
    assert "Nothing is to be changed" in again.stdout
    assert made[1] not in again.output


async def test_a_secret_that_was_made_is_shown_also_where_the_answer_was_lost(
    daily: DailyWithNumbers, configured: Callable[..., Path]
) -> None:
    daily.pinless = with_sip(OURS)
    daily.next("set_domain", says("<html>", makes=True))
    result = await setup(configured(()), "--write")
    assert result.exit_code == 1
    made = re.search(r'webhook_secrets = \["([^"]+)"\]', result.stdout)
    assert made is not None
    assert entries(daily)[0]["hmac"] == made[1]


async def test_nothing_is_written_where_another_entry_would_lose_its_secret(
    daily: DailyWithNumbers, configured: Callable[..., Path]
) -> None:
    daily.pinless = with_sip(ANOTHER, OURS, INTERCONNECT)
    daily.shows_hmac = False
    result = await setup(configured(), "--write")
    assert result.exit_code == 1
    assert "Nothing was written" in result.stderr
    assert "+14155550111, the SIP interconnect" in result.stderr
    assert writes(daily) == []


async def test_it_says_so_where_other_entries_are_not_as_they_were(
    daily: DailyWithNumbers, configured: Callable[..., Path]
) -> None:
    daily.pinless = with_sip(ANOTHER, OURS)
    daily.next(
        "set_domain",
        says({"config": {"pinless_dialin": [OURS | {"room_creation_api": URL, "hmac": SECRET}]}}),
    )
    result = await setup(configured(), "--write")
    assert result.exit_code == 1
    assert "not as they were: +14155550111" in result.stderr


async def test_it_says_so_where_the_number_is_not_as_was_asked(
    daily: DailyWithNumbers, configured: Callable[..., Path]
) -> None:
    daily.pinless = with_sip(OURS)
    daily.next("set_domain", says({"config": {"pinless_dialin": [OURS]}}))
    result = await setup(configured(), "--write")
    assert result.exit_code == 1
    assert "set up otherwise" in result.stderr


async def test_a_number_that_is_there_twice(daily: DailyWithNumbers, configured: Callable[..., Path]) -> None:
    daily.pinless = with_sip(OURS, OURS)
    result = await setup(configured(), "--write")
    assert (result.exit_code, writes(daily)) == (1, [])
    assert "2 entries" in result.stderr


async def test_a_domain_that_has_no_objects_gets_one_entry_more(
    daily: DailyWithNumbers, configured: Callable[..., Path]
) -> None:
    daily.pinless = with_sip(ANOTHER)
    daily.next("list_configs", fails(404, "not-found"))
    result = await setup(configured(), "--write")
    assert result.exit_code == 0, result.output
    assert entries(daily) == [ANOTHER, {"phone_number": NUMBER, "room_creation_api": URL, "hmac": SECRET}]


# As an object of its own


def an_object(number: str = NUMBER, kind: str = "pinless_dialin") -> dict[str, Any]:
    fields = OURS | {"phone_number": number, "name_prefix": "mine"}
    return {"id": f"config-{number}", "type": kind, "config": fields}


async def test_an_object_is_updated_and_nothing_else_is_touched(
    daily: DailyWithNumbers, configured: Callable[..., Path]
) -> None:
    many = [an_object(f"+1415556{place:04}") for place in range(250)]
    daily.configs = {each["id"]: each for each in [*many, an_object()]}
    daily.pinless = with_sip(ANOTHER)
    daily.shows_hmac = True
    result = await setup(configured(), "--write")
    assert result.exit_code == 0, result.output
    assert "/domain-dialin-config" in result.stdout
    assert writes(daily) == ["update_config"]
    changed = an_object()["config"] | {"room_creation_api": URL, "hmac": SECRET}
    assert daily.configs[an_object()["id"]]["config"] == changed
    assert [daily.configs[each["id"]] for each in many] == many
    assert entries(daily) == [ANOTHER]


async def test_a_number_that_is_nowhere_gets_an_object(
    daily: DailyWithNumbers, configured: Callable[..., Path]
) -> None:
    daily.pinless = with_sip(ANOTHER)
    daily.shows_hmac = False
    result = await setup(configured(), "--write")
    assert result.exit_code == 0, result.output
    assert "where it is not yet" in result.stdout
    assert writes(daily) == ["create_config"]
    (made,) = daily.configs.values()
    assert made["type"] == "pinless_dialin"
    assert made["config"] == {"phone_number": NUMBER, "room_creation_api": URL, "hmac": SECRET}


async def test_a_number_that_asks_for_a_pin(daily: DailyWithNumbers, configured: Callable[..., Path]) -> None:
    daily.configs = {"1": {**an_object(kind="pin_dialin"), "id": "1"}}
    result = await setup(configured(), "--write")
    assert (result.exit_code, writes(daily)) == (1, [])
    assert "PIN" in result.stderr


# What cannot be


@pytest.mark.parametrize(
    ("how", "detail"),
    [
        ({"number": "5550199"}, "E.164"),
        ({"agent": "support"}, "no organisation ''"),
        ({"agent": "support.globex"}, "no organisation 'globex'"),
        ({"agent": "SUPPORT.acme"}, "AGENT.ORG"),
    ],
)
async def test_what_is_asked_makes_no_sense(
    daily: DailyWithNumbers, configured: Callable[..., Path], how: dict[str, str], detail: str
) -> None:
    result = await setup(configured(), "--write", **how)
    assert result.exit_code == 1
    assert detail in result.stderr
    assert daily.seen == []


async def test_an_agent_that_is_made_through_the_api(
    daily: DailyWithNumbers, configured: Callable[..., Path]
) -> None:
    result = await setup(configured(), agent="other.acme")
    assert result.exit_code == 0
    assert "must be made through the API" in result.stdout


async def test_without_a_public_url(daily: DailyWithNumbers, configured: Callable[..., Path]) -> None:
    result = await setup(configured(public_url=""), "--write")
    assert result.exit_code == 1
    assert "public_url" in result.stderr
    assert daily.seen == []


@pytest.mark.parametrize(
    ("operation", "behaviour"),
    [
        ("get_domain", fails(401, "authentication-error")),
        ("get_domain", resets),
        ("get_domain", says({"config": None})),
        ("get_domain", says({"config": {"pinless_dialin": {"a": 1}}})),
        ("get_domain", says({"config": {"pinless_dialin": ["a"]}})),
        ("list_configs", fails(500)),
        ("list_configs", says({"data": None})),
        ("list_configs", says({"data": [{"id": 1}]})),
        ("create_config", fails(400, "invalid-request-error", "phone_number is used by another config")),
        ("create_config", says("<html>")),
    ],
)
async def test_daily_fails(
    daily: DailyWithNumbers, configured: Callable[..., Path], operation: str, behaviour: Any
) -> None:
    daily.next(operation, behaviour, behaviour)  # a connection that is reset is tried again
    result = await setup(configured(), "--write")
    assert result.exit_code == 1
    assert "Daily" in result.stderr
    assert daily.configs == {}


async def test_values_of_others_do_nothing_to_the_terminal(
    daily: DailyWithNumbers, configured: Callable[..., Path]
) -> None:
    daily.pinless = with_sip(OURS | {"name_prefix": "\x1b[31mred\nline", "room_creation_api": "https://[bad"})
    result = await setup(configured())
    assert "\x1b" not in result.stdout
    assert "name_prefix: ?[31mred?line" in result.stdout
    assert "(a URL that is none)" in result.stdout


# With the gateway


async def test_dailys_probe_finds_the_gateway(
    daily: DailyWithNumbers,
    configured: Callable[..., Path],
    start_gateway: Callable[..., Gateway],
    agent_port: Callable[[], AgentPort],
) -> None:
    gateway = start_gateway(
        **{
            "organizations": [{"name": "acme", "public_keys": ["pk_acme"]}],
            "organizations.daily": {"api_key": API_KEY, "webhook_secrets": [SECRET]},
            "agents": [{"name": "support", "organization": "acme", "instances": [agent_port().url]}],
        }
    )
    public_url = f"http://127.0.0.1:{gateway.port}"
    result = await setup(configured(public_url=public_url), "--write")
    assert result.exit_code == 0, result.output
    assert daily.probed == [(f"{public_url}/v1/public/webhooks/acme/support/dialin", 200)]
