# SPDX-License-Identifier: BSD-2-Clause
"""WhatsApp: the signature of Meta's webhooks (docs/reference/carriers.md §7).

WhatsApp opens no media socket, so it has no `Carrier` record: the agent talks to Meta itself.
"""
