"""Copies go where they were asked for, and cost neither memory nor frames."""

import os
import socket

from router.overlay.mac_table import MacTable
from router.overlay.switch import Switch
from router.sleeve.capture import MAX_CAPTURES, QUEUE_BYTES, Captures, Watcher
from router.sleeve.link import RouterLink
from router.sleeve.messages import StartCapture, StopCapture
from weavepy.base import pcapng
from weavepy.base.wire import encode

HERE = b"\x02\0\0\0\0\x01"
THERE = b"\x02\0\0\0\0\x02"
ELSEWHERE = b"\x02\0\0\0\0\x03"
EVERYONE = b"\xff" * 6


class Fixture:
    def __init__(self) -> None:
        self.watcher: Watcher | None = None
        self.macs = MacTable()
        self.macs.learn(HERE, 1, 0.0)
        self.macs.learn(THERE, 2, 0.0)
        self.macs.learn(ELSEWHERE, 3, 0.0)
        self.captures = Captures("weavetap", self.macs, self._watch, lambda: 42)

    def _watch(self, watcher: Watcher | None) -> None:
        self.watcher = watcher

    def start(self, **wanted: int) -> socket.socket:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(5)
        given = {"number": 1, "short_id": 0, "count": 0, "snap_bytes": 65_536, **wanted}
        self.captures.start(StartCapture(**given), its.detach())
        return ours

    def pass_frames(self) -> None:
        for destination in (THERE, ELSEWHERE, EVERYONE):
            if self.watcher is not None:
                self.watcher.handle_outbound(memoryview(frame(destination, HERE)))
        for source in (THERE, ELSEWHERE):
            if self.watcher is not None:
                self.watcher.handle_inbound(frame(HERE, source))


def frame(destination: bytes, source: bytes, size: int = 60) -> bytes:
    return (destination + source + b"\x08\0").ljust(size, b"x")


def blocks(source: socket.socket) -> list[tuple[int, bytes]]:
    reader = pcapng.Reader()
    found: list[tuple[int, bytes]] = []
    with source:
        while data := source.recv(1 << 20):
            found += reader.feed(data)
    return found


def frames(source: socket.socket) -> list[tuple[bytes, int, bool]]:
    return [pcapng.frame_of(content) for kind, content in blocks(source) if kind == pcapng.PACKET]


def test_frames_of_both_directions_are_copied_until_it_is_stopped() -> None:
    made = Fixture()
    source = made.start()
    made.pass_frames()
    made.captures.stop(1)
    assert made.watcher is None, "it costs nothing any more"
    seen = frames(source)
    assert [outbound for _, _, outbound in seen] == [True, True, True, False, False]
    assert seen[0] == (frame(THERE, HERE), 60, True)


def test_of_one_peer_are_what_goes_there_comes_from_there_and_goes_to_everyone() -> None:
    made = Fixture()
    source = made.start(short_id=2)
    made.pass_frames()
    made.captures.stop(1)
    assert [data for data, _, _ in frames(source)] == [
        frame(THERE, HERE),
        frame(EVERYONE, HERE),
        frame(HERE, THERE),
    ]


def test_it_ends_by_itself_after_as_many_frames_as_were_asked_for() -> None:
    made = Fixture()
    source = made.start(count=2)
    made.pass_frames()
    assert made.watcher is None
    assert len(frames(source)) == 2


def test_only_the_beginning_is_kept_if_no_more_was_asked_for() -> None:
    made = Fixture()
    source = made.start(snap_bytes=20)
    made.pass_frames()
    made.captures.stop(1)
    assert {(len(data), length) for data, length, _ in frames(source)} == {(20, 60)}


def test_copies_that_nobody_reads_are_dropped_and_counted() -> None:
    made = Fixture()
    source = made.start()
    assert made.watcher is not None
    count = 3 * QUEUE_BYTES // 1400
    for _ in range(count):
        made.watcher.handle_inbound(frame(HERE, THERE, 1400))
    kept = []
    source.setblocking(False)
    reader = pcapng.Reader()
    try:
        while True:
            kept += reader.feed(source.recv(1 << 20))
    except BlockingIOError:
        pass
    source.setblocking(True)
    made.captures.stop(1)
    packets = sum(kind == pcapng.PACKET for kind, _ in kept)
    (last,) = blocks(source)
    assert 0 < packets < count
    assert pcapng.dropped_of(last[1]) == count - packets


def test_one_whose_reader_is_gone_is_forgotten() -> None:
    made = Fixture()
    made.start().close()
    made.pass_frames()
    assert made.watcher is None


def test_there_are_never_more_than_a_few() -> None:
    made = Fixture()
    sources = [made.start(number=number) for number in range(MAX_CAPTURES + 1)]
    assert blocks(sources[-1]) == []
    made.captures.stop_all()
    assert all(blocks(source) for source in sources[:-1])


class Tap:
    offloads = ()

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, parts: object) -> str:
        self.written.append(b"".join(parts))  # type: ignore[arg-type]  # parts of a frame
        return ""


def test_an_engine_that_is_watched_does_what_it_did_before() -> None:
    from random import Random

    from router.sleeve.engine import Engine
    from router.sleeve.outbound import HEADROOM_BYTES

    tap = Tap()
    engine = Engine(Switch(MacTable()), tap, Random(1), encrypted=True)
    engine.switch.install_routes(1, {}, {})
    seen: list[tuple[str, bytes]] = []

    class Seen:
        def handle_outbound(self, frame: memoryview) -> None:
            seen.append(("out", bytes(frame)))

        def handle_inbound(self, frame: bytes) -> None:
            seen.append(("in", frame))

    unwatched = engine.handle_frame
    engine.watch(Seen())
    data = frame(EVERYONE, HERE)
    engine.buffer[HEADROOM_BYTES : HEADROOM_BYTES + len(data)] = data
    engine.handle_frame(len(data), 0.0)
    engine.write((data[:20], data[20:]))
    assert seen == [("out", data), ("in", data)]
    assert tap.written == [data]
    assert engine.switch.macs.lookup(HERE) == 1
    engine.watch(None)
    assert engine.handle_frame == unwatched
    engine.write((data,))
    assert len(seen) == 2


def test_a_socket_comes_with_the_message_that_needs_it_and_no_other(tmp_path) -> None:
    link = RouterLink(tmp_path / "datapath.sock")
    router = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = len(os.listdir("/proc/self/fd"))
    try:
        router.connect(str(link.path))
        link.accept()
        start = StartCapture(number=1, short_id=0, count=0, snap_bytes=100)
        stop = StopCapture(1)
        socket.send_fds(router, [encode(start)], [its.fileno()])
        socket.send_fds(router, [encode(stop)], [its.fileno()])
        router.send(encode(start))
        router.send(encode(stop))
        assert link.receive() == [start, stop]
        assert link.refused_messages == 2
        (descriptor,) = link.descriptors
        os.close(descriptor)
        assert len(os.listdir("/proc/self/fd")) == before + 1, "the other descriptor is closed"
    finally:
        link.close()
        for made in (router, ours, its):
            made.close()
