# SPDX-License-Identifier: BSD-2-Clause
"""Daily: rooms for sessions, dial-in webhooks, and the set-up of a number (docs/reference/carriers.md §6).

Daily opens no media socket, so it has no `Carrier` record: its calls reach the agent in a room.
"""
