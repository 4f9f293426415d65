# SPDX-License-Identifier: BSD-2-Clause
"""Telephony carriers: one folder each, one `Carrier` record each, and what all of them share."""
