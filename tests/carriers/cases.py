# SPDX-License-Identifier: BSD-2-Clause
"""The cases of all carriers in the registry, by name."""

from __future__ import annotations

from importlib import import_module

from gateway.carriers.registry import CARRIERS
from tests.carriers.case import Case

CASES: dict[str, Case] = {name: import_module(f"tests.carriers.{name}.case").CASE for name in CARRIERS}
