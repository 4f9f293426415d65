# SPDX-License-Identifier: BSD-2-Clause
"""The worker of the management API's tests."""

from __future__ import annotations

from tests.api.pipecat_cloud.management.conftest import api, file, work  # noqa: F401 - fixtures
