# SPDX-License-Identifier: BSD-2-Clause
"""The carriers' media-stream messages, and the codecs for their audio. Pure: no I/O."""
