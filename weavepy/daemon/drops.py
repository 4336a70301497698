"""What network policies drop, as it happens: to whoever traces, and now and then to the log.

The packet filter logs some of what it drops. If nobody can read that here, tracing says why, and
all else goes on. Who traces and does not read fast enough is told how much was left out.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address

import msgspec

from policy.core.drops import AGAIN_S, Drop, Repeats, explained
from policy.core.explain import End
from policy.core.objects import Address
from policy.core.packets import read_packet
from policy.core.policies import Policies
from policy.core.roster import DEFAULT_NAMESPACE
from weavepy.base.errors import UsageError, WeavepyError
from weavepy.client import schema
from weavepy.daemon.api import NotReady
from weavepy.kernel.nflog import PacketLog

log = logging.getLogger(__name__)

MAX_WAITING = 1000
"""Drops that one who traces may be behind."""


class Drops:
    def __init__(
        self, group: int, policies: Policies, receivers: Callable[[int], Sequence[Address]]
    ) -> None:
        """`receivers` are the addresses of the pod to which a packet with this mark went."""
        self._group = group
        self._policies = policies
        self._receivers = receivers
        self._source: PacketLog | None = None
        self._why_not = "the router is starting"
        self._traces: dict[int, Trace] = {}
        self._repeats = Repeats()
        self._telling: asyncio.TimerHandle | None = None

    def start(self) -> None:
        try:
            self._source = PacketLog(self._group)
        except WeavepyError as error:
            self._why_not = str(error)
            log.warning("what network policies drop cannot be told: %s", error)
            return
        asyncio.get_running_loop().add_reader(self._source.fileno(), self._read)

    def close(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
        if self._source is not None:
            asyncio.get_running_loop().remove_reader(self._source.fileno())
            self._source.close()
            self._source = None

    @asynccontextmanager
    async def trace(self, request: schema.TraceRequest) -> AsyncIterator["Trace"]:
        if request.direction not in ("", "ingress", "egress"):
            raise UsageError(f"{request.direction!r} is neither ingress nor egress")
        if self._source is None:
            raise NotReady(f"drops cannot be traced here: {self._why_not}")
        made = Trace(request)
        self._traces[id(made)] = made
        try:
            yield made
        finally:
            del self._traces[id(made)]

    def _read(self) -> None:
        assert self._source is not None
        for one in self._source.read():
            packet = read_packet(one.packet)
            if packet is None:
                continue
            drop = explained(self._policies, one.prefix, packet, self._receivers(one.mark))
            if drop is None:
                continue
            for trace in self._traces.values():
                trace.handle(drop)
            now = asyncio.get_running_loop().time()
            if self._repeats.is_news(str(drop), now):
                log.info("blocked %s", drop)
                self._await_end()

    def _await_end(self) -> None:
        deadline = self._repeats.next_deadline()
        if self._telling is None and deadline is not None:
            self._telling = asyncio.get_running_loop().call_at(deadline, self._tell_repeats)

    def _tell_repeats(self) -> None:
        self._telling = None
        for kind, count in self._repeats.over(asyncio.get_running_loop().time()):
            if kind:
                log.info("blocked %d more within %g s: %s", count, AGAIN_S, kind)
            else:
                log.info("blocked %d more that are not told one by one", count)
        self._await_end()


class Trace:
    """For one who asked: those that he asked for, as lines of JSON."""

    def __init__(self, request: schema.TraceRequest) -> None:
        self._request = request
        self._left = request.count or None
        self._waiting: deque[schema.PolicyDrop] = deque()
        self._left_out = 0
        self._come = asyncio.Event()

    def handle(self, drop: Drop) -> None:
        wanted = self._request
        if (
            wanted.direction not in ("", drop.direction)
            or not _is(wanted.source, drop.source)
            or not _is(wanted.destination, drop.destination)
        ):
            return
        if len(self._waiting) >= MAX_WAITING:
            self._left_out += 1
            return
        self._waiting.append(_shown(drop, self._left_out))
        self._left_out = 0
        self._come.set()

    async def next(self, timeout_s: float) -> bytes | None:
        if self._left == 0:
            return None
        try:
            async with asyncio.timeout(timeout_s):
                await self._come.wait()
        except TimeoutError:
            return b""
        most = MAX_WAITING if self._left is None else self._left
        told = [self._waiting.popleft() for _ in range(min(len(self._waiting), most))]
        if not self._waiting:
            self._come.clear()
        if self._left is not None:
            self._left -= len(told)
        return b"".join(msgspec.json.encode(one) + b"\n" for one in told)


def _is(wanted: str, end: End) -> bool:
    """An address, NAMESPACE/NAME, or a name in the namespace `default`."""
    if not wanted:
        return True
    try:
        return ip_address(wanted) == end.address
    except ValueError:
        pass
    namespace, _, name = wanted.rpartition("/")
    return end.pod is not None and end.pod.key == (namespace or DEFAULT_NAMESPACE, name)


def _shown(drop: Drop, left_out: int) -> schema.PolicyDrop:
    return schema.PolicyDrop(
        time=time.time(),
        direction=drop.direction,
        source=str(drop.source),
        destination=str(drop.destination),
        service=drop.service,
        place=drop.place,
        policies=list(drop.policies),
        why=list(drop.why),
        left_out=left_out,
    )
