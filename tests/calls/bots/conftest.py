# SPDX-License-Identifier: BSD-2-Clause
"""One worker and its agent, on real sockets, as for the tests of the API that starts sessions."""

from tests.api.conftest import agent, port, settings, unhurried, worker  # noqa: F401 - fixtures
