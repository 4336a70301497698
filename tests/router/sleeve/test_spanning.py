"""Records that span datagrams, through real engines: whole and authentic, or not there at all."""

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.sleeve import assembly
from router.sleeve.format import HEADER, TYPE_PLAIN_SPAN, TYPE_SPAN
from tests.router.sleeve.flows import ACK, CWR, PSH, UDP, Flow, as_kernel
from tests.router.sleeve.memory import Node, Wire, chain, frame_of, pair

LARGE = Flow(payload=Random(1).randbytes(60_000), mss=1348, tcp_options=bytes(12), flags=ACK | PSH)
ODD = Flow(payload=Random(2).randbytes(20_001), mss=1111, flags=ACK | PSH | CWR, ipv6=True)
DATAGRAMS = Flow(payload=Random(3).randbytes(30_000), mss=900, protocol=UDP)
BIGGEST = Flow(payload=Random(4).randbytes(48 * 1348), mss=1348, tcp_options=bytes(12))
FLOWS = (LARGE, ODD, DATAGRAMS, BIGGEST)


def between(flow: Flow, source: Node, destination: Node) -> tuple[bytes, bytes]:
    return destination.mac + source.mac + flow.large()[12:], flow.virtio()


def segments_of(flow: Flow, source: Node, destination: Node) -> list[bytes]:
    macs = destination.mac + source.mac
    return [macs + flow.segment(number)[12:] for number in range(flow.count)]


def left_by(node: Node, flow: Flow) -> list[bytes]:
    return [segment for written in node.bridge for segment in as_kernel(written, flow.ip_at)]


def spans_in(datagrams: Sequence[bytes]) -> dict[int, int]:
    """Counter to datagrams, of the records that span some."""
    headers = [HEADER.unpack_from(datagram) for datagram in datagrams]
    types = (TYPE_SPAN, TYPE_PLAIN_SPAN)
    return {counter: count for kind, _, counter, _, count in headers if kind in types}


def sent_by(wire: Wire, one: Node) -> list[bytes]:
    """Let this node end its turn, and take its datagrams off the wire."""
    one.end_turn()
    batches, wire.batches = wire.batches, []
    return [datagram for batch in batches for datagram in batch.datagrams]


@pytest.mark.parametrize("encrypted", [True, False])
@pytest.mark.parametrize("span", [2, 3, 7, 16, 64])
@pytest.mark.parametrize("flow", FLOWS, ids=["tcp4", "tcp6", "udp", "biggest"])
def test_a_large_frame_crosses_whole_at_any_span(flow: Flow, span: int, encrypted: bool) -> None:
    wire, one, two = pair(encrypted=encrypted)
    one.pin_span(two, span)
    one.feed(*between(flow, one, two))
    wire.run()
    assert left_by(two, flow) == segments_of(flow, one, two)
    assert len(two.bridge) == 1, "stitched into one write"
    spans = spans_in(wire.carried)
    assert spans
    assert max(spans.values()) <= span
    assert len(spans) <= -(-flow.count // span) + 1


@pytest.mark.parametrize("offload", [True, False])
def test_small_segments_share_datagrams_even_where_no_record_spans_two(offload: bool) -> None:
    wire, one, two = pair(offload=(True, offload))
    one.pin_span(two, 1)
    small = Flow(payload=Random(5).randbytes(64 * 60), mss=64, protocol=UDP)
    one.feed(*between(small, one, two))
    wire.run()
    if offload:
        assert left_by(two, small) == segments_of(small, one, two)
    else:
        assert two.bridge == segments_of(small, one, two)
    assert len(wire.carried) <= 4
    assert set(spans_in(wire.carried).values()) == {1}


def test_records_of_one_frame_leave_in_one_call() -> None:
    wire, one, two = pair()
    one.pin_span(two, 8)
    one.feed(*between(LARGE, one, two))
    one.end_turn()
    assert len(wire.batches) == 1
    assert len(spans_in(wire.batches[0].datagrams)) == 6


def test_a_whole_frame_needs_fewer_datagrams_than_pieces() -> None:
    wire, one, two = pair()
    one.pin_span(two, 64)
    one.feed(*between(LARGE, one, two))
    assert len(sent_by(wire, one)) == 42 < LARGE.count == 45


def test_two_neighbours_share_the_room_to_seal_in() -> None:
    wire, nodes = chain(3)
    left, middle, right = nodes
    for other in (left, right):
        middle.pin_span(other, 8)
    for _ in range(2):
        for other in (left, right):
            middle.feed(*between(ODD, middle, other))
    wire.run()
    for other in (left, right):
        assert left_by(other, ODD) == 2 * segments_of(ODD, middle, other)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from((LARGE, ODD, DATAGRAMS)), st.sampled_from((2, 5, 16, 64)), st.data())
def test_each_record_is_delivered_whole_and_once_or_not_at_all(
    flow: Flow, span: int, data: st.DataObject
) -> None:
    wire, one, two = pair()
    one.pin_span(two, span)
    one.feed(*between(flow, one, two))
    datagrams = sent_by(wire, one)
    places = range(len(datagrams))
    lost = data.draw(st.sets(st.sampled_from(places), max_size=4))
    twice = data.draw(st.lists(st.sampled_from(places), max_size=4))
    arriving = [place for place in places if place not in lost] + twice
    if data.draw(st.booleans()):
        arriving = list(data.draw(st.permutations(arriving)))
    together = data.draw(st.integers(1, 60))
    for at in range(0, len(arriving), together):
        for group in as_received([datagrams[place] for place in arriving[at : at + together]]):
            two.receive(b"".join(group), len(group[0]), one.host)
        if data.draw(st.booleans()):
            two.end_turn()
    two.end_turn()
    came = {HEADER.unpack_from(datagrams[place])[2:4] for place in arriving}
    spans = spans_in(datagrams)
    whole = {c for c, n in spans.items() if all((c, number) in came for number in range(n))}
    per_record = -(-flow.count // len(spans))
    truth = segments_of(flow, one, two)
    expected = [
        segment
        for position, counter in enumerate(sorted(spans))
        if counter in whole
        for segment in truth[position * per_record : (position + 1) * per_record]
    ]
    assert sorted(left_by(two, flow)) == sorted(expected)
    assembler = two.forwarder(one).assembler
    assert assembler.pending_bytes <= assembly.MAX_BYTES
    wire.now += 1.0
    assembler.expire(wire.now)
    assert assembler.pending_bytes == 0


def as_received(datagrams: list[bytes]) -> list[list[bytes]]:
    """As UDP_GRO puts them together: of one size, and a shorter one may be the last."""
    groups: list[list[bytes]] = []
    for datagram in datagrams:
        if groups:
            last = groups[-1]
            fits = len(datagram) <= len(last[0]) and len(last[-1]) == len(last[0])
            if fits and sum(map(len, last)) + len(datagram) <= 65_000:
                last.append(datagram)
                continue
        groups.append([datagram])
    return groups


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 41), st.integers(0, 1471), st.integers(1, 255), st.booleans())
def test_nothing_of_a_record_that_was_tampered_with_is_delivered(
    place: int, at: int, flip: int, in_one_receive: bool
) -> None:
    wire, one, two = pair()
    one.pin_span(two, 64)
    one.feed(*between(LARGE, one, two))
    datagrams = [bytearray(datagram) for datagram in sent_by(wire, one)]
    datagrams[place][at % len(datagrams[place])] ^= flip
    groups = [datagrams] if in_one_receive else [[datagram] for datagram in datagrams]
    for group in groups:
        two.receive(b"".join(group), len(group[0]), one.host)
    two.end_turn()
    # Headers but the first only say where a slice belongs; what is sealed cannot be touched.
    left = left_by(two, LARGE)
    assert left in ([], segments_of(LARGE, one, two))
    assert not left or HEADER.size > at % len(datagrams[place])
    assert not left or place


def test_a_record_is_accepted_once() -> None:
    wire, one, two = pair()
    one.pin_span(two, 64)
    one.feed(*between(LARGE, one, two))
    datagrams = sent_by(wire, one)
    for _ in range(3):
        two.receive(b"".join(datagrams), len(datagrams[0]), one.host)
    for datagram in datagrams:
        two.receive(datagram, len(datagram), one.host)
    two.end_turn()
    assert left_by(two, LARGE) == segments_of(LARGE, one, two)
    assert two.forwarder(one).assembler.pending_records == 0


@pytest.mark.parametrize("garbage", [b"", b"\0", bytes(4), bytes(16), bytes(40), b"\xff" * 1400])
def test_a_spoiled_or_senseless_spanning_record_is_dropped(garbage: bytes) -> None:
    _, one, two = pair()
    session = one.forwarder(two).session
    epoch = session.sending
    assert epoch is not None
    assert epoch.aead is not None
    for inner in (b"", b"\x00\x10\x02\x5f", b"\x00\x10\x02\x0f", b"\x00\x1f\xff\x5f"):
        counter, epoch.counter = epoch.counter, epoch.counter + 1
        header = HEADER.pack(TYPE_SPAN, epoch.remote_index, counter, 0, 1)
        nonce = bytes(4) + counter.to_bytes(8, "big")
        sealed = header + epoch.aead.encrypt(nonce, inner + garbage, header)
        two.receive(sealed, len(sealed), one.host)
    two.end_turn()
    assert two.bridge == []
    assert two.drops()["malformed"] == 4


@pytest.mark.parametrize("onward_span", [1, 4, 64])
@pytest.mark.parametrize("span", [1, 4, 64])
def test_a_relay_passes_spanning_records_on_by_the_span_of_the_next_path(
    span: int, onward_span: int
) -> None:
    wire, nodes = chain(3)
    left, middle, right = nodes
    left.pin_span(middle, span)
    middle.pin_span(right, onward_span)
    for flow in (LARGE, ODD):
        left.feed(*between(flow, left, right))
        wire.run()
        assert left_by(right, flow) == segments_of(flow, left, right)
        right.bridge.clear()


def test_a_peer_without_offloads_takes_spanning_records() -> None:
    wire, one, two = pair(offload=(True, False))
    one.pin_span(two, 64)
    one.feed(*between(LARGE, one, two))
    for datagram in sent_by(wire, one):
        two.receive(datagram, len(datagram), one.host)
    two.end_turn()
    assert two.bridge == segments_of(LARGE, one, two)


def test_spans_are_earned_by_traffic_and_not_sent_to_a_peer_that_does_not_tell() -> None:
    for tells, most in ((True, 8), (False, 0)):  # 9,000 datagrams earn a span of 8
        wire, one, two = pair()
        if not tells:
            two.forwarder(one).session.handle_data = lambda *_: []  # type: ignore[method-assign]  # as before spans
        for _ in range(210):
            one.feed(*between(LARGE, one, two))
            wire.pass_time(0.05)
        assert len(two.bridge) == 210
        assert max(spans_in(wire.carried).values(), default=0) == most


def test_small_frames_and_spanning_records_keep_their_order() -> None:
    wire, one, two = pair()
    one.pin_span(two, 16)
    small = [frame_of(one.mac, two.mac, bytes((number,)) * 60) for number in range(4)]
    one.feed(small[0])
    one.feed(*between(ODD, one, two))
    one.feed(small[1])
    one.feed(small[2])
    one.feed(*between(ODD, one, two))
    one.feed(small[3])
    wire.run()
    assert [len(written) < 200 for written in two.bridge] == [
        *(True, False, True, True, False, True)
    ]
    assert [one[10:] for one in two.bridge if len(one) < 200] == small


def test_memory_stays_bounded_when_no_record_ever_ends() -> None:
    wire, one, two = pair()
    one.pin_span(two, 64)
    assembler = two.forwarder(one).assembler
    for _ in range(200):
        one.feed(*between(LARGE, one, two))
        for datagram in sent_by(wire, one)[:-1]:
            two.receive(datagram, len(datagram), one.host)
            assert assembler.pending_bytes <= assembly.MAX_BYTES
            assert assembler.pending_records <= assembly.MAX_RECORDS
    assert assembler.given_up > 100
