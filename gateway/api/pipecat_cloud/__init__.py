# SPDX-License-Identifier: BSD-2-Clause
"""Pipecat Cloud's public API: starts, agents, keys, the Session API."""
