# SPDX-License-Identifier: BSD-2-Clause
"""The view of a running gateway for its operators: the log."""
