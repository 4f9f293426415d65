# SPDX-License-Identifier: BSD-2-Clause
"""Documents: small things that workers share and that are no sessions, behind one small interface.

A nonce that was used, the answer to an idempotent request, a key, an agent's settings: each is JSON text
under a kind and a key, for ever or until it expires. Whoever uses a kind decides what its text means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Document:
    """One document. `value`: JSON text. Times are Unix seconds; `expires_at` None is never."""

    kind: str
    key: str
    value: str
    created_at: float
    expires_at: float | None


class Documents(Protocol):
    """Documents of all workers. Every time is Unix seconds and comes from the caller.

    From its `expires_at` on a document is as if it were not there. Each method is one atomic step over all
    workers; it answers within seconds or raises StoreFailed (store.py). Whoever gives up waiting for it does
    not know whether it was done. Kinds and keys are any text, told apart by every character; text that is no
    Unicode (half a surrogate pair) raises ValueError.
    """

    async def put(
        self, kind: str, key: str, value: str, *, now: float, expires_at: float | None = None
    ) -> None:
        """Writes a document, in place of an earlier one."""

    async def put_if_absent(
        self, kind: str, key: str, value: str, *, now: float, expires_at: float | None = None
    ) -> bool:
        """Writes a document if there is none; whether it did. Of many that try, exactly one does."""

    async def get(self, kind: str, key: str, now: float) -> Document | None:
        """One document."""

    async def delete(self, kind: str, key: str) -> bool:
        """Removes a document; whether there was one, be it expired."""

    async def list(self, kind: str, now: float, prefix: str = "") -> tuple[Document, ...]:
        """The documents of a kind whose keys begin with `prefix`, in the order of their keys."""
