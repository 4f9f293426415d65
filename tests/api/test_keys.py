# SPDX-License-Identifier: BSD-2-Clause
"""Keys: whose they are, made, listed, revoked, and never kept (docs/reference/public-api.md, "Keys")."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.auth.api_keys import DOCUMENT_KIND, Keyring, Principal, ReadOnlyKey
from gateway.config import Settings
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "patchbay.db", WorkerId.of_this_process("worker-0"))
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def settings() -> Settings:
    return Settings(
        organizations=[
            {"name": "acme", "public_keys": ["pk_acme"], "private_keys": ["sk_acme", "pcc_pat_acme"]},
            {"name": "globex", "public_keys": ["pk_" + "0123456789" * 3]},
        ]
    )


@pytest.fixture
def api_keys(settings: Settings, store: SqliteStore, clock: Any) -> Keyring:
    return Keyring(settings.organizations, store.key_values, clock)


async def test_configured_keys_are_their_organisations(api_keys: Keyring) -> None:
    assert await api_keys.identify("pk_acme") == Principal("acme", "public", "configured-public-0")
    assert await api_keys.identify("sk_acme") == Principal("acme", "private", "configured-private-0")
    assert await api_keys.identify("pcc_pat_acme") == Principal("acme", "private", "configured-private-1")


@pytest.mark.parametrize(
    "key", ["", "pk_", "pk_acme ", "PK_ACME", "sk_acm", "pk_acme\0", "é", "\ud800", "sk_" + "a" * 10_000]
)
async def test_nothing_else_is_anybodys(api_keys: Keyring, key: str) -> None:
    assert await api_keys.identify(key) is None


async def test_a_key_that_is_made_opens_at_once_and_for_every_worker(
    api_keys: Keyring, settings: Settings, store: SqliteStore, clock: Any
) -> None:
    record, key = await api_keys.create("acme", "public", "the website")
    assert key.startswith("pk_")
    assert len(key) == len("pk_") + 48
    other_worker = Keyring(settings.organizations, store.key_values, clock)
    assert await other_worker.identify(key) == Principal("acme", "public", record.id)
    assert (record.name, record.created_at, record.revoked_at) == ("the website", clock.now, None)


async def test_a_private_key_is_made_private(api_keys: Keyring) -> None:
    record, key = await api_keys.create("acme", "private", "the server")
    assert key.startswith("sk_")
    assert await api_keys.identify(key) == Principal("acme", "private", record.id)


async def test_a_revoked_key_opens_nothing_and_stays_in_the_list(api_keys: Keyring, clock: Any) -> None:
    record, key = await api_keys.create("acme", "public", "the website")
    clock.now += 10
    revoked = await api_keys.revoke("acme", record.id)
    assert revoked is not None
    assert revoked.revoked_at == clock.now
    assert await api_keys.identify(key) is None
    clock.now += 10
    assert await api_keys.revoke("acme", record.id) == revoked
    assert [each.id for each in await api_keys.keys("acme") if each.revoked_at] == [record.id]


async def test_another_organisation_does_not_know_the_key(api_keys: Keyring) -> None:
    record, key = await api_keys.create("acme", "public", "the website")
    assert record.id not in [each.id for each in await api_keys.keys("globex")]
    assert await api_keys.revoke("globex", record.id) is None
    assert await api_keys.revoke("globex", "configured-private-0") is None
    assert await api_keys.identify(key) is not None


async def test_configured_keys_are_revoked_where_they_stand(api_keys: Keyring) -> None:
    with pytest.raises(ReadOnlyKey, match="configuration"):
        await api_keys.revoke("acme", "configured-public-0")
    assert await api_keys.identify("pk_acme") is not None


async def test_the_list_tells_keys_apart_and_shows_none(api_keys: Keyring, clock: Any) -> None:
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
    assert [each.shown for each in listed[:4]] == ["pk_...", "sk_...", "pcc_pat_...", f"pk_...{first[-4:]}"]
    assert [each.shown for each in await api_keys.keys("globex")] == ["pk_...6789"]


async def test_the_store_holds_hashes_only(api_keys: Keyring, store: SqliteStore, clock: Any) -> None:
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


async def test_over_http_a_revoked_key_is_401_at_once(api: Any) -> None:
    record, key = await api.api_keys.create("globex", "private", "the server")
    reply = await api("GET", "/v1/toys", key=key)
    assert (reply.status, reply.json["organization"]) == (200, "globex")
    await api.api_keys.revoke("globex", record.id)
    assert (await api("GET", "/v1/toys", key=key)).status == 401
