# SPDX-License-Identifier: BSD-2-Clause
"""Sessions: their life cycle, admission, and the store behind one small interface."""
