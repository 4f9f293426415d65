# SPDX-License-Identifier: BSD-2-Clause
"""The key's organisation and user, its API key at Daily, and the regions."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, Field

from gateway.api.framework.operation import Answer, Context, Operation
from gateway.api.pipecat_cloud.conventions import (
    NO_STORE,
    ORGANIZATION,
    Documented,
    ResponseModel,
    both,
    missing,
    operation,
)


class OrganizationView(ResponseModel):
    """An organisation."""

    id: str
    name: str = Field(description="The second part of its agents' service hosts.")
    verbose_name: str = Field(description="The name for people; here the same.")


class OrganizationsAnswer(ResponseModel):
    """The key's organisation, in a list."""

    organizations: list[OrganizationView]


class EmailView(ResponseModel):
    """An address of a user."""

    email_address: str


class UserView(ResponseModel):
    """The key as a user: a gateway knows no people."""

    user_id: str = Field(description="The key's id.")
    emails: list[EmailView] = Field(description="Always empty.")


class UserAnswer(ResponseModel):
    """The user."""

    user: UserView


class DailyAnswer(ResponseModel):
    """The organisation's domain at Daily."""

    api_key: str = Field(description="The domain's API key, as the operator configured it.")


class RegionView(BaseModel):
    """A region."""

    code: str
    display_name: str


class RegionsAnswer(BaseModel):
    """All regions."""

    regions: list[RegionView]


async def list_organizations(context: Context) -> Answer:
    """`GET /v1/organizations`: list the one organisation of the key."""
    name = context.caller.organization
    return Answer(
        200, OrganizationsAnswer(organizations=[OrganizationView(id=name, name=name, verbose_name=name)])
    )


async def get_user(context: Context) -> Answer:
    """`GET /v1/users`: answer with the key as a user."""
    return Answer(200, UserAnswer(user=UserView(user_id=context.caller.key_id, emails=[])))


async def get_daily_key(context: Context) -> Answer:
    """`GET /v1/organizations/{org}/daily`: answer with the API key, which the CLI shows."""
    name = context.caller.organization
    organization = context.services.calls.settings.find_organization(name)
    if organization is not None and organization.daily is not None:
        key = organization.daily.api_key.get_secret_value()
        return Answer(200, DailyAnswer(api_key=key), NO_STORE)
    raise missing("This organisation has no domain at Daily: the operator sets organizations.daily.api_key")


async def list_regions(context: Context) -> Answer:
    """`GET …/regions`: list the regions."""
    regions = [
        RegionView(code=region.code, display_name=region.display_name)
        for region in context.services.calls.settings.regions
    ]
    return Answer(200, RegionsAnswer(regions=regions))


ORGANIZATIONS: Final[tuple[Operation, ...]] = (
    operation(
        "GET",
        "/v1/organizations",
        list_organizations,
        Documented("The key's organisation", {200: OrganizationsAnswer}),
    ),
    operation("GET", "/v1/users", get_user, Documented("Who calls", {200: UserAnswer})),
    operation(
        "GET",
        f"{ORGANIZATION}/daily",
        get_daily_key,
        Documented("The organisation's API key at Daily", {200: DailyAnswer, 404: None}),
    ),
    *both(
        "GET",
        ("/regions", "/regions"),
        list_regions,
        Documented("The regions there are", {200: RegionsAnswer}),
    ),
)
