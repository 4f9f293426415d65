# SPDX-License-Identifier: BSD-2-Clause
"""What two configurations differ in, in names that betray nothing."""

from __future__ import annotations

from typing import Any

from gateway.config import Settings
from gateway.config.changes import Changes, changes_between

ACME = {"name": "acme", "public_keys": ["pk_1"], "private_keys": ["sk_1"]}
SUPPORT = {"name": "support", "organization": "acme"}


def settings(**tables: Any) -> Settings:
    return Settings.model_validate({"organizations": [ACME], "agents": [SUPPORT], **tables})


def test_the_same_configuration_differs_in_nothing() -> None:
    assert changes_between(settings(), settings()) == Changes((), (), ())


def test_every_part_of_an_organisation_is_named() -> None:
    acme = {
        "name": "acme",
        "public_keys": ["pk_2"],
        "dial_prefixes": ["+1"],
        "daily": {"api_key": "a-secret"},
        "carriers": [{"carrier": "plivo", "account": "MA1", "auth_tokens": ["a-secret"]}],
    }
    changes = changes_between(settings(), settings(organizations=[acme]))
    assert changes.added == ("daily of acme", "plivo accounts of acme")
    assert changes.changed == ("organization acme", "public keys of acme")
    assert changes.removed == ("private keys of acme",)
    assert "secret" not in repr(changes)


def test_a_number_is_told_by_its_agent_alone() -> None:
    first = settings(numbers=[{"number": "+15550000001", "agent": "support.acme"}])
    second = settings(numbers=[{"number": "+15550000002", "agent": "support.acme"}])
    assert changes_between(first, second) == Changes((), ("numbers of support.acme",), ())
    assert changes_between(first, settings()).removed == ("numbers of support.acme",)
