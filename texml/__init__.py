# SPDX-License-Identifier: BSD-2-Clause
"""The XML and JSON documents that carriers fetch. Pure: values in, text out."""
