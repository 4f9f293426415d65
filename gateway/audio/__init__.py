# SPDX-License-Identifier: BSD-2-Clause
"""Sound for callers: tones, recordings, clips."""
