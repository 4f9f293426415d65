# SPDX-License-Identifier: BSD-2-Clause
"""Keys: who calls (docs/reference/public-api.md, "Keys").

A key is known by its SHA-256 and by nothing else: the configured ones are hashed as they are read, those made
later lie hashed in the store. A key has so much chance in it that a salt would add nothing, and without one
a key is found by its hash in one step, whose time says nothing about the key.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import uuid
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Final, Literal

from gateway.config import Organization
from gateway.store.interface import KeyValueStore

KeyKind = Literal["public", "private"]

DOCUMENT_KIND: Final = "api_key"
SECRET_BYTES: Final = 24
SHOWN_CHARACTERS: Final = 4
"""How much of a key's end is shown to tell it from others; of 48 that are random."""
MAX_KEY_CHARACTERS: Final = 512

_PREFIXES: Final[dict[KeyKind, str]] = {"public": "pk_", "private": "sk_"}


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls: an organisation, by one of its keys."""

    organization: str
    kind: KeyKind
    key_id: str
    """Names the key in logs and lists; nothing of the key is in it."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key. Times are Unix seconds.

    `shown`: what tells it from others, and opens nothing. `created_at`: None for one from the configuration,
    which is also `read_only`. `revoked_at`: from then on it opens nothing.
    """

    id: str
    organization: str
    kind: KeyKind
    name: str
    shown: str
    created_at: float | None
    revoked_at: float | None = None
    read_only: bool = False


class ReadOnlyKey(Exception):  # noqa: N818 - read as a sentence
    """The key stands in the configuration, and can only be taken out there."""


class Keyring:
    """All keys: the configured ones, and those kept in the store, which every worker sees at once."""

    def __init__(
        self,
        organizations: Iterable[Organization],
        documents: KeyValueStore,
        now: Callable[[], float],
        *,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
        new_secret: Callable[[], str] = lambda: secrets.token_hex(SECRET_BYTES),
    ) -> None:
        """`now` gives Unix seconds; `new_secret` what makes a key impossible to guess."""
        self._documents = documents
        self._now = now
        self._new_id = new_id
        self._new_secret = new_secret
        self._configured: dict[str, ApiKey] = {}
        for organization in organizations:
            self._configure(organization)

    def _configure(self, organization: Organization) -> None:
        kinds: list[tuple[KeyKind, list[str]]] = [
            ("public", organization.public_keys),
            ("private", [key.get_secret_value() for key in organization.private_keys]),
        ]
        for kind, keys in kinds:
            for place, key in enumerate(keys):
                key_id = f"configured-{kind}-{place}"
                self._configured[_digest(key)] = ApiKey(
                    id=key_id,
                    organization=organization.name,
                    kind=kind,
                    name=key_id,
                    shown=_shown(key),
                    created_at=None,
                    read_only=True,
                )

    async def identify(self, key: str) -> Principal | None:
        """Whose key it is; None for one that is none of ours, or was revoked. Raises StoreFailed."""
        if len(key) > MAX_KEY_CHARACTERS:
            return None
        digest = _digest(key)
        found = None
        for known, record in self._configured.items():  # every one is compared, whichever it is
            if hmac.compare_digest(known, digest):
                found = record
        if found is None:
            found = await self._kept(digest)
        if found is None or found.revoked_at is not None:
            return None
        return Principal(found.organization, found.kind, found.id)

    async def _kept(self, digest: str) -> ApiKey | None:
        document = await self._documents.get(DOCUMENT_KIND, digest, self._now())
        if document is None or not hmac.compare_digest(document.key, digest):
            return None
        return _read(document.value)

    async def create(self, organization: str, kind: KeyKind, name: str) -> tuple[ApiKey, str]:
        """Makes a key: what is known of it, and the key itself, which nobody can show again."""
        key = _PREFIXES[kind] + self._new_secret()
        record = ApiKey(
            id=self._new_id(),
            organization=organization,
            kind=kind,
            name=name,
            shown=_shown(key),
            created_at=self._now(),
        )
        await self._write(_digest(key), record)
        return record, key

    async def keys(self, organization: str) -> list[ApiKey]:
        """An organisation's keys, revoked or not: the configured ones, then the others, oldest first."""
        configured = [key for key in self._configured.values() if key.organization == organization]
        kept = [key for _, key in await self._kept_of(organization)]
        return configured + sorted(kept, key=lambda key: (key.created_at or 0.0, key.id))

    async def revoke(self, organization: str, key_id: str) -> ApiKey | None:
        """Makes a key open nothing any more, on every worker at once; None where there is no such key.

        A second time changes nothing. Raises ReadOnlyKey, StoreFailed.
        """
        for configured in self._configured.values():
            if (configured.organization, configured.id) == (organization, key_id):
                raise ReadOnlyKey(f"{key_id} stands in the configuration file; take it out there")
        for digest, record in await self._kept_of(organization):
            if record.id == key_id:
                if record.revoked_at is not None:
                    return record
                revoked = replace(record, revoked_at=self._now())
                await self._write(digest, revoked)
                return revoked
        return None

    async def _kept_of(self, organization: str) -> list[tuple[str, ApiKey]]:
        documents = await self._documents.list(DOCUMENT_KIND, self._now())
        keys = [(document.key, _read(document.value)) for document in documents]
        return [(digest, key) for digest, key in keys if key.organization == organization]

    async def _write(self, digest: str, record: ApiKey) -> None:
        await self._documents.put(DOCUMENT_KIND, digest, json.dumps(asdict(record)), now=self._now())


def _read(value: str) -> ApiKey:
    return ApiKey(**json.loads(value))


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()


def _shown(key: str) -> str:
    """The prefix and, of a key long enough to spare them, the last characters."""
    prefix = next((prefix for prefix in ("pcc_pat_", "pk_", "sk_") if key.startswith(prefix)), "")
    spare = len(key) - len(prefix) >= 6 * SHOWN_CHARACTERS
    return f"{prefix}...{key[-SHOWN_CHARACTERS:] if spare else ''}"
