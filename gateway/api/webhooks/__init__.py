# SPDX-License-Identifier: BSD-2-Clause
"""What carriers, Daily and Meta call: documents, callbacks, dial-in, WhatsApp."""
