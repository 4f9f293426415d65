# SPDX-License-Identifier: BSD-2-Clause
"""The configuration: the settings model, and reading it from a file and the environment."""

from gateway.config.agent_settings import AgentSettings, NumberRoute
from gateway.config.exposure import unauthenticated_access
from gateway.config.loading import load
from gateway.config.organization_settings import (
    CarrierAccount,
    CarrierName,
    DailySettings,
    IceServers,
    Organization,
    WhatsAppSettings,
)
from gateway.config.problems import ConfigError, Problem
from gateway.config.process_settings import Limits, Server, StoreSettings
from gateway.config.settings import Region, Settings

__all__ = [
    "AgentSettings",
    "CarrierAccount",
    "CarrierName",
    "ConfigError",
    "DailySettings",
    "IceServers",
    "Limits",
    "NumberRoute",
    "Organization",
    "Problem",
    "Region",
    "Server",
    "Settings",
    "StoreSettings",
    "WhatsAppSettings",
    "load",
    "unauthenticated_access",
]
