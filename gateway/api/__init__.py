# SPDX-License-Identifier: BSD-2-Clause
"""HTTP: one module a resource."""
