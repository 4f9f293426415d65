# SPDX-License-Identifier: BSD-2-Clause
"""The rules of every API request: authentication, limits, validation, errors, OpenAPI."""
