# SPDX-License-Identifier: BSD-2-Clause
"""API keys: identified, created, listed, revoked; the store has only their hashes."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.auth.api_keys import DOCUMENT_KIND, Keyring, Principal, ReadOnlyKey
from gateway.config import Settings
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId
from tests.harness.clock import Clock


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "patchbay.db", WorkerId.of_this_process("worker-0"))
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock(1_000_000.0)


@pytest.fixture
def settings() -> Settings:
    return Settings(
        organizations=[
            {"name": "acme", "public_keys": ["pk_acme"], "private_keys": ["sk_acme", "pcc_pat_acme"]},
            {"name": "globex", "public_keys": ["pk_" + "0123456789" * 3]},
        ]
    )


@pytest.fixture
def api_keys(settings: Settings, store: SqliteStore, clock: Clock) -> Keyring:
    return Keyring(settings.organizations, store.key_values, clock)


async def test_a_configured_key_belongs_to_its_organisation(api_keys: Keyring) -> None:
    for key, kind, key_id in (
        ("pk_acme", "public", "configured-public-0"),
        ("sk_acme", "private", "configured-private-0"),
        ("pcc_pat_acme", "private", "configured-private-1"),
    ):
        principal = await api_keys.identify(key)
        assert principal is not None
        assert (principal.organization, principal.kind, principal.key_id) == ("acme", kind, key_id)


@pytest.mark.parametrize(
    "key", ["", "pk_", "pk_acme ", "PK_ACME", "sk_acm", "pk_acme\0", "é", "\ud800", "sk_" + "a" * 10_000]
)
async def test_any_other_text_is_no_key(api_keys: Keyring, key: str) -> None:
    assert await api_keys.identify(key) is None


async def test_a_new_key_is_valid_at_once_on_every_worker(
    api_keys: Keyring, settings: Settings, store: SqliteStore, clock: Clock
) -> None:
    record, key = await api_keys.create("acme", "public", "the website")
    assert key.startswith("pk_")
    assert len(key) == len("pk_") + 48
    other_worker = Keyring(settings.organizations, store.key_values, clock)
    assert await other_worker.identify(key) == Principal("acme", "public", record.id)
    assert (record.name, record.created_at, record.revoked_at) == ("the website", clock.now, None)


async def test_a_new_private_key_is_private(api_keys: Keyring) -> None:
    record, key = await api_keys.create("acme", "private", "the server")
    assert key.startswith("sk_")
    assert await api_keys.identify(key) == Principal("acme", "private", record.id)


async def test_a_revoked_key_is_invalid_and_stays_in_the_list(api_keys: Keyring, clock: Clock) -> None:
    record, key = await api_keys.create("acme", "public", "the website")
    clock.now += 10
    revoked = await api_keys.revoke("acme", record.id)
    assert revoked is not None
    assert revoked.revoked_at == clock.now
    assert await api_keys.identify(key) is None
    clock.now += 10
    assert await api_keys.revoke("acme", record.id) == revoked
    assert [each.id for each in await api_keys.keys("acme") if each.revoked_at] == [record.id]


async def test_another_organisation_cannot_revoke_the_key(api_keys: Keyring) -> None:
    record, key = await api_keys.create("acme", "public", "the website")
    assert record.id not in [each.id for each in await api_keys.keys("globex")]
    assert await api_keys.revoke("globex", record.id) is None
    assert await api_keys.revoke("globex", "configured-private-0") is None
    assert await api_keys.identify(key) is not None


async def test_a_configured_key_is_not_revoked_through_the_api(api_keys: Keyring) -> None:
    with pytest.raises(ReadOnlyKey, match="configuration"):
        await api_keys.revoke("acme", "configured-public-0")
    assert await api_keys.identify("pk_acme") is not None


async def test_the_list_shows_the_ends_of_keys_only(api_keys: Keyring, clock: Clock) -> None:
    _, first = await api_keys.create("acme", "public", "first")
    clock.now += 1
    await api_keys.create("acme", "private", "second")
    listed = await api_keys.keys("acme")
    assert [each.name for each in listed] == [
        "configured-public-0",
        "configured-private-0",
        "configured-private-1",
        "first",
        "second",
    ]
    assert [each.read_only for each in listed] == [True, True, True, False, False]
    assert [each.masked for each in listed[:4]] == ["pk_...", "sk_...", "pcc_pat_...", f"pk_...{first[-4:]}"]
    assert [each.masked for each in await api_keys.keys("globex")] == ["pk_...6789"]


async def test_the_store_holds_hashes_only(api_keys: Keyring, store: SqliteStore, clock: Clock) -> None:
    _, key = await api_keys.create("acme", "private", "the server")
    (document,) = await store.key_values.list(DOCUMENT_KIND, clock.now)
    assert document.key == hashlib.sha256(key.encode()).hexdigest()
    assert key not in document.value
    assert key[3:20] not in document.value


async def test_keys_are_compared_in_constant_time(api_keys: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each configured key is compared, and whole, wherever the first difference may be."""
    compared: list[tuple[str, str]] = []
    real = hmac.compare_digest

    def compare(one: str, other: str) -> bool:
        compared.append((one, other))
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    configured = [hashlib.sha256(key).hexdigest() for key in (b"pk_acme", b"sk_acme", b"pcc_pat_acme")]
    for key in ("pk_acme", "pcc_pat_acme", "pk_nobody"):
        compared.clear()
        await api_keys.identify(key)
        assert [one for one, _ in compared][:3] == configured
        assert len(compared) == 4
        assert {other for _, other in compared} == {hashlib.sha256(key.encode()).hexdigest()}


async def test_a_key_of_an_organisation_that_left_the_configuration_is_none(
    settings: Settings, store: SqliteStore, clock: Clock, api_keys: Keyring
) -> None:
    _, key = await api_keys.create("acme", "private", "the operator's")
    _, other = await api_keys.create("globex", "private", "another's")
    principal = await api_keys.identify(key)
    assert principal is not None
    left = [organization for organization in settings.organizations if organization.name != "acme"]
    later = Keyring(left, store.key_values, clock)
    assert await later.identify(key) is None
    assert await later.identify(other) is not None
    assert await later.revoked([principal]) == {principal}
    back = Keyring(settings.organizations, store.key_values, clock)
    assert await back.identify(key) == principal, "it is stored, and good again when the organisation is back"


async def test_keys_that_are_not_valid_any_more(api_keys: Keyring) -> None:
    configured = await api_keys.identify("pk_acme")
    record, key = await api_keys.create("acme", "public", "web site")
    stored = await api_keys.identify(key)
    assert configured is not None
    assert stored is not None
    assert await api_keys.revoked([configured, stored]) == set()
    await api_keys.revoke("acme", record.id)
    assert await api_keys.revoked([configured, stored]) == {stored}


async def test_the_next_key_of_the_configuration_does_not_keep_the_connections_of_a_removed_one(
    api_keys: Keyring, settings: Settings
) -> None:
    """A key's id is its place in the configuration, which the next one gets when it is taken out."""
    first = await api_keys.identify("sk_acme")
    second = await api_keys.identify("pcc_pat_acme")
    made = await api_keys.identify((await api_keys.create("acme", "public", "made"))[1])
    assert first is not None
    assert second is not None
    assert made is not None
    acme, *others = settings.organizations
    api_keys.configure([acme.model_copy(update={"private_keys": acme.private_keys[1:]}), *others])
    moved = await api_keys.identify("pcc_pat_acme")
    assert moved is not None
    assert moved.key_id == first.key_id
    assert await api_keys.identify("sk_acme") is None
    assert await api_keys.revoked([first, second, moved, made]) == {first}
    assert [api_keys.is_removed(one) for one in (first, second, moved, made)] == [True, False, False, False]
    api_keys.configure(others)
    assert await api_keys.revoked([second, made]) == {second, made}
    assert api_keys.is_removed(made), "with its organisation"
