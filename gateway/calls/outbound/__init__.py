# SPDX-License-Identifier: BSD-2-Clause
"""Outbound calls: limits, the request to the carrier, and a call's life until its stream is attached."""
