# SPDX-License-Identifier: BSD-2-Clause
"""What operators see of a running gateway."""
