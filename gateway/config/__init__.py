# SPDX-License-Identifier: BSD-2-Clause
"""The configuration: the settings model, and reading it from a file and the environment."""

from gateway.config.model import (
    AgentSettings,
    CarrierAccount,
    DailySettings,
    Limits,
    NumberRoute,
    Organization,
    Region,
    Server,
    Settings,
    StoreSettings,
    WhatsAppSettings,
)
from gateway.config.problems import ConfigError, Problem
from gateway.config.sources import load

__all__ = [
    "AgentSettings",
    "CarrierAccount",
    "ConfigError",
    "DailySettings",
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
]
