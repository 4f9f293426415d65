# SPDX-License-Identifier: BSD-2-Clause
"""Host names: their addresses, looked up so that a name without an answer holds up nothing else."""
