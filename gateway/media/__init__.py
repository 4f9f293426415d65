# SPDX-License-Identifier: BSD-2-Clause
"""The media plane: frames, legs, the upgrade, the relay. It knows sockets, and nothing of who pays."""
