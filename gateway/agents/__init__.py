# SPDX-License-Identifier: BSD-2-Clause
"""Agents: which exist, which instance is free, how to speak to it."""
