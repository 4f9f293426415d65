# SPDX-License-Identifier: BSD-2-Clause
"""The stories of calls, step by step: carriers' calls, sessions without a socket, and what they share."""
