# SPDX-License-Identifier: BSD-2-Clause
"""Calls out: who may be called, when it is their turn, and the story of one."""
