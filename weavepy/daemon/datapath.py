"""The datapath that this router talks to: met at the start, asked for news, replaced when it ends.

`router.shell.datapath` finds or starts the process, and this keeps one connected for as long as
the router runs. What the datapath says goes to the router, which gives it to the node.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from router.mesh.mesh import AdoptedPeer
from router.shell import datapath
from router.shell.datapath import DatapathOptions, Waits
from router.shell.datapath_link import DatapathLink
from router.sleeve.messages import FromDatapath, Report, SetMtu, Shutdown, Snapshot, ToDatapath
from weavepy.base.errors import WeavepyError
from weavepy.base.names import PeerName, ShortId

log = logging.getLogger(__name__)

RETRY_S = 1.0
REPORT_TIMEOUT_S = 2.0


class RunningDatapath:
    def __init__(
        self,
        options: DatapathOptions,
        *,
        prepare: Callable[[], Awaitable[None]],
        said: Callable[[FromDatapath], None],
        lost: Callable[[str], None],
    ) -> None:
        """`prepare` makes the host fit for one that has just been met. `lost` is told why there is
        none any more, and sees to it that `replace` is run."""
        self._options = options
        self._prepare = prepare
        self._said = said
        self._lost = lost
        self._mtus = SetMtu(options.mtu_bytes, options.underlay_mtu_bytes)
        self._reported = asyncio.Event()
        self.link: DatapathLink | None = None
        self.snapshot: Snapshot | None = None
        """What it said last; None while there is none."""
        self.why_missing = ""
        self.is_silent = False
        """It did not answer when it was asked last."""

    async def meet(self, waits: Waits) -> tuple[Snapshot, Callable[[], None], bool]:
        """Return what it has, what has it talk to us, and whether it was running already."""
        connection, snapshot, adopted = await datapath.connect(self._options, waits)
        try:
            await self._prepare()
        except WeavepyError:
            connection.close()
            raise
        self.snapshot = snapshot

        def begin() -> None:
            self.why_missing, self.is_silent = "", False
            self.link = DatapathLink(connection, self._hear, self._lose)
            self.link.send(self._mtus)

        return snapshot, begin, adopted

    async def replace(self) -> None:
        while True:
            try:
                snapshot, begin, _ = await self.meet(self._miss)
            except WeavepyError as error:
                await self._miss(str(error))
                await asyncio.sleep(RETRY_S)
                continue
            begin()
            self._hear(snapshot)
            return

    def send(self, message: ToDatapath) -> None:
        if self.link is not None:
            self.link.send(message)

    def set_mtus(self, mtu_bytes: int, underlay_mtu_bytes: int) -> None:
        """Of this one, and of those that come after it."""
        self._mtus = SetMtu(mtu_bytes, underlay_mtu_bytes)
        self.send(self._mtus)

    async def report(self) -> Snapshot | None:
        """Ask it anew, for status; None while there is none."""
        if self.link is None:
            return None
        self._reported.clear()
        self.link.send(Report())
        try:
            async with asyncio.timeout(REPORT_TIMEOUT_S):
                await self._reported.wait()
        except TimeoutError:
            if not self.is_silent:
                log.warning("the datapath does not answer")
            self.is_silent = True
        return self.snapshot

    async def close(self, *, keep: bool) -> None:
        """End it, unless containers are to go on talking until the next router adopts it."""
        link, snapshot = self.link, self.snapshot
        if link is None:
            return
        if not keep and snapshot is not None:
            link.send(Shutdown())
            if not self._options.separate:
                await datapath.until_gone(snapshot.pid)
        link.close()

    def _hear(self, message: FromDatapath) -> None:
        if isinstance(message, Snapshot):
            self.snapshot = message
            self.is_silent = False
            self._reported.set()
        self._said(message)

    def _lose(self, reason: str) -> None:
        self.link = self.snapshot = None
        self._lost(reason)

    async def _miss(self, why: str) -> None:
        if why != self.why_missing:
            log.error("no datapath: %s", why)
        self.why_missing = why


def adopted_peers(snapshot: Snapshot) -> tuple[AdoptedPeer, ...]:
    """Sessions that work; a peer that had no short id yet has nothing to be adopted for."""
    short_ids = {name: short_id for short_id, name in snapshot.routes.short_ids.items()}
    return tuple(
        AdoptedPeer(PeerName(session.peer), ShortId(short_ids[session.peer]), session.endpoint_host)
        for session in snapshot.sessions
        if session.up and session.peer in short_ids
    )
