# SPDX-License-Identifier: BSD-2-Clause
"""Fuzzing what strangers send: the upgrade, WebSocket frames, carriers' and agents' messages."""
