# SPDX-License-Identifier: BSD-2-Clause
"""Patchbay: the self-hosted telephony edge for voice agents."""

__version__ = "0.1.0"

DISTRIBUTION = "patchbay-edge"
"""The name by which package indexes know it. `patchbay` there is another project."""
