# SPDX-License-Identifier: BSD-2-Clause
"""Every error of the framework and of the table of reasons, literally, in both styles."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.api.framework.errors import ApiError, render
from gateway.api.framework.operation import Style
from gateway.model.reasons import REASONS

ROOT = Path(__file__).parents[3]

ID = {"X-Request-Id": "call-1"}


def envelope(kind: str, code: str, message: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"type": kind, "code": code, "message": message, "param": param, "request_id": "call-1"}}


# Keys (docs/reference/public-api.md, "Keys")


@pytest.mark.parametrize("key", [None, "pk_nobody", "sk_nobody", ""])
async def test_a_start_without_a_valid_key_is_401_with_its_own_code(api: Any, key: str | None) -> None:
    reply = await api("POST", "/v1/public/support/start", key=key, value={})
    assert reply.status == 401
    assert reply.json == {
        "error": "Attempt to start agent without a valid public API key.",
        "info": "Attempt to start agent without a valid public API key.",
        "code": "PCC-1002",
    }
    assert reply.header("WWW-Authenticate") == "Bearer"


@pytest.mark.parametrize("key", [None, "sk_nobody", "pk_acme"])
async def test_elsewhere_an_invalid_key_is_401(api: Any, key: str | None) -> None:
    reply = await api("GET", "/v1/toys", key=key)
    assert (reply.status, reply.json) == (
        401,
        {"error": "Unauthorized / token expired", "info": "Unauthorized / token expired", "code": "401"},
    )


@pytest.mark.parametrize("key", [None, "sk_nobody"])
async def test_in_the_envelope_an_invalid_key_is_an_authentication_error(api: Any, key: str | None) -> None:
    reply = await api("GET", "/v1/things/7", key=key, headers=ID)
    assert reply.status == 401
    assert reply.json == envelope(
        "authentication", "unauthorized", "A valid key is needed: Authorization: Bearer sk_…"
    )


async def test_in_the_envelope_a_public_key_lacks_permission(api: Any) -> None:
    reply = await api("GET", "/v1/things/7", key="pk_acme", headers=ID)
    assert reply.status == 403
    assert reply.json == envelope(
        "permission", "private_key_needed", "This needs a private key; a public one was given"
    )


@pytest.mark.parametrize("key", ["pk_acme", "sk_acme", "pcc_pat_acme"])
async def test_any_key_of_the_organisation_starts(api: Any, key: str) -> None:
    reply = await api("POST", "/v1/public/support/start", key=key, value={})
    assert (reply.status, reply.json["organization"]) == (200, "acme")


@pytest.mark.parametrize("value", ["bearer sk_acme", "BEARER  sk_acme "])
async def test_the_scheme_is_case_insensitive(api: Any, value: str) -> None:
    reply = await api("GET", "/v1/things/7", key=None, headers={"Authorization": value})
    assert reply.status == 200


@pytest.mark.parametrize("value", ["Basic sk_acme", "sk_acme", "Bearer", "Bearer sk_acme sk_acme"])
async def test_other_authorization_schemes_are_401(api: Any, value: str) -> None:
    reply = await api("GET", "/v1/toys", key=None, headers={"Authorization": value})
    assert reply.status == 401


async def test_two_keys_are_401(api: Any) -> None:
    reply = await api("GET", "/v1/toys", headers={"authorization": "Bearer sk_globex"})
    assert reply.status == 401


# Paths and methods


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/nothing", "/v1/toys/", "/v1/public", "/v1//toys"])
async def test_an_unknown_path_is_404(api: Any, path: str) -> None:
    reply = await api("GET", path, key=None)
    assert reply.status == 404
    assert reply.json == {
        "error": "Nothing is served under this path",
        "info": "Nothing is served under this path",
        "code": "404",
    }


async def test_an_unknown_path_below_the_envelope_has_the_envelope(api: Any) -> None:
    reply = await api("GET", "/v1/things/7/parts", key=None, headers=ID)
    assert reply.status == 404
    assert reply.json == envelope("not_found", "not_found", "Nothing is served under this path")


async def test_a_path_outside_the_api_is_404_in_json(api: Any) -> None:
    reply = await api("GET", "/nothing", key=None)
    assert (reply.status, reply.json) == (404, {"error": "Not Found", "info": "Not Found", "code": "404"})


async def test_a_wrong_method_is_405_with_allow(api: Any) -> None:
    reply = await api("PATCH", "/v1/toys")
    assert reply.status == 405
    assert reply.header("Allow") == "GET, HEAD, OPTIONS"
    assert reply.json == {
        "error": "This path takes GET, HEAD, OPTIONS",
        "info": "This path takes GET, HEAD, OPTIONS",
        "code": "405",
    }


async def test_a_wrong_method_in_the_envelope(api: Any) -> None:
    reply = await api("DELETE", "/v1/things", headers=ID)
    assert reply.status == 405
    assert reply.header("Allow") == "OPTIONS, POST"
    assert reply.json == envelope("invalid_request", "method_not_allowed", "This path takes OPTIONS, POST")


async def test_a_wrong_method_outside_the_api(api: Any) -> None:
    reply = await api("POST", "/livez", key=None)
    assert (reply.status, reply.json) == (
        405,
        {"error": "Method Not Allowed", "info": "Method Not Allowed", "code": "405"},
    )
    assert "GET" in reply.header("Allow")


# Values


async def test_a_wrong_type_is_400(api: Any) -> None:
    reply = await api("POST", "/v1/public/support/start", value={"createDailyRoom": "true"})
    assert reply.status == 400
    assert reply.json == {
        "error": "createDailyRoom: Input should be a valid boolean",
        "info": "createDailyRoom: Input should be a valid boolean",
        "code": "400",
    }


async def test_a_wrong_value_in_the_envelope_is_422_and_names_it(api: Any) -> None:
    value = {"agent": "support", "transport": {"type": "daily", "rate_hz": 1}}
    reply = await api("POST", "/v1/things", value=value, headers=ID)
    assert reply.status == 422
    assert reply.json == envelope(
        "unprocessable",
        "invalid_parameter",
        "transport.rate_hz: Input should be greater than or equal to 8000",
        "transport.rate_hz",
    )


async def test_several_wrong_values_are_all_named(api: Any) -> None:
    reply = await api("POST", "/v1/things", value={"seconds": "1"}, headers=ID)
    assert reply.json == envelope(
        "unprocessable",
        "invalid_parameter",
        "agent: Field required; seconds: Input should be a valid number",
        "agent",
    )


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("limit=0", "limit: Input should be greater than or equal to 1"),
        (
            "limit=ten",
            "limit: Input should be a valid integer, unable to parse string as an integer",
        ),
        ("limit=1&limit=2", "limit: is given 2 times"),
    ],
)
async def test_a_wrong_query_is_400(api: Any, query: str, detail: str) -> None:
    reply = await api("GET", f"/v1/toys?{query}")
    assert (reply.status, reply.json) == (400, {"error": detail, "info": detail, "code": "400"})


async def test_a_wrong_query_in_the_envelope_is_422(api: Any) -> None:
    reply = await api("POST", "/v1/things?limit=101", value={"agent": "support"}, headers=ID)
    assert reply.status == 422
    assert reply.json == envelope(
        "unprocessable", "invalid_parameter", "limit: Input should be less than or equal to 100", "limit"
    )


async def test_a_good_query_reaches_the_handler(api: Any) -> None:
    reply = await api("GET", "/v1/toys?limit=3&tag=a&tag=b&unknown=1")
    assert reply.json == {"organization": "acme", "limit": 3, "tag": ["a", "b"]}


# What handlers raise


async def test_an_error_of_a_handler(api: Any) -> None:
    reply = await api("GET", "/v1/things/gone", headers=ID)
    assert reply.status == 404
    assert reply.json == envelope("not_found", "not_found", "There is no such thing", "thing_id")
    reply = await api("GET", "/v1/things/conflict", headers=ID)
    assert (reply.status, reply.json) == (409, envelope("conflict", "not_active", "It has ended"))
    reply = await api("GET", "/v1/toys/gone")
    assert (reply.status, reply.json) == (
        404,
        {"error": "There is no such thing", "info": "There is no such thing", "code": "not_found"},
    )


async def test_an_agent_at_capacity_is_429_as_the_sdk_reads_it(api: Any) -> None:
    reply = await api("GET", "/v1/toys/at_capacity")
    assert reply.status == 429
    assert reply.header("Retry-After") == "5"
    assert reply.json == {
        "status": 429,
        "code": "429",
        "error": "PCC-AGENT-AT-CAPACITY: all places of the agent are taken",
        "info": "PCC-AGENT-AT-CAPACITY: all places of the agent are taken",
        "message": "Rate limit exceeded. Please try again later",
    }


async def test_an_agent_at_capacity_in_the_envelope_is_503(api: Any) -> None:
    reply = await api("GET", "/v1/things/at_capacity", headers=ID)
    assert reply.status == 503
    assert reply.header("Retry-After") == "5"
    assert reply.json == envelope("service_unavailable", "at_capacity", "all places of the agent are taken")


@pytest.mark.parametrize(
    ("reason", "status", "code"),
    [
        ("unknown_agent", 404, "404"),
        ("wrong_region", 404, "404"),
        ("unauthorized", 403, "403"),
        ("bad_request", 400, "400"),
        ("too_large", 413, "413"),
        ("agent_unreachable", 502, "agent_unreachable"),
        ("agent_start_timeout", 504, "agent_start_timeout"),
        ("draining", 503, "draining"),
        ("internal_error", 500, "500"),
        ("agent_ended", 502, "agent_ended"),  # it has no status, for it mostly happens on a socket
        ("stopped", 503, "stopped"),
    ],
)
async def test_a_reason_as_an_answer(api: Any, reason: str, status: int, code: str) -> None:
    reply = await api("GET", f"/v1/toys/{reason}")
    assert (reply.status, reply.json) == (
        status,
        {"error": REASONS[reason].sentence, "info": REASONS[reason].sentence, "code": code},
    )


@pytest.mark.parametrize(
    ("reason", "status", "kind"),
    [
        ("unknown_agent", 404, "not_found"),
        ("unauthorized", 403, "permission"),
        ("bad_request", 400, "invalid_request"),
        ("too_large", 413, "invalid_request"),
        ("rate_limited", 429, "rate_limit"),
        ("agent_unreachable", 502, "service_unavailable"),
        ("agent_start_timeout", 504, "service_unavailable"),
        ("draining", 503, "service_unavailable"),
        ("internal_error", 500, "internal"),
    ],
)
async def test_a_reason_in_the_envelope(api: Any, reason: str, status: int, kind: str) -> None:
    reply = await api("GET", f"/v1/things/{reason}", headers=ID)
    assert (reply.status, reply.json) == (status, envelope(kind, reason, REASONS[reason].sentence))


async def test_every_reason_can_be_an_answer_and_its_code_is_a_string(api: Any) -> None:
    for reason in REASONS:
        reply = await api("GET", f"/v1/toys/{reason}")
        assert 400 <= reply.status < 600
        assert isinstance(reply.json["code"], str)
        reply = await api("GET", f"/v1/things/{reason}")
        assert 400 <= reply.status < 600
        assert reply.json["error"]["code"] == reason


async def test_a_store_that_does_not_answer_is_503(api: Any) -> None:
    detail = "the session store does not answer"
    reply = await api("GET", "/v1/toys/store")
    assert (reply.status, reply.json) == (503, {"error": detail, "info": detail, "code": "store_failed"})
    assert reply.header("Retry-After") == "5"
    reply = await api("GET", "/v1/things/store", headers=ID)
    assert (reply.status, reply.json) == (503, envelope("service_unavailable", "store_failed", detail))


async def test_a_store_that_fails_during_authentication_is_503(api: Any) -> None:
    api.documents.broken = "the file is gone"
    reply = await api("GET", "/v1/toys", key="sk_of_the_store")
    assert (reply.status, reply.json["code"]) == (503, "store_failed")


@pytest.mark.parametrize("what", ["bug", "nan", "surrogate"])
async def test_an_internal_error_shows_no_stack(api: Any, what: str) -> None:
    reply = await api("GET", f"/v1/toys/{what}")
    assert (reply.status, reply.json) == (
        500,
        {"error": "the gateway made a mistake", "info": "the gateway made a mistake", "code": "500"},
    )
    reply = await api("GET", f"/v1/things/{what}", headers=ID)
    assert reply.status == 500
    assert reply.json == envelope("internal", "internal_error", "the gateway made a mistake")


async def test_an_internal_error_outside_the_api_shows_no_stack(api: Any) -> None:
    reply = await api("GET", "/broken", key=None)
    assert (reply.status, reply.json) == (
        500,
        {"error": "the gateway made a mistake", "info": "the gateway made a mistake", "code": "500"},
    )
    assert reply.header("X-Request-Id")


# Texts (Pipecat Cloud's CLI prints them as markup)

ROOMS = ("api", "agents", "auth", "calls", "carriers", "media", "model")
CODE = re.compile("`[^`]*`")  # of descriptions in the document of the API; no answer has it
BRACKETED = re.compile(r"\[+[a-z][a-z._]*\]+")
NO_ANSWER = {
    "gateway/api/sessions/session_models.py": "[redacted]",  # a value
    "gateway/api/sessions/session_views.py": "[redacted]",
    "gateway/api/webhooks/dialin.py": "[organizations.daily]",  # for the log
    "gateway/api/webhooks/whatsapp.py": "[organizations.whatsapp]",
    "gateway/carriers/daily/setup.py": "[",  # printed by a command
}
"""Texts with square brackets that are no answers, by file."""


def texts(file: Path) -> Iterator[str]:
    """All texts of a module but its docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value


@pytest.mark.parametrize("room", ROOMS)
def test_no_answer_is_worded_with_square_brackets(room: str) -> None:
    found = [
        f"{name}: {text}"
        for file in sorted((ROOT / "gateway" / room).rglob("*.py"))
        for name in [str(file.relative_to(ROOT))]
        for text in texts(file)
        if BRACKETED.search(CODE.sub("", text)) and not (name in NO_ANSWER and NO_ANSWER[name] in text)
    ]
    assert not found


@pytest.mark.parametrize("status", [400, 404, 429, 501])
def test_brackets_of_a_request_are_round_in_the_answer(status: int) -> None:
    error = ApiError(status, str(status), "[bold]x[/bold]: there is no such key")
    body = render(error, Style.PCC, "call-1").body.model_dump()
    assert body["error"] == body["info"] == "(bold)x(/bold): there is no such key"
