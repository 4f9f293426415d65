# SPDX-License-Identifier: BSD-2-Clause
"""Carriers' proofs and their REST calls: one module a carrier."""
