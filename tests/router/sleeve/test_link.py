"""The socket between datapath and router."""

import os
import socket
from pathlib import Path

import msgspec
import pytest

from router.sleeve.hello import PROTOCOL, Hello, hello_decoder
from router.sleeve.link import MAX_MESSAGES_PER_TURN, RouterLink
from router.sleeve.messages import Report, SessionDown, SetMtu, from_datapath_decoder
from weavepy import __version__
from weavepy.base.errors import WeavepyError
from weavepy.base.wire import encode


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "datapath.sock"


def connect(path: Path) -> socket.socket:
    router = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    router.connect(str(path))
    router.settimeout(5.0)
    return router


def greeting(router: socket.socket) -> Hello:
    hello = hello_decoder.decode(router.recv(65536))
    assert isinstance(hello, Hello)
    return hello


def test_messages_pass_whole_both_ways(path: Path) -> None:
    link = RouterLink(path)
    with connect(path) as router:
        assert link.accept() is not None
        router.send(encode(SetMtu(1300)))
        router.send(encode(Report()))
        assert link.receive() == [SetMtu(1300), Report()]
        link.send(SessionDown("p", "why"))
        assert greeting(router) == Hello(PROTOCOL, __version__, os.getpid())
        assert from_datapath_decoder.decode(router.recv(65536)) == SessionDown("p", "why")
    link.close()
    assert not path.exists()


def test_what_is_no_message_is_counted_and_the_rest_is_read(path: Path) -> None:
    link = RouterLink(path)
    with connect(path) as router:
        link.accept()
        router.send(b"\xff\xff")
        router.send(encode(Report()))
        assert link.receive() == [Report()]
        assert link.refused_messages == 1
    link.close()


class Novelty(msgspec.Struct, tag=True):
    """A kind of message that this datapath does not know."""

    about: str = "what comes next year"


class NewReport(msgspec.Struct, tag="Report"):
    about: str = "a field that this datapath does not know"


def test_of_a_newer_router_unknown_fields_are_ignored_and_unknown_messages_refused_once_aloud(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    link = RouterLink(path)
    for _ in range(2):
        with connect(path) as router:
            link.accept()
            router.send(encode(Novelty()))
            router.send(encode(NewReport()))
            router.send(encode(Novelty()))
            assert link.receive() == [Report()]
    assert link.refused_messages == 4
    assert len(caplog.messages) == 2, "once for each router"
    assert "Novelty" in caplog.text
    link.close()


def test_a_router_that_is_gone_before_it_is_greeted_is_not_taken(path: Path) -> None:
    link = RouterLink(path)
    connect(path).close()
    assert link.accept() is None
    link.close()


def test_a_router_that_goes_leaves_what_it_said(path: Path) -> None:
    link = RouterLink(path)
    with connect(path) as router:
        link.accept()
        assert greeting(router)
        router.send(encode(Report()))
    assert link.receive() == [Report()]
    assert link.router is None
    link.send(SessionDown("p", "nobody listens"))
    assert link.receive() == []
    link.close()


def test_a_router_that_does_not_read_loses_its_connection(path: Path) -> None:
    link = RouterLink(path)
    with connect(path):
        link.accept()
        for _ in range(100_000):
            link.send(SessionDown("p", "x" * 1000))
            if link.router is None:
                break
        assert link.router is None
    link.close()


def test_a_chatty_router_is_heard_in_turns(path: Path) -> None:
    link = RouterLink(path)
    with connect(path) as router:
        link.accept()
        router.settimeout(0.0)
        sent = 0
        try:
            while sent < 3 * MAX_MESSAGES_PER_TURN:
                router.send(encode(Report()))
                sent += 1
        except BlockingIOError:
            pass
        heard = link.receive()
        assert 0 < len(heard) <= MAX_MESSAGES_PER_TURN
    link.close()


def test_a_newer_router_replaces_the_older(path: Path) -> None:
    link = RouterLink(path)
    with connect(path) as older, connect(path) as newer:
        link.accept()
        link.accept()
        assert greeting(older)
        assert older.recv(10) == b""
        assert greeting(newer)
        link.send(SessionDown("p", "for the newer"))
        assert newer.recv(65536)
    link.close()


def test_a_stale_socket_is_replaced_and_a_living_one_is_not(path: Path) -> None:
    stale = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stale.bind(str(path))
    stale.close()
    link = RouterLink(path)
    with connect(path) as router:
        link.accept()
        with pytest.raises(WeavepyError, match="another datapath is running"):
            RouterLink(path)
        # The attempt cost the living one neither its socket nor its router.
        assert link.accept() is None
        link.send(SessionDown("p", "still here"))
        assert greeting(router)
        assert router.recv(65536)
    link.close()


def test_what_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(WeavepyError, match="not a socket"):
        RouterLink(path)
    assert path.read_text() == "precious"


def test_a_directory_that_is_not_there_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(WeavepyError, match="cannot listen"):
        RouterLink(tmp_path / "missing" / "datapath.sock")
