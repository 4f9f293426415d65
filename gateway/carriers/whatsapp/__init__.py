# SPDX-License-Identifier: BSD-2-Clause
"""WhatsApp by Meta: webhook signatures."""
