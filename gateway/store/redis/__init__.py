# SPDX-License-Identifier: BSD-2-Clause
"""The store on a Redis server, shared by the workers of many machines."""
