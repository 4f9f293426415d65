# SPDX-License-Identifier: BSD-2-Clause
"""How the gateways of several machines reach each other: addresses, signed requests, and tunnels."""
