# SPDX-License-Identifier: BSD-2-Clause
"""Agents that are a provider's API: the gateway speaks first, with instructions and a key."""
