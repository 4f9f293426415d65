# SPDX-License-Identifier: BSD-2-Clause
"""The routes that carriers, Daily and Meta call: documents, callbacks, dial-in, WhatsApp."""
