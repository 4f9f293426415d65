# SPDX-License-Identifier: BSD-2-Clause
"""The port and the processes behind it."""
