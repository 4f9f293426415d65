# SPDX-License-Identifier: BSD-2-Clause
"""KeyValueStore: what workers share besides sessions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.store.interface import KeyValueStore, Store, StoredValue

OpenWorker = Callable[..., Any]
StartWorker = Callable[..., Any]


@pytest.fixture
def documents(store: Store) -> KeyValueStore:
    return store.key_values


async def test_a_document_is_kept_and_replaced(documents: KeyValueStore) -> None:
    assert await documents.get("property", "acme", 1000.0) is None
    await documents.put("property", "acme", '{"defaultRegion": "us-west"}', now=1000.0)
    kept = await documents.get("property", "acme", 9e9)
    assert kept == StoredValue("property", "acme", '{"defaultRegion": "us-west"}', 1000.0, None)
    await documents.put("property", "acme", "{}", now=1001.0, expires_at=1002.0)
    kept = await documents.get("property", "acme", 1001.5)
    assert kept == StoredValue("property", "acme", "{}", 1001.0, 1002.0)
    assert await documents.get("agent", "acme", 1001.5) is None


async def test_from_its_expiry_on_a_document_is_not_there(documents: KeyValueStore) -> None:
    await documents.put("answer", "k", "1", now=1000.0, expires_at=1010.0)
    assert not await documents.put_if_absent("answer", "k", "2", now=1009.9)
    assert await documents.get("answer", "k", 1009.9)
    assert await documents.get("answer", "k", 1010.0) is None
    assert await documents.list("answer", 1010.0) == ()
    assert await documents.put_if_absent("answer", "k", "2", now=1010.0, expires_at=1020.0)
    assert await documents.get("answer", "k", 1010.0) == StoredValue("answer", "k", "2", 1010.0, 1020.0)


async def test_a_document_for_ever_is_never_absent(documents: KeyValueStore) -> None:
    assert await documents.put_if_absent("secret", "tokens", '"a"', now=1000.0)
    assert not await documents.put_if_absent("secret", "tokens", '"b"', now=9e9)
    kept = await documents.get("secret", "tokens", 9e9)
    assert kept is not None
    assert kept.value == '"a"'


async def test_a_document_is_removed(documents: KeyValueStore) -> None:
    await documents.put("key", "k", "1", now=1000.0)
    assert await documents.delete("key", "k")
    assert not await documents.delete("key", "k")
    assert await documents.get("key", "k", 1000.0) is None
    assert await documents.put_if_absent("key", "k", "2", now=1000.0)


async def test_a_list_is_of_a_kind_and_a_prefix_in_order(documents: KeyValueStore) -> None:
    keys = ["acme/2", "acme/1", "acme", "acme/\U0001f600", "acmf/1", "ac%e/1", "other/1", ""]
    for key in keys:
        await documents.put("key", key, f'"{key}"', now=1000.0)
    await documents.put("kez", "acme/3", "1", now=1000.0)
    await documents.put("key", "acme/expired", "1", now=1000.0, expires_at=1001.0)

    async def listed(prefix: str) -> list[str]:
        return [document.key for document in await documents.list("key", 1001.0, prefix)]

    assert await listed("acme/") == ["acme/1", "acme/2", "acme/\U0001f600"]
    assert await listed("ac%e") == ["ac%e/1"]
    assert await listed("") == sorted(keys)
    assert await listed("nobody") == []


async def test_keys_are_told_apart_by_every_character(documents: KeyValueStore) -> None:
    for n, key in enumerate(("k", "K", "k ", "k\0", "k\0a", "ḱ")):
        assert await documents.put_if_absent("nonce", key, str(n), now=1000.0)
    with pytest.raises(UnicodeError):
        await documents.put_if_absent("nonce", "half a pair \ud83d", "1", now=1000.0)
    with pytest.raises(UnicodeError):
        await documents.get("nonce", "half a pair \ud83d", 1000.0)
