# SPDX-License-Identifier: BSD-2-Clause
"""Outbound calls: limits, requests, and the life of one call."""
