# SPDX-License-Identifier: BSD-2-Clause
"""No secret of any kind appears in a log, an answer, /status or a process title, however it is misused."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.simulator.server_process import PATCHBAY
from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.agent import AgentPort
from tests.harness.caller import dial, open_socket
from tests.harness.gateway import Gateway
from tests.harness.prepared_process import patchbay_starts_anew  # noqa: F401 - a fixture
from tests.harness.transcripts import opening

MARK = "5ecre7"
"""Part of every secret, so that each can be searched for; HIDDEN adds those that are base64."""

SECRETS = {
    "private key": f"sk_{MARK}_private_0123456789",
    "personal token": f"pcc_pat_{MARK}_personal_0123456789",
    "daily": f"{MARK}dailyapikey",
    "daily webhook": base64.b64encode(f"{MARK} of a webhook".encode()).decode(),
    "meta": f"{MARK}metaappsecret",
    "twilio token": f"{MARK}twiliotoken",
    "twilio signing": f"{MARK}twiliosigning",
    "plivo": f"{MARK}plivotoken",
    "telnyx": f"{MARK}telnyxapikey",
    "exotel": f"{MARK}exoteltoken",
    "turn": f"{MARK}turnsharedsecret",
    "turn credential": f"{MARK}turncredential",
}
HIDDEN = [MARK, SECRETS["daily webhook"], base64.b64encode(b"key:" + SECRETS["exotel"].encode()).decode()]


def tables(port: AgentPort) -> dict[str, Any]:
    return {
        "organizations": [
            {
                "name": "acme",
                "public_keys": ["pk_acme-0123456789abcdef"],
                "private_keys": [SECRETS["private key"], SECRETS["personal token"]],
            }
        ],
        "organizations.daily": {
            "api_key": SECRETS["daily"],
            "api_url": "http://127.0.0.1:9/v1",
            "webhook_secrets": [SECRETS["daily webhook"]],
        },
        "organizations.whatsapp": {"app_secrets": [SECRETS["meta"]]},
        "organizations.ice_servers": [
            {"urls": ["turn:turn.example.com"], "shared_secret": SECRETS["turn"]},
            {"urls": ["turn:turn.example.com"], "username": "a", "credential": SECRETS["turn credential"]},
        ],
        "organizations.carriers": [
            {
                "carrier": "twilio",
                "account": "AC1",
                "auth_tokens": [SECRETS["twilio token"]],
                "signing_keys": [SECRETS["twilio signing"]],
                "api_url": "http://127.0.0.1:9",
            },
            {"carrier": "plivo", "account": "MA1", "auth_tokens": [SECRETS["plivo"]]},
            {"carrier": "telnyx", "api_key": SECRETS["telnyx"], "connection_id": "1"},
            {"carrier": "exotel", "auth_id": "key", "auth_tokens": [SECRETS["exotel"]]},
        ],
        "agents": [
            {"name": "support", "organization": "acme", "instances": [port.url]},
            {"name": "locked", "organization": "acme", "instances": [port.url], "websocket_auth": "token"},
        ],
        "numbers": [{"number": "+15559876543", "agent": "support.acme"}],
    }


@pytest.fixture(scope="module", params=[1, 2])
def gateway(
    request: pytest.FixtureRequest, start_gateway: Callable[..., Gateway], agent_port: Callable[[], AgentPort]
) -> Gateway:
    server = {
        "workers": request.param,
        "log_level": "debug",
        "public_url": "https://voice.example.com",
    }
    return start_gateway(server=server, **tables(agent_port()))


def ask(
    gateway: Gateway, method: str, path: str, body: str = "", headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=WAIT_S)
    try:
        connection.request(method, path, body or None, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read() + str(answer.getheaders()).encode()
    finally:
        connection.close()


def requests(secret: str) -> list[tuple[str, str, str, dict[str, str]]]:
    """Return requests that contain a secret and fail, or succeed, in different ways."""
    bearer = {"Authorization": f"Bearer {secret}"}
    wrong = {"Authorization": f"Bearer {secret}x"}
    json_bearer = {**bearer, "Content-Type": "application/json"}
    basic = {"Authorization": "Basic " + base64.b64encode(f"key:{secret}".encode()).decode()}
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    return [
        ("GET", "/v1/agents", "", bearer),
        ("GET", "/v1/agents", "", wrong),
        ("GET", "/v1/agents", "", basic),
        ("GET", f"/v1/agents/{secret}", "", bearer),
        ("GET", f"/{secret}", "", {}),
        ("PATCH", "/v1/agents", "", bearer),
        ("POST", "/v1/agents", "{" + secret, json_bearer),
        ("POST", "/v1/agents", json.dumps({"agentName": secret, secret: 1}), json_bearer),
        ("POST", "/v1/public/support/start", json.dumps({"createDailyRoom": True}), json_bearer),
        ("POST", "/v1/public/support/start", json.dumps({"body": secret, "transport": secret}), json_bearer),
        ("POST", f"/v1/public/support/start?key={secret}", "", wrong),
        ("POST", "/v1/public/support/dialout", json.dumps({"to": secret}), json_bearer),
        ("POST", "/v1/public/webhooks/acme/support/dialin", secret, {"X-Pinless-Signature": secret}),
        ("POST", "/v1/public/webhooks/acme/support/whatsapp", secret, {"X-Hub-Signature-256": secret}),
        ("POST", f"/v1/twilio/document?agent=support&org=acme&x={secret}", f"CallSid={secret}", form),
        ("GET", f"/ws/twilio/support.acme/{secret}", "", bearer),
    ]


UPGRADES = [
    ("/ws/twilio/support.acme", {}),
    ("/ws/twilio/locked.acme/{}", {}),
    ("/ws/twilio/locked.acme?token={}", {}),
    ("/ws/{}/support.acme", {}),
    ("/ws/exotel/support.acme", {"Authorization": "Basic {}"}),
    ("/ws/exotel/support.acme", {"Authorization": "Bearer {}"}),
    ("/ws/generic/support.acme?body={}", {"Authorization": "Bearer {}"}),
    ("/ws/generic/locked.acme/{}", {}),
    ("/ws/plivo/support.acme", {"X-Plivo-Signature-V3": "{}", "X-Plivo-Signature-V3-Nonce": "{}"}),
    ("/v1/public/support/sessions/none/ws", {"Authorization": "Bearer {}"}),
]


async def test_no_secret_appears_in_answers_logs_or_process_titles(gateway: Gateway) -> None:
    for secret in SECRETS.values():
        for method, path, body, headers in requests(secret):
            status, answer = await asyncio.to_thread(ask, gateway, method, path, body, headers)
            assert status >= 200
            assert_hides(answer, besides=path + body)
        for target, headers in UPGRADES:
            given = {name: value.format(secret) for name, value in headers.items()}
            caller = await dial(gateway.port, target.format(secret), headers=dict(given))
            gateway.upgrades += target.startswith("/ws/")  # others have another line
            assert_hides(caller.body, besides=target.format(secret))
            if caller.status == 101:  # Telnyx's dialect says its account, Twilio's its parameters
                for message in opening("twilio", {"serviceHost": "nobody.acme"}):
                    caller.say(message)
            await caller.leave()
    reader, writer = await open_socket(gateway.port)
    writer.write(
        b"GET / HTTP/1.1\r\nAuthorization: Bearer " + SECRETS["private key"].encode() + b"\r\n\x00\r\n\r\n"
    )
    async with asyncio.timeout(WAIT_S):
        assert_hides(await reader.read())
    writer.close()
    assert_hides(json.dumps(gateway.status()).encode())
    await eventually(lambda: len(gateway.ends()) == gateway.upgrades, "the end of every call is logged")
    log = (gateway.directory / "patchbay.log").read_bytes()
    assert log.count(b"\n") > 100
    assert_hides(log)
    for process in family(gateway.process.pid):
        for name in ("cmdline", "comm", "status"):
            assert_hides((Path("/proc") / str(process) / name).read_bytes())


def assert_hides(text: bytes, besides: str = "") -> None:
    """Fail if a secret is in the text.

    `besides`: what the client sent itself in a place that is not secret.
    """
    for hidden in HIDDEN:
        position = text.find(hidden.encode())
        assert position < 0 or hidden in besides, text[max(0, position - 200) : position + 60]


def family(pid: int) -> list[int]:
    """Return the ids of a process and all its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in family(int(child)))]


def test_check_prints_no_secret_of_a_valid_or_invalid_configuration(
    agent_port: Callable[[], AgentPort], tmp_path: Path
) -> None:
    """In the invalid configuration every secret is invalid itself; no problem repeats one."""
    with_spaces = {name: value + " and spaces" for name, value in SECRETS.items()}
    good = tables(agent_port())
    bad = json.loads(json.dumps(good))
    for organization in bad["organizations"]:
        organization["private_keys"] = [with_spaces["private key"], "env:NO_SUCH_VARIABLE", MARK]
    bad["organizations.daily"] |= {"api_key": with_spaces["daily"], "webhook_secrets": [MARK + " "]}
    bad["organizations.whatsapp"]["app_secrets"] = [with_spaces["meta"]]
    for account in bad["organizations.carriers"]:
        account["auth_tokens"] = [with_spaces["twilio token"]]
        account["signing_keys"] = [with_spaces["twilio signing"]]
        account["api_key"] = with_spaces["telnyx"]
    bad["organizations.ice_servers"][0]["shared_secret"] = with_spaces["turn"]
    bad["organizations.ice_servers"][1]["credential"] = with_spaces["turn credential"]
    for settings, status in ((good, 0), (bad, 1)):
        lines = []
        for name, table in settings.items():
            for row in table if isinstance(table, list) else [table]:
                lines.append(f"[[{name}]]" if isinstance(table, list) else f"[{name}]")
                lines += [f"{key} = {json.dumps(value)}" for key, value in row.items()]
        (tmp_path / "patchbay.toml").write_text("\n".join(lines))
        checked = subprocess.run(
            [*PATCHBAY, "check", "--config", tmp_path / "patchbay.toml"],
            capture_output=True,
            timeout=WAIT_S,
            check=False,
            env={**os.environ, "PATCHBAY_SERVER__PUBLIC_URL": "https://voice.example.com"},
        )
        assert checked.returncode == status, checked.stderr
        assert_hides(checked.stdout + checked.stderr)
