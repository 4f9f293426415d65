# SPDX-License-Identifier: BSD-2-Clause
"""What all tables of the settings share, and the kinds of values that stand in them."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from gateway.config import values

Whole = Annotated[int, BeforeValidator(values.no_boolean)]
Seconds = Annotated[float, BeforeValidator(values.no_boolean), Field(allow_inf_nan=False)]
Wait = Annotated[Seconds, Field(gt=0, le=3600)]
Rate = Annotated[float, BeforeValidator(values.no_boolean), Field(gt=0, le=100_000, allow_inf_nan=False)]
Label = Annotated[str, AfterValidator(values.label)]
PublicKey = Annotated[str, AfterValidator(values.public_key)]
PrivateKey = Annotated[SecretStr, AfterValidator(values.private_key)]
InstanceUrl = Annotated[str, AfterValidator(values.instance_url)]
CarrierKey = Annotated[SecretStr, AfterValidator(values.carrier_key)]
BaseUrl = Annotated[str, AfterValidator(values.base_url)]
CarrierId = Annotated[str, AfterValidator(values.carrier_id)]
Ed25519Key = Annotated[str, AfterValidator(values.ed25519_key)]
Base64Secret = Annotated[SecretStr, AfterValidator(values.base64_secret)]
Network = Annotated[str, AfterValidator(values.network)]
FileName = Annotated[str, AfterValidator(values.file_name)]


class Table(BaseModel):
    """What all tables share: they do not change, and know no key but their own."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
