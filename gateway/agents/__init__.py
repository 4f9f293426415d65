# SPDX-License-Identifier: BSD-2-Clause
"""Agents: which exist, which of their instances are healthy, and how to connect to one."""
