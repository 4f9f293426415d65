# SPDX-License-Identifier: BSD-2-Clause
"""API keys: list, create, revoke (docs/reference/public-api.md, "Keys").

A key is shown once, in the answer to its creation.
"""

from __future__ import annotations

from typing import Final

from pydantic import Field

from gateway.api.framework.operation import Answer, Context, Operation
from gateway.api.framework.strict_json import rfc3339_or_none
from gateway.api.pipecat_cloud.conventions import (
    NO_STORE,
    Documented,
    RequestModel,
    ResponseModel,
    both,
    missing,
    refused,
)
from gateway.auth.api_keys import ApiKey, KeyKind, ReadOnlyKey

MAX_KEYS: Final = 1000
"""Stored keys of an organisation, revoked ones included."""


class KeyMetadata(ResponseModel):
    """The key's name for people."""

    name: str


class KeyView(ResponseModel):
    """A key without its secret part."""

    id: str
    key: str = Field(description="Its prefix and its last characters; the key itself is not stored.")
    type: KeyKind
    created_at: str = Field(description="Empty for a key of the configuration file.")
    revoked: bool
    read_only: bool = Field(description="The key is in the configuration file and can be removed only there.")
    metadata: KeyMetadata


class KeysAnswer(ResponseModel):
    """The organisation's keys: first those of the configuration file, then the others by age."""

    public: list[KeyView]
    private: list[KeyView]


class NewKeyAnswer(KeyView):
    """A key that has just been created."""

    key: str = Field(description="The whole key. It cannot be shown again.")


class NewKey(RequestModel):
    """A new key."""

    name: str = Field(
        min_length=1,
        max_length=128,
        pattern=r"^[^\x00-\x1f\x7f]+$",
        description="The key's name for people: up to 128 characters without control characters.",
        examples=["web site"],
    )
    type: KeyKind = Field(
        default="public", description="A `public` key starts sessions, a `private` one may do everything."
    )


def _fields(key: ApiKey) -> dict[str, object]:
    return {
        "id": key.id,
        "key": key.masked,
        "type": key.kind,
        "created_at": rfc3339_or_none(key.created_at) or "",
        "revoked": key.revoked_at is not None,
        "read_only": key.read_only,
        "metadata": KeyMetadata(name=key.name),
    }


def _view(key: ApiKey) -> KeyView:
    return KeyView.model_validate(_fields(key))


async def list_keys(context: Context) -> Answer:
    """`GET …/apiKeys`: list the organisation's keys."""
    keys = await context.services.calls.api_keys.keys(context.caller.organization)
    answer = KeysAnswer(
        public=[_view(key) for key in keys if key.kind == "public"],
        private=[_view(key) for key in keys if key.kind == "private"],
    )
    return Answer(200, answer)


async def create_key(context: Context) -> Answer:
    """`POST …/apiKeys`: create a key and show it."""
    request, organization = context.body_as(NewKey), context.caller.organization
    api_keys = context.services.calls.api_keys
    if len(await api_keys.keys(organization)) >= MAX_KEYS:
        raise refused(409, f"This organisation has {MAX_KEYS} keys, and can make no more")
    record, key = await api_keys.create(organization, request.type, request.name)
    return Answer(200, NewKeyAnswer.model_validate({**_fields(record), "key": key}), NO_STORE)


async def revoke_key(context: Context) -> Answer:
    """`DELETE …/apiKeys/{key_id}`: revoke a key."""
    try:
        key = await context.services.calls.api_keys.revoke(
            context.caller.organization, context.path["key_id"]
        )
    except ReadOnlyKey as error:
        raise refused(409, str(error)) from None
    if key is None:
        raise missing("There is no such key")
    return Answer(200, _view(key))


_NOTES: Final = {"key_id": "The key's `id`, as the list has it."}
_LIST: Final = ("/apiKeys", "/apiKeys")
_KEY: Final = ("/apiKeys/{key_id}", "/apiKeys/{key_id}")

API_KEYS: Final[tuple[Operation, ...]] = (
    *both("GET", _LIST, list_keys, Documented("API keys", {200: KeysAnswer})),
    *both(
        "POST",
        _LIST,
        create_key,
        Documented("Makes an API key, and shows it this once", {200: NewKeyAnswer, 409: None}, body=NewKey),
    ),
    *both(
        "DELETE",
        _KEY,
        revoke_key,
        Documented(
            "Revokes an API key on every worker at once",
            {200: KeyView, 404: None, 409: None},
            path_notes=_NOTES,
        ),
    ),
)
