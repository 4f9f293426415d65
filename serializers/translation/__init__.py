# SPDX-License-Identifier: BSD-2-Clause
"""Translation between the dialect of a carrier and that of an agent (docs/translation.md)."""
