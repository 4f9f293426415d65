# SPDX-License-Identifier: BSD-2-Clause
"""The relay's fast path: the C pump and its Python twin."""
