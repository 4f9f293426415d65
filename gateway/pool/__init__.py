# SPDX-License-Identifier: BSD-2-Clause
"""The warm pool: instances of agents that the gateway starts, watches and stops itself (docs/agents.md)."""
