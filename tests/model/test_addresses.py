# SPDX-License-Identifier: BSD-2-Clause
"""Service hosts, regional hosts and telephone numbers are composed and recognised in one place."""

from __future__ import annotations

import pytest

from gateway.model import addresses
from texml.addresses import E164

REGIONS = ("us-west", "eu-central")


def test_a_service_host_is_composed_and_split() -> None:
    host = addresses.service_host("support", "acme")
    assert host == "support.acme"
    assert addresses.split_service_host(host) == ("support", "acme")
    assert addresses.split_service_host("support") == ("support", "")


@pytest.mark.parametrize("text", ["support.acme", "a.b", "s-1.acme-2"])
def test_a_service_host_is_recognised(text: str) -> None:
    assert addresses.is_service_host(text)


@pytest.mark.parametrize(
    "text", ["", "support", "support.", ".acme", "Support.acme", "-s.acme", "s-.acme", "a.b.c", "a.b\n"]
)
def test_anything_else_is_no_service_host(text: str) -> None:
    assert not addresses.is_service_host(text)


def test_an_agent_has_two_characters_or_more_and_an_organisation_one() -> None:
    assert addresses.is_label("a")
    assert not addresses.is_agent_name("a")
    assert addresses.is_agent_name("ab")


@pytest.mark.parametrize(
    ("text", "is_number"),
    [
        ("+15559876543", True),
        ("+1234567", True),
        ("+123456789012345", True),
        ("+1234567890123456", False),
        ("+123456", False),
        ("+0123456789", False),
        ("15559876543", False),
        ("+1555987654x", False),
        ("+15559876543\n", False),
    ],
)
def test_a_telephone_number_is_in_e164_form(text: str, *, is_number: bool) -> None:
    assert addresses.is_phone_number(text) is is_number
    assert (E164.fullmatch(text) is not None) is is_number, "the documents allow the same numbers"


def test_numbers_are_compared_by_their_digits() -> None:
    assert addresses.digits_of("+1 (555) 987-6543") == addresses.digits_of("15559876543")


@pytest.mark.parametrize(
    "address",
    [
        "sip:+15559876543@acme.sip.us1.twilio.com",
        "SIP:15559876543@203.0.113.7:5060",
        "sips:+1-555-987-6543@[2001:db8::1]:5061;transport=tls?subject=1",
        "sip:+15559876543;ext=22;phone-context=+44@example.com;user=phone",
        "sip:%2B15559876543:4711@example.com",
        '"Support 24" <sip:+15559876543@s1.example.com>;tag=99',
        "+15559876543@acme.sip.us1.twilio.com",
        "tel:+1-555-987-6543;ext=22",
        "tel:15559876543;phone-context=+44",
        "TEL:+1(555)987.6543",
        "+15559876543;ext=22",
    ],
)
def test_the_number_of_an_address_is_its_user_alone(address: str) -> None:
    assert addresses.digits_of(address) == "15559876543"


@pytest.mark.parametrize(
    "address",
    [
        "",
        "sip:15559876543.example.com",
        "sip:203.0.113.7:5060",
        "sip:agent15559876543@example.com",
        "client:15559876543",
        "agent15559876543",
        "anonymous@15559876543",
        "tel:*15559876543#",
        "+١٥٥٥٩٨٧٦٥٤٣",
        "<<sip:+15559876543@example.com>",
    ],
)
def test_an_address_that_names_no_number_has_no_digits(address: str) -> None:
    assert addresses.digits_of(address) == ""


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("eu-central.api.example.com", "eu-central"),
        ("EU-Central.api.example.com:443", "eu-central"),
        ("api.example.com", None),
        ("eu-central", None),
        ("", None),
    ],
)
def test_the_first_label_of_a_host_is_its_region(host: str, region: str | None) -> None:
    assert addresses.region_of_host(host, REGIONS) == region


@pytest.mark.parametrize(
    ("netloc", "regional"),
    [
        ("api.example.com", "us-west.api.example.com"),
        ("api.example.com:8443", "us-west.api.example.com:8443"),
        ("eu-central.api.example.com", "us-west.api.example.com"),
        ("EU-central.api.example.com", "us-west.api.example.com"),
        ("localhost:8080", "us-west.localhost:8080"),
        ("203.0.113.7:8080", "203.0.113.7:8080"),
        ("[2001:db8::1]:8080", "[2001:db8::1]:8080"),
    ],
)
def test_a_region_stands_in_front_of_a_host_but_not_of_an_address(netloc: str, regional: str) -> None:
    assert addresses.host_in_region(netloc, "us-west", REGIONS) == regional
