#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
#
# aiodns 4.0.4 with pycares 5.2.1: a resolver keeps the answers that it got until their TTL is over, and has no
# option to ask all the same.
#
# Seen on 2026-11-30, Python 3.11: look-ups of the A record of one name, and how many queries a name server got:
#
#     one DNSResolver, three look-ups, TTL 300     1
#     one DNSResolver, three look-ups, TTL 0       3
#     three DNSResolvers, one each, TTL 300        3
#
# A good guess was wrong because neither package's README speaks of a cache, and c-ares long had none. It is that of
# c-ares (1.34.9 in this wheel), on unless the option ARES_OPT_QUERY_CACHE says otherwise, which is not among the
# arguments of `pycares.Channel`. Who looks a name up again to see whether an address has gone, as service discovery
# does, sees the old ones for the whole TTL, and no `resolv.conf` or name server has a hand in it. A resolver for
# each look-up asks each time.
#
# It fails if that changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check aiodns==4.0.4 pycares==5.2.1

cat >"$folder/lookups.py" <<'PYTHON'
import asyncio
import inspect
import struct

import aiodns
import pycares


class NameServer(asyncio.DatagramProtocol):
    """Answers every query with the A record 192.0.2.1, and counts."""

    def __init__(self, ttl):
        self.ttl = ttl
        self.queries = 0

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.queries += 1
        question = data[12 : data.index(b"\0", 12) + 5]
        head = data[:2] + struct.pack("!HHHHH", 0x8180, 1, 1, 0, 0)
        record = struct.pack("!HHHIH", 0xC00C, 1, 1, self.ttl, 4) + bytes((192, 0, 2, 1))
        self.transport.sendto(head + question + record, address)


async def count(ttl, resolvers):
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: NameServer(ttl), local_addr=("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    made = [aiodns.DNSResolver(nameservers=[f"127.0.0.1:{port}"], lookups="b") for _ in range(resolvers)]
    for turn in range(3):
        result = await made[turn % resolvers].query_dns("agents.test", "A")
        assert [record.data.addr for record in result.answer] == ["192.0.2.1"]
    for resolver in made:
        await resolver.close()
    transport.close()
    return server.queries


print("c-ares", pycares.ARES_VERSION)
options = list(inspect.signature(pycares.Channel.__init__).parameters)
print("pycares.Channel", *options)
assert not [option for option in options if "cache" in option], "there is an option now"
for ttl, resolvers, expected in ((300, 1, 1), (0, 1, 3), (300, 3, 3)):
    queries = asyncio.run(count(ttl, resolvers))
    print(f"TTL {ttl}, {resolvers} resolvers, 3 look-ups: {queries} queries")
    assert queries == expected, "that has changed"
PYTHON
timeout 60 "$folder/venv/bin/python" "$folder/lookups.py"
