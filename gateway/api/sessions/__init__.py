# SPDX-License-Identifier: BSD-2-Clause
"""The session resource, `/v1/sessions`, and call control."""
