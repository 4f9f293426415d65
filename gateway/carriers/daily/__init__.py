# SPDX-License-Identifier: BSD-2-Clause
"""Daily: rooms, numbers, webhook signatures."""
