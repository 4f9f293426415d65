# SPDX-License-Identifier: BSD-2-Clause
"""Properties of an organisation. There is one: the region of agents that are created without a region."""

from __future__ import annotations

import json
from typing import Final, Literal

from pydantic import Field

from gateway.api.framework.handler_services import Services
from gateway.api.framework.operation import Answer, Context, Operation
from gateway.api.pipecat_cloud.conventions import (
    ORGANIZATION,
    Documented,
    RequestModel,
    ResponseModel,
    both,
    operation,
    refused,
)

DOCUMENT_KIND: Final = "properties"


class PropertiesAnswer(ResponseModel):
    """The properties and their values."""

    properties: dict[str, str]


class PropertyView(ResponseModel):
    """A property with its value, its default and its choices."""

    type: Literal["string"] = "string"
    description: str
    read_only: bool = False
    default: str
    current_value: str
    available_values: list[str]


class SchemaAnswer(ResponseModel):
    """All properties."""

    properties: dict[str, PropertyView]


class PropertiesChange(RequestModel):
    """New values."""

    default_region: str = Field(
        description="The region of agents that are created without one; must exist.",
        examples=["us-west"],
    )


async def default_region(services: Services, organization: str) -> str:
    """Return the region of agents that are created without one. Raises StoreFailed."""
    document = await services.calls.store.key_values.get(DOCUMENT_KIND, organization, services.calls.now())
    stored = json.loads(document.value).get("defaultRegion") if document else None
    # The operator may have removed the region since.
    if stored in _codes(services):
        return str(stored)
    return services.calls.settings.server.region


def _codes(services: Services) -> list[str]:
    return [region.code for region in services.calls.settings.regions]


async def get_properties(context: Context) -> Answer:
    """`GET …/properties`: answer with the values."""
    region = await default_region(context.services, context.caller.organization)
    return Answer(200, PropertiesAnswer(properties={"defaultRegion": region}))


async def get_schema(context: Context) -> Answer:
    """`GET …/properties/schema`: answer with the values, defaults and choices."""
    services = context.services
    default = PropertyView(
        description="The region of agents that are made without one",
        default=services.calls.settings.server.region,
        current_value=await default_region(services, context.caller.organization),
        available_values=_codes(services),
    )
    return Answer(200, SchemaAnswer(properties={"defaultRegion": default}))


async def _change(context: Context) -> None:
    services, region = context.services, context.body_as(PropertiesChange).default_region
    if region not in (codes := _codes(services)):
        raise refused(400, f"defaultRegion: there is no such region; there is {', '.join(sorted(codes))}")
    value = json.dumps({"defaultRegion": region})
    await services.calls.store.key_values.put(
        DOCUMENT_KIND, context.caller.organization, value, now=services.calls.now()
    )


async def update_properties(context: Context) -> Answer:
    """`PATCH /v1/properties`: answer with the schema, as documented."""
    await _change(context)
    return await get_schema(context)


async def update_properties_for_cli(context: Context) -> Answer:
    """`PATCH /v1/organizations/{org}/properties`: answer with the values, which the CLI prints."""
    await _change(context)
    return await get_properties(context)


PROPERTIES: Final[tuple[Operation, ...]] = (
    *both(
        "GET",
        ("/properties", "/properties"),
        get_properties,
        Documented("Properties", {200: PropertiesAnswer}),
    ),
    *both(
        "GET",
        ("/properties/schema", "/properties/schema"),
        get_schema,
        Documented("Properties and what they may be", {200: SchemaAnswer}),
    ),
    operation(
        "PATCH",
        "/v1/properties",
        update_properties,
        Documented("Changes properties", {200: SchemaAnswer}, body=PropertiesChange),
    ),
    operation(
        "PATCH",
        f"{ORGANIZATION}/properties",
        update_properties_for_cli,
        Documented("Changes properties", {200: PropertiesAnswer}, body=PropertiesChange),
    ),
)
