"""Tracing where nobody can read the packet log."""

import asyncio
import os

import pytest

from policy.core.policies import Policies
from tests.namespaces import can_make_namespaces
from weavepy.base.errors import UsageError
from weavepy.client import schema
from weavepy.daemon.api import NotReady
from weavepy.daemon.drops import Drops
from weavepy.kernel.nflog import PacketLog

pytestmark = pytest.mark.root


def test_a_router_that_cannot_read_the_packet_log_says_why_to_who_traces() -> None:
    if not can_make_namespaces():
        pytest.skip("needs root, to read packet logs")
    group = 40_000 + os.getpid() % 20_000

    async def trace(request: schema.TraceRequest) -> None:
        drops = Drops(group, Policies(lambda pod: True), lambda mark: ())
        drops.start()
        try:
            async with drops.trace(request) as parts:
                assert await parts.next(0.01) == b""
        finally:
            drops.close()

    asyncio.run(trace(schema.TraceRequest()))
    with pytest.raises(UsageError, match="neither ingress nor egress"):
        asyncio.run(trace(schema.TraceRequest(direction="up")))
    other = PacketLog(group)
    try:
        with pytest.raises(NotReady, match=f"another program reads the packet log's group {group}"):
            asyncio.run(trace(schema.TraceRequest()))
    finally:
        other.close()
