# SPDX-License-Identifier: BSD-2-Clause
"""`patchbay xml`: the document for a TwiML Bin or a console."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway.cli import app
from gateway.simulator.gateway_process import to_toml
from tests.harness.document_calls import CARRIERS

PUBLIC_URL = "https://voice.example.com"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "patchbay.toml"
    agents = [
        {"name": "support", "organization": "acme", "after": "redirect"},
        {"name": "locked", "organization": "acme", "websocket_auth": "token"},
        {"name": "support", "organization": "globex"},
    ]
    proven = [
        {"carrier": "telnyx", "public_keys": ["A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg="]},
        {"carrier": "exotel", "allow": ["203.0.113.0/24"]},
    ]
    organizations = [{"name": "acme"}, {"name": "globex", "carriers": proven}]
    server = {"public_url": PUBLIC_URL}
    path.write_text(to_toml({"server": server, "organizations": organizations, "agents": agents}))
    return path


def xml(file: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["xml", *arguments, "--config", str(file)], env={})


@pytest.mark.parametrize("carrier", CARRIERS)
def test_it_is_printed_without_a_token(file: Path, carrier: str) -> None:
    printed = xml(file, carrier, "--agent", "support.acme")
    assert printed.exit_code == 0, printed.output
    assert f"wss://voice.example.com/ws/{carrier}" in printed.output
    assert "support.acme" in printed.output
    assert "token" not in printed.output
    assert "Redirect" not in printed.output, "without a token nobody could tell why a call came back"


@pytest.mark.parametrize(
    ("arguments", "detail"),
    [
        (("twilio", "--agent", "nobody.acme"), "no agent nobody.acme"),
        (("twilio", "--agent", "locked.acme"), "wants a token"),
        (("telnyx", "--agent", "support.globex"), "point the carrier at /xml/telnyx"),
    ],
)
def test_errors_are_printed(file: Path, arguments: tuple[str, ...], detail: str) -> None:
    printed = xml(file, *arguments)
    assert printed.exit_code == 1
    assert detail in printed.output


def test_a_carrier_known_by_address_needs_no_token(file: Path) -> None:
    assert xml(file, "exotel", "--agent", "support.globex").exit_code == 0


def test_without_a_public_url(tmp_path: Path) -> None:
    file = tmp_path / "patchbay.toml"
    file.write_text(to_toml({"agents": [{"name": "support", "organization": "acme"}]}))
    printed = xml(file, "twilio", "--agent", "support.acme")
    assert printed.exit_code == 1
    assert "public_url" in printed.output
