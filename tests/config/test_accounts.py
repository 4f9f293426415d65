# SPDX-License-Identifier: BSD-2-Clause
"""An organisation's accounts with carriers."""

from __future__ import annotations

import base64
import tomllib
from collections.abc import Callable

import pytest

from gateway.config import Problem, Settings
from gateway.config.toml_text import render

Read = Callable[..., Settings]
Problems = Callable[..., tuple[Problem, ...]]

ACME = "[[organizations]]\nname = 'acme'\n"
ACCOUNT = ACME + "[[organizations.carriers]]\ncarrier = '{}'\n"
AGENT = "[[agents]]\nname = 'support'\norganization = 'acme'\n"
KEY = base64.b64encode(bytes(32)).decode()


def test_an_account_for_each_carrier(read: Read) -> None:
    settings = read(
        ACCOUNT.format("twilio")
        + "account = 'AC1'\nauth_tokens = ['env:NEW', 'old']\n"
        + ACCOUNT.format("telnyx").removeprefix(ACME)
        + f"public_keys = ['{KEY}']\napi_key = 'k'\nconnection_id = '77'\n"
        + ACCOUNT.format("plivo").removeprefix(ACME)
        + "auth_id = 'MA1'\nauth_tokens = ['t']\n"
        + ACCOUNT.format("exotel").removeprefix(ACME)
        + "allow = ['203.0.113.0/24', '2001:db8::1']\n",
        {"NEW": "new"},
    )
    twilio, telnyx, plivo, exotel = settings.organizations[0].carriers
    assert [token.get_secret_value() for token in twilio.auth_tokens] == ["new", "old"]
    assert telnyx.connection_id == "77"
    assert plivo.auth_id == "MA1"
    assert exotel.allow == ["203.0.113.0/24", "2001:db8::1/128"]
    assert all(account.can_authenticate for account in (twilio, telnyx, plivo, exotel))


def test_an_account_without_credentials_authenticates_nothing(read: Read) -> None:
    (account,) = read(ACCOUNT.format("twilio") + "account = 'AC1'\n").organizations[0].carriers
    assert not account.can_authenticate


def test_the_environment_reaches_into_an_account(read: Read) -> None:
    environ = {"PATCHBAY_ORGANIZATIONS__0__CARRIERS__0__AUTH_TOKENS": '["hunter2"]'}
    (account,) = read(ACCOUNT.format("twilio"), environ).organizations[0].carriers
    assert account.auth_tokens[0].get_secret_value() == "hunter2"


def test_check_prints_toml_without_secrets(read: Read) -> None:
    text = ACCOUNT.format("twilio") + "auth_tokens = ['hunter2']\nsigning_keys = ['hunter3']\n"
    printed = render(read(text + ACCOUNT.format("telnyx").removeprefix(ACME) + "api_key = 'hunter4'\n"))
    assert "hunter" not in printed
    (acme,) = tomllib.loads(printed)["organizations"]
    assert [account["carrier"] for account in acme["carriers"]] == ["twilio", "telnyx"]
    assert acme["carriers"][0]["auth_tokens"] == ["**********"]


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        (ACCOUNT.format("vonage"), "carriers[0].carrier", "must be"),
        (ACCOUNT.format("telnyx") + "auth_tokens = ['t']\n", "carriers[0]", "telnyx has no auth_tokens"),
        (ACCOUNT.format("twilio") + "allow = ['10.0.0.1']\n", "carriers[0]", "twilio has no allow"),
        (
            ACCOUNT.format("telnyx") + "signs_upgrades = false\n",
            "carriers[0]",
            "telnyx has no signs_upgrades",
        ),
        (ACCOUNT.format("twilio") + "signs_upgrades = false\n", "carriers[0]", "goes with auth_tokens"),
        (ACCOUNT.format("telnyx") + "public_keys = ['AAAA']\n", "public_keys[0]", "32 bytes"),
        (ACCOUNT.format("exotel") + "allow = ['10.0.0.1/24']\n", "allow[0]", "a network as in"),
        (ACCOUNT.format("twilio") + "account = 'AC1/../AC2'\n", "account", "letters, digits"),
        (ACCOUNT.format("twilio") + "account = '..'\n", "account", "letters, digits"),
        (ACCOUNT.format("twilio") + "auth_tokens = ['a b']\n", "auth_tokens[0]", "no spaces"),
        (ACCOUNT.format("twilio") + "auth_tokens = ['env:GONE']\n", "auth_tokens[0]", "GONE, which is"),
        (ACME + "dial_prefixes = ['0049']\n", "dial_prefixes[0]", "must be +"),
        (AGENT + "after = 'wait'\n", "after", "must be hangup, redirect"),
        (AGENT + "after = '<Dial>'\n", "after", "well-formed"),
        (AGENT + "after = '</Response><Response>'\n", "after", "well-formed"),
        (AGENT + "busy = 'say '\n", "busy", "must be reject"),
        (AGENT + "busy = 'play ftp://x/y.mp3'\n", "busy", "must be reject"),
        (AGENT + "max_returns = 21\n", "max_returns", "20"),
    ],
)
def test_a_problem_is_reported_with_its_place(problems: Problems, text: str, place: str, words: str) -> None:
    (problem,) = problems(text)
    assert place in problem.place
    assert words in problem.message


ICE = ACME + "[[organizations.ice_servers]]\n"
TURN = "urls = ['turn:turn.example.com:3478?transport=udp', 'turns:[2001:db8::1]:5349']\n"


@pytest.mark.parametrize(
    "servers",
    [
        "urls = ['stun:stun.example.com', 'stuns:192.0.2.1:5349']\n",
        TURN + "username = 'a'\ncredential = 'hunter2'\n",
        TURN + "shared_secret = 'hunter2'\n",
    ],
)
def test_ice_servers_are_printed_without_their_secrets(servers: str, read: Read) -> None:
    settings = read(ICE + servers)
    printed = render(settings)
    assert "hunter" not in printed
    (acme,) = tomllib.loads(printed)["organizations"]
    assert acme["ice_servers"][0]["urls"] == settings.organizations[0].ice_servers[0].urls


@pytest.mark.parametrize(
    ("servers", "words"),
    [
        ("urls = []\n", "ice_servers[0].urls"),
        ("urls = ['turn.example.com']\n", "must be the URL of a STUN or TURN server"),
        ("urls = ['stun:stun.example.com?transport=udp']\n", "must be the URL of a STUN or TURN server"),
        ("urls = ['turn:turn.example.com?transport=sctp']\n", "must be the URL of a STUN or TURN server"),
        (TURN, "needs username and credential, or shared_secret"),
        (TURN + "username = 'a'\n", "username and credential go together"),
        (TURN + "credential = 'a'\n", "username and credential go together"),
        (TURN + "username = 'a'\ncredential = 'b'\nshared_secret = 'c'\n", "goes without username"),
        ("urls = ['stun:stun.example.com']\nshared_secret = 'c'\n", "STUN servers want no credentials"),
    ],
)
def test_ice_servers_that_no_client_could_use_are_refused(
    servers: str, words: str, problems: Problems
) -> None:
    (problem,) = problems(ICE + servers)
    assert words in str(problem)
