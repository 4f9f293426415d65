# SPDX-License-Identifier: BSD-2-Clause
"""Sockets, processes, signals, TLS and connection limits."""
