# SPDX-License-Identifier: BSD-2-Clause
"""The store: what outlives a process, behind interface.py."""
