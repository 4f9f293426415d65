# SPDX-License-Identifier: BSD-2-Clause
"""The test kit: a fake carrier, a fake agent, and gateway processes (docs/testing.md)."""
