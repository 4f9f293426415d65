# SPDX-License-Identifier: BSD-2-Clause
"""CarrierAccounts: for which organisations a request is authenticated, and the URLs that carriers know."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from twilio.request_validator import RequestValidator

from gateway.carriers.accounts import CarrierAccounts
from gateway.carriers.signatures import AuthenticationFailed, SignedRequest
from gateway.config import Settings

TWILIO = {"carrier": "twilio", "account": "AC1", "auth_tokens": ["acmes"]}


def organization(name: str, *carriers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "carriers": list(carriers), **more}


def agent(organization: str, name: str = "support") -> dict[str, Any]:
    return {"name": name, "organization": organization}


def accounts(
    *organizations: dict[str, Any],
    agents: tuple[dict[str, Any], ...] = (),
    public_url: str | None = "https://gw.example.com",
    regions: tuple[str, ...] = ("us-west", "eu-central"),
) -> CarrierAccounts:
    tables = {
        "server": {"region": regions[0], **({"public_url": public_url} if public_url else {})},
        "regions": [{"code": code, "display_name": code} for code in regions],
        "organizations": list(organizations),
        "agents": list(agents),
    }
    return CarrierAccounts(Settings.model_validate(tables))


def upgrade(urls: tuple[str, ...], token: str, signed_url: str | None = None) -> SignedRequest:
    signature = RequestValidator(token).compute_signature(signed_url or urls[0], {})
    return SignedRequest("GET", urls, {"x-twilio-signature": signature}, b"", "203.0.113.7", 0.0)


def exotel(user: str, token: str) -> SignedRequest:
    credentials = base64.b64encode(f"{user}:{token}".encode()).decode()
    return SignedRequest("GET", (), {"authorization": f"Basic {credentials}"}, b"", "203.0.113.7", 0.0)


# Required authentication


def test_an_organisation_has_its_own_accounts() -> None:
    known = accounts(
        organization("acme", TWILIO, {"carrier": "plivo"}, {**TWILIO, "account": "AC2"}),
        organization("globex", {**TWILIO, "account": "AC3"}),
    )
    assert [account.account for account in known.of("acme", "twilio")] == ["AC1", "AC2"]
    assert [account.account for account in known.of("globex", "twilio")] == ["AC3"]
    assert known.of("acme", "telnyx") == ()
    assert known.of("nobody", "twilio") == ()


def test_an_account_without_credentials_requires_no_authentication() -> None:
    known = accounts(
        organization("acme", {"carrier": "telnyx", "api_key": "k"}, {"carrier": "twilio"}, TWILIO)
    )
    assert not known.requires_authentication("acme", "telnyx")
    assert not known.requires_authentication("acme", "plivo")
    assert known.requires_authentication("acme", "twilio"), "one of two is enough"


def test_a_carrier_is_always_authenticated_if_every_organisation_with_agents_requires_it() -> None:
    acme, globex, idle = organization("acme", TWILIO), organization("globex", TWILIO), organization("idle")
    both = (agent("acme"), agent("globex"))
    assert accounts(acme, globex, idle, agents=both).always_authenticated("twilio")
    assert not accounts(acme, globex, idle, agents=both).always_authenticated("telnyx")
    assert not accounts(acme, globex, idle, agents=(*both, agent("idle"))).always_authenticated("twilio")


def test_an_organisation_that_can_create_agents_through_the_api_counts_too() -> None:
    may = organization("globex", private_keys=["sk_1"])
    assert not accounts(organization("acme", TWILIO), may, agents=(agent("acme"),)).always_authenticated(
        "twilio"
    )


def test_without_organisations_no_carrier_is_always_authenticated() -> None:
    assert not accounts().always_authenticated("twilio")
    assert not accounts(agents=(agent("acme"),)).always_authenticated("twilio")


# Authenticated requests


def test_a_request_is_authenticated_for_the_organisations_whose_account_signed_it() -> None:
    known = accounts(
        organization("acme", TWILIO),
        organization("globex", {**TWILIO, "auth_tokens": ["globexs", "shared"]}),
        organization("third", {**TWILIO, "auth_tokens": ["other"]}, {**TWILIO, "auth_tokens": ["shared"]}),
        organization("open", {"carrier": "twilio"}),
        organization("elsewhere", {"carrier": "plivo", "auth_tokens": ["acmes"]}),
    )
    urls = known.urls("/ws/twilio", "wss")
    assert known.authenticated_organizations("twilio", upgrade(urls, "acmes")) == {"acme"}
    assert known.authenticated_organizations("twilio", upgrade(urls, "globexs")) == {"globex"}
    assert known.authenticated_organizations("twilio", upgrade(urls, "shared")) == {"globex", "third"}
    assert known.authenticated_organizations("twilio", upgrade(urls, "forged")) == frozenset()
    assert known.authenticated_organizations("plivo", upgrade(urls, "acmes")) == frozenset()
    assert known.authenticated_organizations("generic", upgrade(urls, "acmes")) == frozenset()


def test_the_account_that_accepts_the_request_is_returned() -> None:
    known = accounts(organization("acme", {**TWILIO, "account": "AC2", "auth_tokens": ["old"]}, TWILIO))
    urls = known.urls("/ws/twilio/support.acme", "wss")
    assert known.authenticate("acme", "twilio", upgrade(urls, "acmes")).account == "AC1"
    assert known.authenticate("acme", "twilio", upgrade(urls, "old")).account == "AC2"


def test_a_refusal_has_a_reason_without_secrets() -> None:
    known = accounts(organization("acme", TWILIO), organization("open", {"carrier": "twilio"}))
    signed = upgrade(known.urls("/ws/twilio", "wss"), "forged")
    for name, detail in (("acme", "the signature"), ("open", "no account"), ("nobody", "no account")):
        with pytest.raises(AuthenticationFailed, match=detail) as caught:
            known.authenticate(name, "twilio", signed)
        assert "acmes" not in caught.value.reason


def test_credentials_of_one_organisation_are_refused_for_another() -> None:
    known = accounts(
        organization("acme", {"carrier": "exotel", "auth_id": "a", "auth_tokens": ["token"]}),
        organization("globex", {"carrier": "exotel", "auth_id": "b", "auth_tokens": ["token"]}),
    )
    assert known.authenticated_organizations("exotel", exotel("a", "token")) == {"acme"}
    assert known.authenticated_organizations("exotel", exotel("b", "token")) == {"globex"}
    assert known.authenticated_organizations("exotel", exotel("c", "token")) == frozenset()


def test_a_signature_for_a_region_is_accepted_and_for_another_host_is_not() -> None:
    known = accounts(organization("acme", TWILIO))
    path = "/ws/twilio/support.acme/tok"
    urls = known.urls(path, "wss")
    for host in ("gw.example.com", "us-west.gw.example.com", "eu-central.gw.example.com"):
        assert known.authenticated_organizations("twilio", upgrade(urls, "acmes", f"wss://{host}{path}")) == {
            "acme"
        }
    for host in ("evil.example.com", "ap-south.gw.example.com", "example.com"):
        assert not known.authenticated_organizations("twilio", upgrade(urls, "acmes", f"wss://{host}{path}"))


# URLs


@pytest.mark.parametrize(
    ("public_url", "scheme", "expected"),
    [
        (
            "https://gw.example.com",
            "wss",
            (
                "wss://gw.example.com/ws?a=1",
                "wss://us-west.gw.example.com/ws?a=1",
                "wss://eu-central.gw.example.com/ws?a=1",
            ),
        ),
        (
            "https://gw.example.com:8443/voice/",
            "https",
            (
                "https://gw.example.com:8443/voice/ws?a=1",
                "https://us-west.gw.example.com:8443/voice/ws?a=1",
                "https://eu-central.gw.example.com:8443/voice/ws?a=1",
            ),
        ),
        ("http://192.0.2.1:7860", "wss", ("ws://192.0.2.1:7860/ws?a=1",)),
        ("http://[2001:db8::1]:7860", "https", ("http://[2001:db8::1]:7860/ws?a=1",)),
        (
            "https://EU-central.gw.example.com",
            "https",
            (
                "https://EU-central.gw.example.com/ws?a=1",
                "https://us-west.gw.example.com/ws?a=1",
                "https://eu-central.gw.example.com/ws?a=1",
            ),
        ),
        (
            "http://localhost",
            "wss",
            ("ws://localhost/ws?a=1", "ws://us-west.localhost/ws?a=1", "ws://eu-central.localhost/ws?a=1"),
        ),
        (None, "wss", ()),
    ],
)
def test_the_candidates_are_of_the_configuration(
    public_url: str | None, scheme: Any, expected: tuple[str, ...]
) -> None:
    assert accounts(public_url=public_url).urls("/ws?a=1", scheme) == expected


@pytest.mark.parametrize(
    "target", ["", "*", "https://evil.example.com/ws", "ws", "@evil.example.com/", ".evil.com/"]
)
def test_a_request_without_a_path_has_no_candidates(target: str) -> None:
    assert accounts().urls(target, "https") == ()
    with pytest.raises(ValueError, match="slash"):
        accounts().url(target, "https", "us-west")


def test_path_and_query_stay_as_they_came() -> None:
    raw = "//a/%7e%2F+?b=%20x&&a=+%zz"
    assert all(url.endswith(f".com{raw}") for url in accounts().urls(raw, "https"))


@pytest.mark.parametrize("region", ["us-west", "eu-central"])
@pytest.mark.parametrize("scheme", ["https", "wss"])
@pytest.mark.parametrize(
    "public_url", ["https://gw.example.com/x", "https://us-west.gw.example.com", "http://[::1]:1"]
)
def test_a_url_that_is_given_out_is_a_candidate(public_url: str, scheme: Any, region: str) -> None:
    known = accounts(public_url=public_url)
    assert known.url("/ws?a=1", scheme, region) in known.urls("/ws?a=1", scheme)


def test_a_url_that_is_given_out_names_another_region_than_the_servers() -> None:
    assert accounts().url("/ws", "wss", "eu-central") == "wss://eu-central.gw.example.com/ws"
    assert accounts().url("/ws", "wss", "us-west") == "wss://gw.example.com/ws"


def test_without_a_public_url_no_url_is_given_out() -> None:
    with pytest.raises(ValueError, match="public_url"):
        accounts(public_url=None).url("/ws", "wss", "us-west")
