# SPDX-License-Identifier: BSD-2-Clause
"""A carrier and an agent to test with: the other ends of the gateway's two legs."""
