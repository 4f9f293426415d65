# SPDX-License-Identifier: BSD-2-Clause
"""The carriers' dialects: pure, no I/O."""
