"""The router's side of a capture: what it asks of the datapath, and when it ends."""

import socket
from typing import cast

import pytest

from router.mesh.mesh import Mesh
from router.shell.datapath_link import DatapathLink
from router.sleeve.messages import StartCapture, StopCapture, ToDatapath
from tests.weavepy.daemon.mesh_rows import FAR, NEAR, NEW, Rows
from weavepy.base.errors import UsageError, WeavepyError
from weavepy.client import schema
from weavepy.daemon.api import NotFound, NotReady
from weavepy.daemon.capture import MAX_SECONDS, MAX_SNAP_BYTES, MIN_SNAP_BYTES, Capturing, find_peer


class Link:
    """The datapath's end of the link: what came, and the sockets that came with it."""

    def __init__(self) -> None:
        self.messages: list[ToDatapath] = []
        self.sockets: list[socket.socket] = []

    def send(self, message: ToDatapath, passed: socket.socket | None = None) -> None:
        self.messages.append(message)
        if passed is not None:
            self.sockets.append(passed)


def capturing(link: Link | None) -> Capturing:
    return Capturing(cast(Mesh, Rows()), lambda: cast(DatapathLink | None, link))


def request(**wanted: object) -> schema.CaptureRequest:
    given = {"peer": "", "count": 0, "seconds": 0.0, "snap_bytes": 100} | wanted
    return schema.CaptureRequest(**given)  # type: ignore[arg-type]  # of the types above


async def test_what_the_datapath_writes_comes_out_until_it_closes_its_end() -> None:
    link = Link()
    async with capturing(link).capture(request(peer="host2", count=7)) as stream:
        assert link.messages == [StartCapture(number=1, short_id=2, count=7, snap_bytes=100)]
        (output,) = link.sockets
        output.send(b"one block")
        output.send(b"another")
        assert await stream.next(5.0) == b"one block"
        assert await stream.next(5.0) == b"another"
        assert await stream.next(0.01) == b"", "nothing yet, and not the end"
        output.close()
        assert await stream.next(5.0) is None
    assert link.messages[1:] == [StopCapture(1)]


async def test_a_reader_that_goes_away_ends_it_in_the_datapath() -> None:
    link = Link()
    with pytest.raises(ConnectionResetError):
        async with capturing(link).capture(request()):
            raise ConnectionResetError("the client hung up")
    assert link.messages[-1] == StopCapture(1)
    with pytest.raises(BrokenPipeError):
        link.sockets[0].send(b"too late")
    link.sockets[0].close()


async def test_when_its_time_is_over_the_datapath_is_told_and_has_the_last_word() -> None:
    link = Link()
    async with capturing(link).capture(request(seconds=0.05)) as stream:
        assert await stream.next(5.0) == b""
        assert link.messages[1:] == []
        link.sockets[0].send(b"the statistics")
        assert await stream.next(5.0) == b"the statistics"
        assert link.messages[1:] == [StopCapture(1)]
        link.sockets[0].close()
        assert await stream.next(5.0) is None


async def test_each_capture_has_a_number_of_its_own() -> None:
    link = Link()
    made = capturing(link)
    async with made.capture(request()), made.capture(request()):
        pass
    numbers = [message.number for message in link.messages if isinstance(message, StartCapture)]
    assert numbers == [1, 2]
    for one in link.sockets:
        one.close()


@pytest.mark.parametrize(
    ("wanted", "error", "words"),
    [
        ({"snap_bytes": MIN_SNAP_BYTES - 1}, UsageError, "14 to 262144"),
        ({"snap_bytes": MAX_SNAP_BYTES + 1}, UsageError, "14 to 262144"),
        ({"count": -1}, UsageError, "ends after"),
        ({"seconds": -0.1}, UsageError, "ends after"),
        ({"seconds": MAX_SECONDS + 1}, UsageError, "3600 s at most"),
        ({"seconds": float("nan")}, UsageError, "3600 s at most"),
        ({"peer": "nobody"}, NotFound, "status peers"),
        ({"peer": "twin"}, UsageError, "2 peers are called"),
        ({"peer": "host1"}, UsageError, "is this host"),
        ({"peer": NEW}, NotReady, "try again"),
    ],
)
async def test_what_makes_no_sense_is_refused_before_anything_is_started(
    wanted: dict[str, object], error: type[WeavepyError], words: str
) -> None:
    link = Link()
    with pytest.raises(error, match=words):
        async with capturing(link).capture(request(**wanted)):
            pass
    assert link.messages == []


async def test_without_a_datapath_there_is_nothing_to_be_seen() -> None:
    with pytest.raises(NotReady, match="not running"):
        async with capturing(None).capture(request()):
            pass


def test_a_peer_is_found_by_name_and_by_a_nickname_that_is_its_alone() -> None:
    mesh = cast(Mesh, Rows())
    assert find_peer(mesh, "host2") == find_peer(mesh, NEAR) == NEAR
    assert find_peer(mesh, FAR) == FAR
