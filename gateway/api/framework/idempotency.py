# SPDX-License-Identifier: BSD-2-Clause
"""`Idempotency-Key`: a request that is sent again is answered again, and done once.

The answer is kept in the store, so every worker knows it. A failure is not kept: it left nothing behind, so
to try again with the same key is to try again. While the first request runs, the key is taken for a limited
time, lest a worker that dies keeps it.

The key itself is not kept, and without it the kept answer, which has tokens in it, is not to be read.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog
from pydantic import BaseModel
from starlette.datastructures import Headers

from gateway.api.framework.errors import ApiError
from gateway.api.framework.operation import Answer, Style
from gateway.api.framework.services import Services
from gateway.api.framework.strict_json import dump
from gateway.store.interface import StoredValue, StoreFailed

log = structlog.get_logger(__name__)

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotent-Replayed"
MAX_KEY_CHARACTERS: Final = 255
DOCUMENT_KIND: Final = "idempotency"
KEPT_S: Final = 86_400.0
"""How long an answer is given again."""
RUNNING_S: Final = 60.0
"""How much longer a request may run than its agent may take to connect: Daily's answers, and the store's."""

NONCE_BYTES: Final = 16

_ANSWER: Final = "answer"
_FINGERPRINT: Final = "fingerprint"


def key_of(headers: Headers, style: Style) -> str | None:
    """The request's key, None where it has none. Raises ApiError for one that is none."""
    given = headers.getlist(HEADER)
    if not given:
        return None
    key = given[0]
    if len(given) > 1 or not 1 <= len(key) <= MAX_KEY_CHARACTERS or not (key.isascii() and key.isprintable()):
        detail = f"{HEADER} must be given run_once, with 1 to {MAX_KEY_CHARACTERS} ASCII characters"
        raise ApiError(400, _code(400, "bad_idempotency_key", style), detail, param=HEADER)
    return key


def fingerprint_of(*parts: bytes) -> str:
    """What tells a request from another: a digest of its parts, as its path and its body."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.hexdigest()


async def run_once(
    services: Services,
    organization: str,
    key: str,
    fingerprint: str,
    work: Callable[[], Awaitable[Answer]],
    *,
    style: Style = Style.ENVELOPE,
) -> Answer:
    """Does the work, or gives the answer that it had for this key of the organisation.

    Raises ApiError: 409 where the key was used for a request of another fingerprint, or that request still
    runs; StoreFailed; and what `work` raises, after which the key is free again.
    """
    documents, now = services.store.documents, services.now
    name = hashlib.sha256(f"{organization}\0{key}".encode()).hexdigest()
    secret = hashlib.sha256(f"answer\0{organization}\0{key}".encode()).digest()
    mine: dict[str, Any] = {_FINGERPRINT: fingerprint}
    lease_s = services.settings.limits.agent_connect_timeout + RUNNING_S
    at = now()
    if not await documents.put_if_absent(
        DOCUMENT_KIND, name, json.dumps(mine), now=at, expires_at=at + lease_s
    ):
        kept = await documents.get(DOCUMENT_KIND, name, at)
        return _replayed(kept, fingerprint, secret, style)
    done = False
    try:
        answer = await work()
        done = True
    finally:
        if not done:
            await _forget(services, name)
    at = now()
    text = json.dumps({**mine, _ANSWER: _sealed(json.dumps(_kept(answer)), secret)})
    try:
        await documents.put(DOCUMENT_KIND, name, text, now=at, expires_at=at + KEPT_S)
    except StoreFailed as error:
        # What was asked for is done, and who asked must hear of it.
        log.warning("store", error=str(error))
    return answer


async def _forget(services: Services, name: str) -> None:
    try:
        await services.store.documents.delete(DOCUMENT_KIND, name)
    except StoreFailed as error:
        log.warning("store", error=str(error))  # the key is free when its time is over


def _sealed(text: str, secret: bytes) -> str:
    """The text, as nobody reads it who has the store, or a copy of it, and not the request's key."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    return base64.b64encode(nonce + _mixed(text.encode(), nonce, secret)).decode("ascii")


def _opened(sealed: str, secret: bytes) -> str:
    raw = base64.b64decode(sealed)
    return _mixed(raw[NONCE_BYTES:], raw[:NONCE_BYTES], secret).decode()


def _mixed(data: bytes, nonce: bytes, secret: bytes) -> bytes:
    """XOR with a stream that is used once: SHAKE256 (FIPS 202) of the secret and a nonce."""
    stream = hashlib.shake_256(secret + nonce).digest(len(data))
    return (int.from_bytes(data) ^ int.from_bytes(stream)).to_bytes(len(data))


def _replayed(kept: StoredValue | None, fingerprint: str, secret: bytes, style: Style) -> Answer:
    value: dict[str, Any] = json.loads(kept.value) if kept else {}
    if kept and value[_FINGERPRINT] != fingerprint:
        detail = f"This {HEADER} was used for another request"
        raise ApiError(409, _code(409, "idempotency_key_reused", style), detail, param=HEADER)
    if _ANSWER not in value:
        detail = f"A request with this {HEADER} is still running"
        raise ApiError(
            409,
            _code(409, "idempotency_key_in_use", style),
            detail,
            param=HEADER,
            headers={"Retry-After": "1"},
        )
    answer = json.loads(_opened(value[_ANSWER], secret))
    return Answer(answer["status"], answer["body"], {**answer["headers"], REPLAYED: "true"})


def _kept(answer: Answer) -> dict[str, Any]:
    body = answer.body
    if isinstance(body, BaseModel):
        body = json.loads(dump(body.model_dump(mode="json", by_alias=True)))
    return {"status": answer.status, "body": body, "headers": dict(answer.headers)}


def _code(status: int, code: str, style: Style) -> str:
    """Pipecat Cloud's clients compare `code` with the status."""
    return str(status) if style is Style.PCC else code
