# SPDX-License-Identifier: BSD-2-Clause
"""The store in one SQLite file, shared by all workers of a machine."""
