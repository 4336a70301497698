"""Cutting and stitching against a plain model, for any pieces lost and any order."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from router.sleeve.pieces import complete_checksum, plan_cut, segments, true_headers
from router.sleeve.stitch import Run
from tests.router.sleeve.flows import ACK, CWR, FIN, PSH, TCP, UDP, Flow, as_kernel
from weavepy.base.errors import ProtocolError

AT = 4
"""Where a record's content begins: behind an inner header that the stitcher does not read."""

words = st.integers(0, 10).flatmap(lambda count: st.binary(min_size=4 * count, max_size=4 * count))


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    ipv6 = draw(st.booleans())
    protocol = draw(st.sampled_from((TCP, TCP, UDP)))
    return Flow(
        payload=draw(st.binary(min_size=2, max_size=400)),
        mss=draw(st.integers(1, 60)),
        ipv6=ipv6,
        protocol=protocol,
        vlan_tags=draw(st.integers(0, 2)),
        ip_options=b"" if ipv6 else draw(words),
        tcp_options=draw(words) if protocol == TCP else b"",
        sequence=draw(st.integers(0, 2**32 - 1)),
        identification=draw(st.integers(0, 2**16 - 1)),
        flags=ACK | draw(st.sampled_from((0, FIN, PSH, CWR, FIN | PSH | CWR))),
    )


def cut_up(flow: Flow) -> list[bytes]:
    """The plain texts of the pieces of the flow's large frame."""
    frame = flow.large()
    cut = plan_cut(frame, flow.gso_type, flow.mss, flow.transport_at)
    assert cut is not None
    assert cut.count == flow.count
    lead = bytes(AT) + bytes((cut.gso_type, cut.checksum_start // 2)) + frame[: cut.header_bytes]
    return [
        lead + flow.payload[number * flow.mss : (number + 1) * flow.mss]
        for number in range(cut.count)
    ]


def stitch(pieces: list[bytes], order: list[int], base: int, finish: str) -> list[list[bytes]]:
    """What comes out when the pieces arrive in this order, the way the engine drives a `Run`."""
    run, out = Run(), []
    for number in order:
        counter = base + number
        if (
            run.epoch is not None
            and counter == run.next_counter
            and counter - number == run.base
            and run.join(pieces[number], number)
        ):
            continue
        if run.epoch is not None:
            out.append(getattr(run, finish)())
        assert run.begin(pieces[number], AT, pieces, counter, number, len(pieces))
    if run.epoch is not None:
        out.append(getattr(run, finish)())
    return out


@given(flows(), st.data())
def test_each_piece_that_arrives_leaves_the_kernel_as_its_own_true_segment(
    flow: Flow, data: st.DataObject
) -> None:
    arrived = data.draw(st.lists(st.sampled_from(range(flow.count)), unique=True))
    written = stitch(cut_up(flow), arrived, 77, "finish")
    left = [segment for parts in written for segment in as_kernel(b"".join(parts), flow.ip_at)]
    assert left == [flow.segment(number) for number in arrived]


@given(flows(), st.data())
def test_without_offloads_each_piece_becomes_its_true_segment(
    flow: Flow, data: st.DataObject
) -> None:
    arrived = data.draw(st.lists(st.sampled_from(range(flow.count)), unique=True))
    frames = [frame for run in stitch(cut_up(flow), arrived, 77, "finish_singly") for frame in run]
    assert [_one_zero(frame, flow) for frame in frames] == [
        _one_zero(flow.segment(number), flow) for number in arrived
    ]


@given(flows())
def test_segments_are_the_wire_segments_with_partial_checksums(flow: Flow) -> None:
    cut = plan_cut(flow.large(), flow.gso_type, flow.mss, flow.transport_at)
    assert cut is not None
    completed = [
        complete_checksum(segment, cut.checksum_start, flow.checksum_offset)
        for segment in segments(flow.large(), cut)
    ]
    assert [_one_zero(frame, flow) for frame in completed] == [
        _one_zero(flow.segment(number), flow) for number in range(flow.count)
    ]


def test_consecutive_pieces_become_one_frame_and_a_gap_makes_two() -> None:
    flow = Flow(payload=bytes(range(100)), mss=10)
    assert len(stitch(cut_up(flow), list(range(10)), 0, "finish")) == 1
    assert len(stitch(cut_up(flow), [0, 1, 2, 4, 5, 6, 7, 8, 9], 0, "finish")) == 2


def test_a_whole_frame_comes_out_as_it_went_in() -> None:
    flow = Flow(payload=bytes(range(95)), mss=10, flags=ACK | PSH | CWR)
    (parts,) = stitch(cut_up(flow), list(range(10)), 0, "finish")
    assert b"".join(parts) == flow.virtio() + flow.large()


def test_pieces_of_two_frames_with_touching_counters_are_not_joined() -> None:
    first, second = Flow(payload=b"a" * 30, mss=10), Flow(payload=b"b" * 30, mss=10)
    run = Run()
    assert run.begin(cut_up(first)[0], AT, first, counter=5, number=0, count=3)
    # Counter 6 with number 0 starts a frame of its own: its base is 6 and not 5.
    assert run.base != 6 - 0
    assert run.begin(cut_up(second)[0], AT, first, counter=6, number=0, count=3)


def test_the_size_of_the_others_is_told_from_a_last_piece_alone() -> None:
    flow = Flow(payload=bytes(95), mss=10, sequence=2**32 - 20)
    (parts,) = stitch(cut_up(flow), [9], 0, "finish")
    (sequence,) = struct.unpack_from("!I", b"".join(parts), 10 + flow.transport_at + 4)
    assert sequence == (2**32 - 20 + 90) % 2**32


@given(
    st.binary(max_size=120), st.integers(0, 255), st.integers(1, 255), st.sampled_from((1, 4, 5))
)
def test_any_bytes_as_a_piece_are_stitched_or_refused(
    content: bytes, number: int, count: int, gso_type: int
) -> None:
    for lead in (b"", bytes((gso_type, 17)), bytes((gso_type, 27))):
        run = Run()
        if run.begin(bytes(AT) + lead + content, AT, run, number, number, count):
            try:
                run.finish()
            except ProtocolError:
                pass
            run.epoch = run
            try:
                run.finish_singly()
            except ProtocolError:
                pass


@given(st.binary(max_size=120), st.integers(0, 255), st.integers(0, 65535), st.integers(0, 600))
def test_any_bytes_as_a_large_frame_are_cut_or_refused(
    frame: bytes, gso_type: int, gso_size: int, start: int
) -> None:
    for kind in (gso_type, 1, 4, 5):
        cut = plan_cut(frame, kind, gso_size, start)
        if cut is not None:
            try:
                list(segments(frame, cut))
            except ProtocolError:
                pass


def test_headers_that_are_not_ip_are_refused() -> None:
    headers = bytes(12) + b"\x08\x06" + bytes(60)
    try:
        true_headers(headers, 1, 34, 10, 0, True, 10)
    except ProtocolError as error:
        assert "not an IP packet" in str(error)
    else:
        raise AssertionError("accepted")


def _one_zero(frame: bytes, flow: Flow) -> bytes:
    """Ones' complement has two zeros, 0 and 0xFFFF: a checksum of the one is one of the other."""
    at = flow.transport_at + flow.checksum_offset
    if frame[at : at + 2] == b"\xff\xff":
        frame = frame[:at] + b"\0\0" + frame[at + 2 :]
    return frame
