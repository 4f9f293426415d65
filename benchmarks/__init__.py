# SPDX-License-Identifier: BSD-2-Clause
"""The relay's costs beside nginx and haproxy in the same run. README.md describes the method."""
