# SPDX-License-Identifier: BSD-2-Clause
"""API keys (docs/reference/public-api.md, "Keys").

A key is stored as its SHA-256 alone: configured keys are hashed when the settings are read, keys made through
the API are hashed in the store. A key has so much entropy that a salt would add nothing, and without a salt a
key is found by its hash in one step, whose duration reveals nothing about the key.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import uuid
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Final, Literal

from gateway.config import Organization
from gateway.store.interface import KeyValueStore

KeyKind = Literal["public", "private"]

DOCUMENT_KIND: Final = "api_key"
SECRET_BYTES: Final = 24
MASKED_CHARACTERS: Final = 4
"""Characters of a key's end, of 48 random ones, that are displayed to distinguish keys."""
MAX_KEY_CHARACTERS: Final = 512

_STORED_MASK: Final = "shown"
"""The name of `masked` in the store."""

_PREFIXES: Final[dict[KeyKind, str]] = {"public": "pk_", "private": "sk_"}


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller of the API: an organisation, identified by one of its keys."""

    organization: str
    kind: KeyKind
    key_id: str
    """The key's name in logs and lists. It contains no part of the key."""
    digest: str = field(default="", repr=False)
    """Of a key of the configuration, whose name is only its place there: another may have it next."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """The record of a key. Times are Unix seconds.

    `masked`: the key's ends, to tell it from others. `created_at`: None for a key from the configuration,
    which is also `read_only`. `revoked_at`: since when the key is refused.
    """

    id: str
    organization: str
    kind: KeyKind
    name: str
    masked: str
    created_at: float | None
    revoked_at: float | None = None
    read_only: bool = False


class ReadOnlyKey(Exception):  # noqa: N818 - read as a sentence
    """The key is part of the configuration and can only be removed there."""


class Keyring:
    """All keys: from the configuration, and from the store, where every worker sees a change at once."""

    def __init__(
        self,
        organizations: Iterable[Organization],
        documents: KeyValueStore,
        now: Callable[[], float],
        *,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
        new_secret: Callable[[], str] = lambda: secrets.token_hex(SECRET_BYTES),
        on_revoked: Callable[[str], None] = lambda key_id: None,
    ) -> None:
        """`now` returns Unix seconds, `new_secret` the random part of a new key.

        `on_revoked` is called with a key's id when this worker has revoked it.
        """
        self._on_revoked = on_revoked
        self._documents = documents
        self._now = now
        self._new_id = new_id
        self._new_secret = new_secret
        self.configure(organizations)

    def configure(self, organizations: Iterable[Organization]) -> None:
        """Replace the keys of the configuration: those that are not in it any more are refused from now on.

        Connections that are open with one of them end once `revoked` is asked.
        """
        self._organizations: set[str] = set()
        self._configured: dict[str, ApiKey] = {}
        for organization in organizations:
            self._add(organization)

    def _add(self, organization: Organization) -> None:
        self._organizations.add(organization.name)
        kinds: list[tuple[KeyKind, list[str]]] = [
            ("public", organization.public_keys),
            ("private", [key.get_secret_value() for key in organization.private_keys]),
        ]
        for kind, keys in kinds:
            for index, key in enumerate(keys):
                key_id = f"configured-{kind}-{index}"
                self._configured[_digest(key)] = ApiKey(
                    id=key_id,
                    organization=organization.name,
                    kind=kind,
                    name=key_id,
                    masked=_mask(key),
                    created_at=None,
                    read_only=True,
                )

    async def identify(self, key: str) -> Principal | None:
        """Return the key's owner, or None if the key is unknown or revoked, or its organisation is not
        configured any more.

        Raises StoreFailed.
        """
        if len(key) > MAX_KEY_CHARACTERS:
            return None
        digest = _digest(key)
        record = None
        # No early exit: the time must not depend on which key it is.
        for known, configured in self._configured.items():
            if hmac.compare_digest(known, digest):
                record = configured
        if record is not None:
            return Principal(record.organization, record.kind, record.id, digest)
        record = await self._stored(digest)
        if record is None or not self._is_valid(record):
            return None
        return Principal(record.organization, record.kind, record.id)

    async def revoked(self, principals: Collection[Principal]) -> set[Principal]:
        """Return those of the owners whose key is not valid any more. Raises StoreFailed."""
        documents = await self._documents.list(DOCUMENT_KIND, self._now())
        stored = [_read(document.value) for document in documents]
        valid = {(key.organization, key.id) for key in stored if self._is_valid(key)}
        return {
            one
            for one in principals
            if self.is_removed(one) or not (one.digest or (one.organization, one.key_id) in valid)
        }

    def is_removed(self, principal: Principal) -> bool:
        """Return True if the configuration has not the owner's key, or its organisation, any more.

        Of a key that was made through the API `revoked` says more.
        """
        if principal.digest:
            return principal.digest not in self._configured
        return principal.organization not in self._organizations

    def _is_valid(self, key: ApiKey) -> bool:
        return key.revoked_at is None and key.organization in self._organizations

    async def _stored(self, digest: str) -> ApiKey | None:
        document = await self._documents.get(DOCUMENT_KIND, digest, self._now())
        if document is None or not hmac.compare_digest(document.key, digest):
            return None
        return _read(document.value)

    async def create(self, organization: str, kind: KeyKind, name: str) -> tuple[ApiKey, str]:
        """Make a key. Return its record and the key itself, which cannot be read again.

        Raises StoreFailed.
        """
        key = _PREFIXES[kind] + self._new_secret()
        record = ApiKey(
            id=self._new_id(),
            organization=organization,
            kind=kind,
            name=name,
            masked=_mask(key),
            created_at=self._now(),
        )
        await self._write(_digest(key), record)
        return record, key

    async def keys(self, organization: str) -> list[ApiKey]:
        """Return an organisation's keys, including revoked ones: configured keys, then stored ones, oldest
        first.

        Raises StoreFailed.
        """
        configured = [key for key in self._configured.values() if key.organization == organization]
        stored = [key for _, key in await self._stored_of(organization)]
        return configured + sorted(stored, key=lambda key: (key.created_at or 0.0, key.id))

    async def revoke(self, organization: str, key_id: str) -> ApiKey | None:
        """Revoke a key on all workers at once. Return its record, or None if there is no such key.

        Revoking a key again changes nothing. Raises ReadOnlyKey, StoreFailed.
        """
        for configured in self._configured.values():
            if (configured.organization, configured.id) == (organization, key_id):
                raise ReadOnlyKey(f"{key_id} stands in the configuration file; take it out there")
        for digest, record in await self._stored_of(organization):
            if record.id == key_id:
                if record.revoked_at is not None:
                    return record
                revoked = replace(record, revoked_at=self._now())
                await self._write(digest, revoked)
                self._on_revoked(key_id)
                return revoked
        return None

    async def _stored_of(self, organization: str) -> list[tuple[str, ApiKey]]:
        documents = await self._documents.list(DOCUMENT_KIND, self._now())
        keys = [(document.key, _read(document.value)) for document in documents]
        return [(digest, key) for digest, key in keys if key.organization == organization]

    async def _write(self, digest: str, record: ApiKey) -> None:
        value = asdict(record)
        value[_STORED_MASK] = value.pop("masked")
        await self._documents.put(DOCUMENT_KIND, digest, json.dumps(value), now=self._now())


def _read(value: str) -> ApiKey:
    fields = json.loads(value)
    return ApiKey(masked=fields.pop(_STORED_MASK), **fields)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()


def _mask(key: str) -> str:
    """Return the key's prefix and, if the key is long enough to stay secret, its last characters."""
    prefix = next((prefix for prefix in ("pcc_pat_", "pk_", "sk_") if key.startswith(prefix)), "")
    is_long = len(key) - len(prefix) >= 6 * MASKED_CHARACTERS
    return f"{prefix}...{key[-MASKED_CHARACTERS:] if is_long else ''}"
