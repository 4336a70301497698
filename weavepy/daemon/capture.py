"""`weavepy capture`: a socket pair, one end for the datapath, the other for whoever asked."""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from router.mesh.mesh import Mesh
from router.shell.datapath_link import DatapathLink
from router.sleeve.messages import StartCapture, StopCapture
from weavepy.base.errors import UsageError
from weavepy.base.names import PeerName
from weavepy.client import schema
from weavepy.daemon.api import NotFound, NotReady

MAX_SECONDS = 3600.0
MIN_SNAP_BYTES = 14
MAX_SNAP_BYTES = 262_144

_MAX_BLOCK_BYTES = MAX_SNAP_BYTES + 1024


def find_peer(mesh: Mesh, text: str) -> PeerName:
    """The peer that an operator means by its name or nickname; raises `NotFound`."""
    rows = mesh.peer_rows()
    found = [row for row in rows if text in (row.name, row.nickname)]
    if not found:
        raise NotFound(f"there is no peer {text!r}: `weavepy status peers` lists them")
    if len(found) > 1:
        raise UsageError(f"{len(found)} peers are called {text!r}: use the name of one")
    return PeerName(found[0].name)


class Capturing:
    def __init__(self, mesh: Mesh, datapath: Callable[[], DatapathLink | None]) -> None:
        self._mesh = mesh
        self._datapath = datapath
        self._numbers = itertools.count(1)

    @asynccontextmanager
    async def capture(self, request: schema.CaptureRequest) -> AsyncIterator["Stream"]:
        if not MIN_SNAP_BYTES <= request.snap_bytes <= MAX_SNAP_BYTES:
            raise UsageError(f"of a frame {MIN_SNAP_BYTES} to {MAX_SNAP_BYTES} bytes can be kept")
        if request.count < 0 or not 0 <= request.seconds <= MAX_SECONDS:
            raise UsageError(f"a capture ends after {MAX_SECONDS:g} s at most")
        short_id = 0
        if request.peer:
            peer = find_peer(self._mesh, request.peer)
            row = next(row for row in self._mesh.peer_rows() if row.name == peer)
            if row.ourself:
                raise UsageError(f"{request.peer} is this host: name another, or none for all")
            if not row.short_id:
                raise NotReady(f"{request.peer} has only just joined: try again")
            short_id = row.short_id
        link = self._datapath()
        if link is None:
            raise NotReady("the datapath is not running, so there is nothing to be seen")
        number = next(self._numbers)
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            ours.setblocking(False)
            wanted = StartCapture(
                number=number,
                short_id=short_id,
                count=request.count,
                snap_bytes=request.snap_bytes,
            )
            link.send(wanted, its)
            ends_at = asyncio.get_running_loop().time() + (request.seconds or MAX_SECONDS)
            try:
                yield Stream(ours, ends_at, lambda: link.send(StopCapture(number)))
            finally:
                link.send(StopCapture(number))


class Stream:
    """What the datapath writes, until it closes its end."""

    def __init__(self, source: socket.socket, ends_at: float, end: Callable[[], None]) -> None:
        self._source = source
        self._ends_at = ends_at
        self._end = end

    async def next(self, timeout_s: float) -> bytes | None:
        loop = asyncio.get_running_loop()
        if loop.time() >= self._ends_at:
            self._ends_at = float("inf")
            self._end()
        timeout_s = min(timeout_s, max(0.0, self._ends_at - loop.time()))
        try:
            async with asyncio.timeout(timeout_s):
                part = await loop.sock_recv(self._source, _MAX_BLOCK_BYTES)
        except TimeoutError:
            return b""
        except OSError:
            return None
        return part or None
