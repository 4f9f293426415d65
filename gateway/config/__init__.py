# SPDX-License-Identifier: BSD-2-Clause
"""The configuration: the settings model, and reading it from a file and the environment."""

from gateway.config.agents import AgentSettings, NumberRoute
from gateway.config.model import Region, Settings
from gateway.config.organizations import CarrierAccount, DailySettings, Organization, WhatsAppSettings
from gateway.config.problems import ConfigError, Problem
from gateway.config.process import Limits, Server, StoreSettings
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
