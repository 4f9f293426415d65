# SPDX-License-Identifier: BSD-2-Clause
"""What the relay costs, measured against nginx and haproxy in the same run. README.md tells the method."""
