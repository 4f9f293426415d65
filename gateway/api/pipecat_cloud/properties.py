# SPDX-License-Identifier: BSD-2-Clause
"""Properties of an organisation: the region of agents that are made without one."""

from __future__ import annotations

import json
from typing import Final, Literal

from pydantic import Field

from gateway.api.framework.operation import Answer, Context, Operation
from gateway.api.framework.services import Services
from gateway.api.pipecat_cloud.conventions import (
    ORGANIZATION,
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
    """A property, what it may be, and what it is."""

    type: Literal["string"] = "string"
    description: str
    read_only: bool = False
    default: str
    current_value: str
    available_values: list[str]


class SchemaAnswer(ResponseModel):
    """The properties there are."""

    properties: dict[str, PropertyView]


class PropertiesChange(RequestModel):
    """New values."""

    default_region: str = Field(
        description="The region of agents that are made without one: one of the regions there are.",
        examples=["us-west"],
    )


async def default_region(services: Services, organization: str) -> str:
    """The region of an agent that is made without one. Raises StoreFailed."""
    document = await services.store.key_values.get(DOCUMENT_KIND, organization, services.now())
    chosen = json.loads(document.value).get("defaultRegion") if document else None
    # The operator may have taken a region out since it was chosen.
    if chosen in _codes(services):
        return str(chosen)
    return services.settings.server.region


def _codes(services: Services) -> list[str]:
    return [region.code for region in services.settings.regions]


async def values(context: Context) -> Answer:
    """`GET …/properties`."""
    region = await default_region(context.services, context.caller.organization)
    return Answer(200, PropertiesAnswer(properties={"defaultRegion": region}))


async def schema(context: Context) -> Answer:
    """`GET …/properties/schema`."""
    services = context.services
    told = PropertyView(
        description="The region of agents that are made without one",
        default=services.settings.server.region,
        current_value=await default_region(services, context.caller.organization),
        available_values=_codes(services),
    )
    return Answer(200, SchemaAnswer(properties={"defaultRegion": told}))


async def _change(context: Context) -> None:
    services, region = context.services, context.body_as(PropertiesChange).default_region
    if region not in (codes := _codes(services)):
        raise refused(400, f"defaultRegion: there is no such region; there is {', '.join(sorted(codes))}")
    value = json.dumps({"defaultRegion": region})
    await services.store.key_values.put(DOCUMENT_KIND, context.caller.organization, value, now=services.now())


async def change(context: Context) -> Answer:
    """`PATCH /v1/properties`: answers with the schema, as documented."""
    await _change(context)
    return await schema(context)


async def change_for_cli(context: Context) -> Answer:
    """`PATCH /v1/organizations/{org}/properties`: answers with the values, which the CLI prints."""
    await _change(context)
    return await values(context)


PROPERTIES: Final[tuple[Operation, ...]] = (
    *both("GET", "/properties", "/properties", values, "Properties", answers={200: PropertiesAnswer}),
    *both(
        "GET",
        "/properties/schema",
        "/properties/schema",
        schema,
        "Properties and what they may be",
        answers={200: SchemaAnswer},
    ),
    operation(
        "PATCH",
        "/v1/properties",
        change,
        "Changes properties",
        {200: SchemaAnswer},
        body=PropertiesChange,
    ),
    operation(
        "PATCH",
        f"{ORGANIZATION}/properties",
        change_for_cli,
        "Changes properties",
        {200: PropertiesAnswer},
        body=PropertiesChange,
    ),
)
