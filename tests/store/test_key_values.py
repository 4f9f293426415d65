# SPDX-License-Identifier: BSD-2-Clause
"""The values that workers share besides sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gateway.store.interface import KeyValueStore, Store, StoredValue

OpenWorker = Callable[..., Any]
StartWorker = Callable[..., Any]


@pytest.fixture
def values(store: Store) -> KeyValueStore:
    return store.key_values


async def test_a_value_is_stored_and_replaced(values: KeyValueStore) -> None:
    assert await values.get("property", "acme", 1000.0) is None
    await values.put("property", "acme", '{"defaultRegion": "us-west"}', now=1000.0)
    value = await values.get("property", "acme", 9e9)
    assert value == StoredValue("property", "acme", '{"defaultRegion": "us-west"}', 1000.0, None)
    await values.put("property", "acme", "{}", now=1001.0, expires_at=1002.0)
    value = await values.get("property", "acme", 1001.5)
    assert value == StoredValue("property", "acme", "{}", 1001.0, 1002.0)
    assert await values.get("agent", "acme", 1001.5) is None


async def test_an_expired_value_is_absent(values: KeyValueStore) -> None:
    await values.put("answer", "k", "1", now=1000.0, expires_at=1010.0)
    assert not await values.put_if_absent("answer", "k", "2", now=1009.9)
    assert await values.get("answer", "k", 1009.9)
    assert await values.get("answer", "k", 1010.0) is None
    assert await values.list("answer", 1010.0) == ()
    assert await values.put_if_absent("answer", "k", "2", now=1010.0, expires_at=1020.0)
    assert await values.get("answer", "k", 1010.0) == StoredValue("answer", "k", "2", 1010.0, 1020.0)


async def test_a_value_is_replaced_only_by_whoever_knows_what_it_is(values: KeyValueStore) -> None:
    assert not await values.replace("place", "7", "a", "b", now=1000.0)
    await values.put("place", "7", "a", now=1000.0, expires_at=1010.0)
    assert not await values.replace("place", "7", "x", "b", now=1001.0, expires_at=1020.0)
    assert await values.replace("place", "7", "a", "b", now=1001.0, expires_at=1020.0)
    assert await values.get("place", "7", 1015.0) == StoredValue("place", "7", "b", 1001.0, 1020.0)
    assert await values.replace("place", "7", "a", "b", now=1015.0, expires_at=1030.0), "its reply was lost"
    assert not await values.replace("place", "7", "b", "c", now=1030.0, expires_at=1040.0), "it has expired"
    assert await values.put_if_absent("place", "7", "d", now=1030.0)
    assert await values.replace("place", "7", "d", "e", now=9e9)


async def test_of_two_workers_that_replace_a_value_one_succeeds(open_worker: OpenWorker) -> None:
    first, second = (await open_worker()).key_values, (await open_worker()).key_values
    await first.put("place", "7", "a", now=1000.0)
    done = await asyncio.gather(
        first.replace("place", "7", "a", "b", now=1001.0), second.replace("place", "7", "a", "c", now=1001.0)
    )
    assert sorted(done) == [False, True]


async def test_a_value_that_was_replaced_expires_by_its_new_time(store: Store) -> None:
    await store.key_values.put("place", "7", "a", now=1000.0, expires_at=1010.0)
    assert await store.key_values.replace("place", "7", "a", "b", now=1001.0, expires_at=1100.0)
    await store.heartbeat(1050.0)
    await store.reap(1050.0)
    assert await store.key_values.get("place", "7", 1050.0) is not None


async def test_a_value_without_expiry_never_expires(values: KeyValueStore) -> None:
    assert await values.put_if_absent("secret", "tokens", '"a"', now=1000.0)
    assert not await values.put_if_absent("secret", "tokens", '"b"', now=9e9)
    value = await values.get("secret", "tokens", 9e9)
    assert value is not None
    assert value.value == '"a"'


async def test_a_value_is_deleted(values: KeyValueStore) -> None:
    await values.put("key", "k", "1", now=1000.0)
    assert await values.delete("key", "k")
    assert not await values.delete("key", "k")
    assert await values.get("key", "k", 1000.0) is None
    assert await values.put_if_absent("key", "k", "2", now=1000.0)


async def test_values_are_listed_by_kind_and_prefix_ordered_by_key(values: KeyValueStore) -> None:
    keys = ["acme/2", "acme/1", "acme", "acme/\U0001f600", "acmf/1", "ac%e/1", "other/1", ""]
    for key in keys:
        await values.put("key", key, f'"{key}"', now=1000.0)
    await values.put("kez", "acme/3", "1", now=1000.0)
    await values.put("key", "acme/expired", "1", now=1000.0, expires_at=1001.0)

    async def listed(prefix: str) -> list[str]:
        return [value.key for value in await values.list("key", 1001.0, prefix)]

    assert await listed("acme/") == ["acme/1", "acme/2", "acme/\U0001f600"]
    assert await listed("ac%e") == ["ac%e/1"]
    assert await listed("") == sorted(keys)
    assert await listed("unknown") == []


async def test_keys_differ_by_every_character(values: KeyValueStore) -> None:
    for n, key in enumerate(("k", "K", "k ", "k\0", "k\0a", "ḱ")):
        assert await values.put_if_absent("nonce", key, str(n), now=1000.0)
    with pytest.raises(UnicodeError):
        await values.put_if_absent("nonce", "half a pair \ud83d", "1", now=1000.0)
    with pytest.raises(UnicodeError):
        await values.get("nonce", "half a pair \ud83d", 1000.0)
