# SPDX-License-Identifier: BSD-2-Clause
"""What holds for every API request: authentication, limits, validation, errors, OpenAPI."""
