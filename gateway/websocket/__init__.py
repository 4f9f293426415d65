# SPDX-License-Identifier: BSD-2-Clause
"""RFC 6455 without I/O: frames and the opening handshake."""
