# SPDX-License-Identifier: BSD-2-Clause
"""Reports on an organisation: its usage, and the changes that were made with its keys."""
