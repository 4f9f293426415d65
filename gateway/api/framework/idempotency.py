# SPDX-License-Identifier: BSD-2-Clause
"""`Idempotency-Key`: a repeated request gets the first one's answer, and its work is done once.

The answer is in the store, so every worker has it. A failed request leaves nothing behind: the same key may
be used to try again. While the first request runs, it holds the key for a limited time, so that a worker
that dies does not block the key.

Answers contain tokens. Each is encrypted with a key derived from the request's `Idempotency-Key`, which
itself is not stored: a reader of the store cannot read the answers.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import BaseModel
from starlette.datastructures import Headers

from gateway.api.framework.errors import ApiError
from gateway.api.framework.handler_services import Services
from gateway.api.framework.operation import Answer, Style
from gateway.model.json_text import JsonText, dump
from gateway.store.interface import StoredValue, StoreFailed

log = structlog.get_logger(__name__)

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotent-Replayed"
MAX_KEY_CHARACTERS: Final = 255
DOCUMENT_KIND: Final = "idempotency"
ANSWER_LIFETIME_S: Final = 86_400.0
"""Seconds for which an answer is repeated."""
RUNNING_S: Final = 60.0
"""Seconds that a request may take beyond its agent's time to connect: Daily's answers, and the store's."""

NONCE_BYTES: Final = 12
"""Of AES-GCM, as NIST SP 800-38D §8.2 recommends."""

_ANSWER: Final = "answer"
_FINGERPRINT: Final = "fingerprint"


def key_of(headers: Headers, style: Style) -> str | None:
    """Return the request's key, None without one. Raises ApiError (400) if it is malformed or given twice."""
    values = headers.getlist(HEADER)
    if not values:
        return None
    key = values[0]
    if (
        len(values) > 1
        or not 1 <= len(key) <= MAX_KEY_CHARACTERS
        or not (key.isascii() and key.isprintable())
    ):
        detail = f"{HEADER} must be given once, with 1 to {MAX_KEY_CHARACTERS} ASCII characters"
        raise ApiError(400, _code(400, "bad_idempotency_key", style), detail, param=HEADER)
    return key


def fingerprint_of(*parts: bytes) -> str:
    """Return a digest that distinguishes requests by their parts, such as path and body."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class IdempotentRequest:
    """A request with an `Idempotency-Key`. `fingerprint`: of `fingerprint_of`; `style`: of its errors."""

    organization: str
    key: str
    fingerprint: str
    style: Style = Style.ENVELOPE


async def run_once(
    services: Services, request: IdempotentRequest, work: Callable[[], Awaitable[Answer]]
) -> Answer:
    """Run `work` and return its answer, or return the stored answer of an earlier request with the same key.

    Raises:
        ApiError: 409 if the key belongs to a request with another fingerprint, or that request still runs.
        StoreFailed: the store did not answer, or the stored answer does not decrypt.
    Whatever `work` raises passes through; the key is free again then.
    """
    key_values, now = services.calls.store.key_values, services.calls.now
    identity = f"{request.organization}\0{request.key}"
    name = hashlib.sha256(identity.encode()).hexdigest()
    secret = hashlib.sha256(f"answer\0{identity}".encode()).digest()
    record: dict[str, Any] = {_FINGERPRINT: request.fingerprint}
    lease_s = services.calls.settings.limits.agent_connect_timeout + RUNNING_S
    at = now()
    if not await key_values.put_if_absent(
        DOCUMENT_KIND, name, json.dumps(record), now=at, expires_at=at + lease_s
    ):
        stored = await key_values.get(DOCUMENT_KIND, name, at)
        return _replayed(stored, request, secret)
    done = False
    try:
        answer = await work()
        done = True
    finally:
        if not done:
            await _release(services, name)
    at = now()
    record[_ANSWER] = encrypt(json.dumps(_as_json(answer)), secret)
    try:
        await key_values.put(
            DOCUMENT_KIND, name, json.dumps(record), now=at, expires_at=at + ANSWER_LIFETIME_S
        )
    except StoreFailed as error:
        # The work is done and the client must learn of it; only a repetition will not be recognised.
        log.warning("store", error=str(error))
    return answer


async def _release(services: Services, name: str) -> None:
    try:
        await services.calls.store.key_values.delete(DOCUMENT_KIND, name)
    except StoreFailed as error:
        log.warning("store", error=str(error))  # the key is free when its lease ends


def encrypt(text: str, secret: bytes) -> str:
    """Return the text encrypted and authenticated with AES-256-GCM, in base64, its random nonce first."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    return base64.b64encode(nonce + AESGCM(secret).encrypt(nonce, text.encode(), None)).decode("ascii")


def decrypt(encrypted: str, secret: bytes) -> str:
    """Return the text of `encrypt`. Raises StoreFailed if a bit was changed or the secret is another."""
    raw = base64.b64decode(encrypted)
    try:
        return AESGCM(secret).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], None).decode()
    except InvalidTag:
        raise StoreFailed("a stored answer does not decrypt") from None


def _replayed(stored: StoredValue | None, request: IdempotentRequest, secret: bytes) -> Answer:
    """Return the stored answer. Raises ApiError (409), StoreFailed."""
    record: dict[str, Any] = json.loads(stored.value) if stored else {}
    if stored and record[_FINGERPRINT] != request.fingerprint:
        detail = f"This {HEADER} was used for another request"
        raise ApiError(409, _code(409, "idempotency_key_reused", request.style), detail, param=HEADER)
    if _ANSWER not in record:
        detail = f"A request with this {HEADER} is still running"
        code = _code(409, "idempotency_key_in_use", request.style)
        raise ApiError(409, code, detail, param=HEADER, headers={"Retry-After": "1"})
    answer = json.loads(decrypt(record[_ANSWER], secret))
    return Answer(answer["status"], answer["body"], {**answer["headers"], REPLAYED: "true"})


def _as_json(answer: Answer) -> dict[str, Any]:
    body = answer.body
    if isinstance(body, BaseModel):
        body = json.loads(dump(body.model_dump(mode="json", by_alias=True)))
    elif isinstance(body, JsonText):
        body = json.loads(body.raw)
    return {"status": answer.status, "body": body, "headers": dict(answer.headers)}


def _code(status: int, code: str, style: Style) -> str:
    """Return the error code in the style: Pipecat Cloud's clients compare it with the status."""
    return str(status) if style is Style.PCC else code
