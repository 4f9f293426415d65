# SPDX-License-Identifier: BSD-2-Clause
"""Values that pass between rooms: reasons, life cycle, sessions, addresses."""
