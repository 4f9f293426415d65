# SPDX-License-Identifier: BSD-2-Clause
"""Warm transfers: somebody is called and told of the caller, and the two are joined if they take the call."""
