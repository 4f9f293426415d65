# SPDX-License-Identifier: BSD-2-Clause
"""Settings with which every caller would be refused: `patchbay check` says which, and by what name."""

from __future__ import annotations

import datetime
import json
import os
import socket
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from typer.testing import CliRunner, Result

from gateway.cli import app
from gateway.config import Settings
from gateway.config.toml_text import render
from gateway.config.workability import NODE_SECRET, NODE_URL, Severity, find_concerns
from gateway.simulator.server_process import PATCHBAY, environment_without_settings
from gateway.simulator.waiting import WAIT_S
from tests.harness.certificates import issue_certificate

Write = Callable[[str], Path]
Check = Callable[[str], Result]

AGENT = '[[agents]]\nname = "support"\norganization = "acme"\n'
ACME = '[[organizations]]\nname = "acme"\n'
TWILIO = ACME + '[[organizations.carriers]]\ncarrier = "twilio"\nauth_tokens = ["env:TOKEN"]\n'
TELNYX = f'{ACME}[[organizations.carriers]]\ncarrier = "telnyx"\npublic_keys = ["{"A" * 43}="]\n'
PLIVO = TWILIO.replace("twilio", "plivo")
EXOTEL = ACME + '[[organizations.carriers]]\ncarrier = "exotel"\n'
PUBLIC = 'public_url = "https://voice.example.com"\ntrusted_proxies = ["10.0.0.1"]\n'


@pytest.fixture
def check(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Run `patchbay check` with a configuration. Its store would stand in a directory of its own."""
    for name in os.environ:
        if name.startswith("PATCHBAY_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def run(text: str) -> Result:
        return CliRunner().invoke(app, ["check", "--config", str(write(text))], env={"TOKEN": "a-token"})

    return run


def refusal(result: Result) -> str:
    """Return the one problem of a configuration that is refused."""
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    first, problem = [
        line for line in result.stderr.splitlines() if not line.startswith(("Doubtful", "Open"))
    ]
    assert first == "The configuration has 1 problem:"
    return problem


def doubts(result: Result) -> list[str]:
    """Return the warnings about a configuration that is accepted."""
    assert result.exit_code == 0, result.output
    assert tomllib.loads(result.stdout)
    return [line for line in result.stderr.splitlines() if line.startswith("Doubtful: ")]


def test_a_configuration_that_works_says_nothing(check: Check) -> None:
    for text in (AGENT, AGENT + TWILIO.replace(ACME, ACME, 1)):
        server = f"[server]\n{PUBLIC}" if "twilio" in text else ""
        assert doubts(check(server + text)) == []
    closed = f'[server]\nhost = "0.0.0.0"\n{ACME}public_keys = ["pk_0123456789abcdef0123"]\n{AGENT}'
    assert doubts(check(closed)) == [], "calls may come with the tokens of the start API"


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        # The public URL
        (AGENT + TWILIO, "server.public_url", "no request of Twilio authenticates without it"),
        (AGENT + TELNYX, "server.public_url", "no request of Telnyx authenticates without it"),
        (AGENT + PLIVO, "server.public_url", "no request of Plivo authenticates without it"),
        (
            '[server]\npublic_url = "http://voice.example.com"\n' + AGENT + TWILIO,
            "server.public_url",
            "Twilio opens wss:// alone",
        ),
        (
            f'[server]\nregion = "eu-central"\n{PUBLIC}'.replace("voice.", "us-west.voice.") + AGENT,
            "server.public_url",
            "calls to the agents of eu-central would come to us-west and be refused",
        ),
        (
            f"[server]\n{PUBLIC}".replace("voice.example.com", "203.0.113.7")
            + AGENT
            + 'region = "us-east"\n',
            "agents[0].region",
            "no label us-east fits before an IP address",
        ),
        # The agents
        ("", "agents", "no organisation has a private key to make one with"),
        (ACME, "agents", "no organisation has a private key to make one with"),
        (f"[server]\nport = 8080\n{AGENT}", "agents[0].instances[0]", "is this gateway itself"),
        (
            f'[server]\n{PUBLIC}{AGENT}instances = ["https://voice.example.com:443"]\n',
            "agents[0].instances[0]",
            "is this gateway itself",
        ),
        # Exotel is known by its address, and no request has it
        (
            f'{AGENT}{EXOTEL}allow = ["203.0.113.0/24"]\n',
            "organizations[0].carriers[0].allow",
            "all come from 127.0.0.1 while server.trusted_proxies is empty",
        ),
        # The address to listen on
        ('[server]\nhost = "127.0.0.1:7860"\n' + AGENT, "server.host", "without a port: that is server.port"),
        ('[server]\nhost = "[::1]:7860"\n' + AGENT, "server.host", "without brackets"),
        ('[server]\nhost = "http://127.0.0.1"\n' + AGENT, "server.host", "not a URL"),
        ('[server]\nhost = "*"\n' + AGENT, "server.host", "0.0.0.0"),
        ('[server]\nhost = "7860"\n' + AGENT, "server.host", "an address of this machine"),
        ('[server]\nhost = ""\n' + AGENT, "server.host", "at least 1 character"),
        ('[server]\nhost = "192.0.2.1"\n' + AGENT, "server.host", "192.0.2.1 cannot be listened on here"),
        # The store
        (
            AGENT + '[store]\nurl = "sqlite:///none/patchbay.db"\n',
            "store.url",
            "none of the session store does not exist",
        ),
        (AGENT + '[store]\nurl = "sqlite:///."\n', "store.url", "is a directory"),
        (AGENT + '[store]\nurl = "sqlite:///patchbay.toml"\n', "store.url", "file is not a database"),
        # The certificate
        (f'[server]\ntls_certificate = "none.pem"\n{AGENT}', "server.tls_certificate", "none.pem: No such"),
        (
            f'[server]\ntls_certificate = "patchbay.toml"\n{AGENT}',
            "server.tls_certificate",
            "holds no certificate in PEM form",
        ),
    ],
)
def test_a_setting_with_which_no_call_gets_through_is_refused_by_its_name(
    check: Check, text: str, place: str, words: str
) -> None:
    problem = refusal(check(text))
    assert problem.startswith(f"  {place}"), problem
    assert words in problem


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        (AGENT + EXOTEL + 'auth_tokens = ["env:TOKEN"]\n', "server.public_url", "there are no documents"),
        (
            f'[server]\npublic_url = "http://voice.example.com"\n{AGENT}',
            "server.public_url",
            "anyone between can listen",
        ),
        (
            f'[server]\npublic_url = "http://127.0.0.1:7860"\n{AGENT}{TWILIO}',
            "server.public_url",
            "is an address that Twilio cannot reach",
        ),
        (
            f"[server]\n{PUBLIC}".replace(".com", ".com:8443") + AGENT + TWILIO,
            "server.public_url",
            "has the port 8443",
        ),
        (
            f'[server]\npublic_url = "https://voice.example.com"\n{AGENT}',
            "server.trusted_proxies",
            "all clients have the address of the proxy between",
        ),
        (ACME + 'private_keys = ["env:KEY"]\n', "agents", "every call is refused until one is made"),
        (
            f'[server]\nhost = "0.0.0.0"\n{AGENT}',
            "agents[0].websocket_auth",
            "has no account that authenticates a carrier's calls",
        ),
        (
            f'[server]\nhost = "0.0.0.0"\n{ACME}public_keys = ["pk_0123456789abcdef0123"]\n{AGENT}'
            '[[numbers]]\nnumber = "+15559876543"\nagent = "support.acme"\n',
            "agents[0].websocket_auth",
            "they are refused",
        ),
        (
            f"[server]\n{PUBLIC}{AGENT}{TWILIO}signs_upgrades = false\n",
            "organizations[0].carriers[0].signs_upgrades",
            "nobody signs the media sockets of these calls",
        ),
        (
            f"{ACME}[organizations.whatsapp]\n{AGENT}",
            "organizations[0].whatsapp.app_secrets",
            "every event is refused",
        ),
    ],
)
def test_a_setting_that_may_not_work_is_named(
    check: Check, monkeypatch: pytest.MonkeyPatch, text: str, place: str, words: str
) -> None:
    monkeypatch.setenv("KEY", "sk_secret")
    (doubt,) = doubts(check(text))
    assert doubt.startswith(f"Doubtful: {place}"), doubt
    assert words in doubt


def test_the_line_of_the_setting_or_of_its_table_is_told(check: Check, write: Write) -> None:
    assert "patchbay.toml, line 1)" in refusal(check(f"[server]\nport = 7861\n{AGENT}{TWILIO}"))
    text = f'[server]\nport = 7861\npublic_url = "http://voice.example.com"\n{AGENT}{TWILIO}'
    assert "patchbay.toml, line 3)" in refusal(check(text))


# Certificates


def pem(serial: int, directory: Path) -> tuple[Path, Path]:
    directory.mkdir()
    return issue_certificate(directory, serial)


def with_tls(certificate: Path, key: Path, more: str = "") -> str:
    return f'[server]\ntls_certificate = "{certificate}"\ntls_key = "{key}"\n{more}{AGENT}'


def test_a_certificate_and_the_key_of_another_are_refused(check: Check, tmp_path: Path) -> None:
    certificate, _ = pem(1, tmp_path / "one")
    _, key = pem(2, tmp_path / "other")
    assert "server.tls_key" in refusal(check(with_tls(certificate, key)))
    assert "key values mismatch" in refusal(check(with_tls(certificate, key)))
    key.unlink()
    assert "No such file" in refusal(check(with_tls(certificate, key)))


def test_a_certificate_that_carriers_do_not_take_is_doubtful(check: Check, tmp_path: Path) -> None:
    certificate, key = pem(1, tmp_path / "one")
    certificate.chmod(0o600)
    key.chmod(0o644)
    text = with_tls(certificate, key, PUBLIC) + 'region = "us-east"\n'
    (end, itself, names, readable) = doubts(check(text))
    assert "server.tls_certificate" in end
    assert "expires on" in end
    assert "is signed by itself" in itself
    assert "is not for voice.example.com, us-east.voice.example.com" in names
    assert "server.tls_key" in readable
    assert "readable by every user" in readable
    key.chmod(0o600)
    localhost = 'public_url = "https://localhost"\n'
    assert len(doubts(check(with_tls(certificate, key, localhost)))) == 2, "it is for localhost"


def test_an_http_url_where_the_port_speaks_tls_is_refused(check: Check, tmp_path: Path) -> None:
    certificate, key = pem(1, tmp_path / "one")
    key.chmod(0o600)
    text = with_tls(certificate, key, 'public_url = "http://127.0.0.1:7860"\n')
    assert "server.public_url" in refusal(check(text))


@pytest.mark.parametrize("days", [30, -30], ids=["expired", "not valid yet"])
def test_a_certificate_out_of_its_time_fails_the_check_and_not_the_start(
    check: Check, tmp_path: Path, days: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that has no good clock yet, or whose certificate is just renewed, starts."""
    certificate, key = pem(1, tmp_path / "one")
    key.chmod(0o600)
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)

    class Moved(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            return moment

    assert x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    monkeypatch.setattr("gateway.server.preflight.datetime", Moved)
    problem = refusal(check(with_tls(certificate, key)))
    assert "server.tls_certificate" in problem
    assert ("expired on" if days > 0 else "is not valid before") in problem


# Secrets


def test_a_readable_file_with_secrets_in_it_is_doubtful(check: Check, write: Write) -> None:
    text = f"[server]\n{PUBLIC}{AGENT}{TWILIO}"
    assert doubts(check(text)) == [], "its secret is in the environment"
    write(text).chmod(0o644)
    (doubt,) = doubts(check(text.replace("env:TOKEN", "in-the-file")))
    assert doubt.startswith("Doubtful: ")
    assert doubt.endswith("patchbay.toml: is readable by every user of this machine, and holds secrets")
    write(text).chmod(0o600)
    assert doubts(check(text.replace("env:TOKEN", "in-the-file"))) == []


def test_a_password_in_the_stores_url_is_a_secret(check: Check, write: Write) -> None:
    url = "redis+sentinel://patchbay:correct-horse@127.0.0.1:1/calls/0"
    text = f'[store]\nurl = "{url}"\n[server]\n{PUBLIC}{AGENT}'
    write(text).chmod(0o644)
    words = check(text).output
    assert "readable by every user of this machine, and holds secrets" in words
    assert "correct-horse" not in words
    settings = Settings.model_validate({"store": {"url": url}})
    assert 'url = "redis+sentinel://patchbay:**********@127.0.0.1:1/calls/0"' in render(settings)


# `patchbay serve`


def serve(config: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PATCHBAY, "serve", "--config", config],
        cwd=config.parent,
        env=environment_without_settings(TOKEN="a-token"),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


def test_serve_refuses_the_same_in_a_log_line(write: Write) -> None:
    text = f'[server]\nlog_format = "json"\npublic_url = "http://voice.example.com"\n{AGENT}{TWILIO}'
    result = serve(path := write(text))
    (line,) = [json.loads(line) for line in result.stderr.splitlines()]
    assert (result.returncode, line["event"], line["level"]) == (1, "cannot start", "error")
    assert line["setting"] == f"server.public_url ({path}, line 3)"
    assert "Twilio opens wss:// alone" in line["error"]


def test_serve_tells_doubts_and_a_store_that_cannot_be_used_by_its_status(write: Write) -> None:
    text = '[server]\nlog_format = "json"\npublic_url = "http://voice.example.com"\n'
    text += f'[store]\nurl = "sqlite:///none/patchbay.db"\n{AGENT}'
    result = serve(write(text))
    doubt, refused = [json.loads(line) for line in result.stderr.splitlines()]
    assert (doubt["event"], doubt["level"]) == ("doubtful setting", "warning")
    assert doubt["setting"].startswith("server.public_url")
    assert (result.returncode, refused["event"]) == (3, "cannot start")
    assert refused["setting"].startswith("store.url")


@pytest.mark.parametrize("server", ['host = "0.0.0.0"', PUBLIC])
@pytest.mark.parametrize(("kind", "key"), [("public_keys", "pk_acme"), ("private_keys", "sk_1")])
def test_a_key_that_can_be_guessed_is_named(check: Check, server: str, kind: str, key: str) -> None:
    """`patchbay serve` starts with it all the same, so that an update ends no gateway."""
    problem = refusal(check(f'[server]\n{server}\n{ACME}{kind} = ["{key}"]\n{AGENT}'))
    assert f"organizations[0].{kind}[0]" in problem
    assert "can be guessed" in problem
    assert key not in problem


def test_a_gateway_that_no_other_machine_reaches_may_have_short_keys(check: Check) -> None:
    assert doubts(check(f'{ACME}public_keys = ["pk_acme"]\nprivate_keys = ["sk_1"]\n{AGENT}')) == []


# This machine's internal address

REDIS = '[store]\nurl = "redis://10.0.0.9:6379/0"\n'


def about_node(text: str) -> list[str]:
    """Return what the settings alone tell about a machine's address, in words."""
    settings = Settings.model_validate(tomllib.loads(text))
    return [
        concern.message for concern in find_concerns(settings) if concern.location in (NODE_URL, NODE_SECRET)
    ]


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ('node_url = "http://10.0.0.5:7861"', []),
        (
            'node_url = "https://10.0.0.5:7861"',
            ["begins with https://, and there is no tls_certificate for it"],
        ),
        (
            'host = "0.0.0.0"\nport = 7861\nnode_url = "http://10.0.0.5:7861"',
            ["is the port for carriers and clients itself: take another one"],
        ),
        (
            'node_url = "http://127.0.0.2:7861"',
            ["is this machine's loopback address, which the other machines cannot reach"],
        ),
        (
            'node_url = "http://9.9.9.9:7861"',
            ["begins with http://, and is a public address: callers' sound passes there in clear text"],
        ),
        (f'node_secret = "{"s" * 32}"', ["has no use without node_url"]),
    ],
)
def test_an_internal_address_that_would_not_do_is_named(server: str, words: list[str]) -> None:
    assert about_node(f"[server]\n{server}\n{REDIS}") == words


def test_an_internal_address_beside_a_store_in_a_file_has_no_use() -> None:
    (words,) = about_node('[server]\nnode_url = "http://10.0.0.5:7861"\n')
    assert words.startswith("has no use: a store in a file")


@pytest.mark.parametrize(
    "url", ["http://0.0.0.0:7861", "http://[::]:7861", "http://10.0.0.5/x", "10.0.0.5:7861"]
)
def test_what_is_no_internal_address_is_refused(url: str, check: Check) -> None:
    assert (
        refusal(check(f'[server]\nnode_url = "{url}"\n{ACME}{AGENT}')).strip().startswith("server.node_url ")
    )


def test_a_secret_that_can_be_guessed_is_refused(check: Check) -> None:
    text = f'[server]\nnode_url = "http://127.0.0.1:7861"\nnode_secret = "swordfish"\n{ACME}{AGENT}'
    problem = refusal(check(text))
    assert "must have at least 32 characters" in problem
    assert "swordfish" not in problem


def test_an_address_that_is_not_this_machine_s_is_refused(check: Check) -> None:
    problem = refusal(
        check(f'[server]\nnode_url = "http://203.0.113.7:7861"\n{ACME}{AGENT}instances = ["http://h:1"]')
    )
    assert "203.0.113.7:7861 cannot be listened on here: cannot assign requested address" in problem


def test_an_address_that_another_program_has_is_refused(check: Check) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        text = f'[server]\nnode_url = "http://127.0.0.1:{port}"\n{ACME}{AGENT}instances = ["http://h:1"]'
        assert "cannot be listened on here: address already in use" in refusal(check(text))


REGIONS = (
    '[[regions]]\ncode = "us-west"\ndisplay_name = "West"\n'
    '[[regions]]\ncode = "eu"\ndisplay_name = "Europe"\nurl = "{url}"\n'
)


def test_a_regions_gateway_is_another_one(check: Check) -> None:
    server = f"[server]\n{PUBLIC}"
    result = check(server + REGIONS.format(url="https://voice.example.com") + AGENT)
    assert result.exit_code == 1
    assert "regions[1].url" in result.stderr
    assert "is this gateway itself" in result.stderr
    assert check(server + REGIONS.format(url="https://eu.voice.example.com") + AGENT).exit_code == 0


def test_no_call_flows_over_to_an_agent_that_another_gateway_has(check: Check) -> None:
    there = AGENT.replace("support", "night") + 'region = "eu"\n'
    result = check(REGIONS.format(url="https://eu.test") + AGENT + 'overflow = "night.acme"\n' + there)
    assert result.exit_code == 1
    assert "which another gateway has" in result.stderr


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("buffer", 2, "has no effect without command"),
        ("audio_rate", 24000, "has no effect with the dialect twilio"),
        ("start_message", True, "has an effect with the dialect pcm16 alone"),
    ],
)
def test_a_setting_of_an_agent_that_does_nothing_is_doubtful(name: str, value: Any, words: str) -> None:
    agent = {"name": "support", "organization": "acme", "dialect": "twilio", name: value}
    settings = Settings.model_validate({"agents": [agent]})
    found = [each for each in find_concerns(settings) if each.location[-1] == name]
    assert [(each.message, each.severity) for each in found] == [(words, Severity.DOUBTFUL)]
