"""What a path loses, parity makes good: byte for byte, in its place, and only what was sent."""

import math
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.sleeve import mender, parity
from router.sleeve.control import Receipt
from router.sleeve.format import HEADER, HEADER_BYTES, TYPE_DATA, TYPE_PARITY, TYPE_PLAIN_PARITY
from router.sleeve.mender import HOLD_S
from router.sleeve.messages import RemoveSession
from router.sleeve.parity import GROUP, PARITY, parity_of
from router.sleeve.spans import MAX_SPAN, MIN_CLEAN, SpanChoice
from router.sleeve.window import ReplayWindow
from router.sleeve.worth import MIN_PAUSE_S, TRIAL_LOSSES
from tests.router.sleeve.flows import ACK, PSH, Flow
from tests.router.sleeve.memory import Batch, Node, Wire, chain, frame_of, pair
from tests.router.sleeve.test_spanning import between, left_by, segments_of

LARGE = Flow(payload=Random(1).randbytes(60_000), mss=1348, tcp_options=bytes(12), flags=ACK | PSH)
FEW = Flow(payload=Random(2).randbytes(3_001), mss=1111, flags=ACK | PSH)


def is_parity(datagram: bytes) -> bool:
    return datagram[0] in (TYPE_PARITY, TYPE_PLAIN_PARITY)


def protected(*, encrypted: bool = True, offload: bool = True) -> tuple[Wire, Node, Node]:
    """Two nodes of which the first protects what it sends, and the other expects that."""
    wire, one, two = pair(encrypted=encrypted, offload=(True, offload))
    one.pin_span(two, 1, parity=True)
    one.feed(frame_of(one.mac, two.mac))
    wire.run()
    assert any(map(is_parity, wire.carried))
    two.bridge.clear()
    wire.carried.clear()
    return wire, one, two


def batches_of(wire: Wire, one: Node, two: Node, *flows: Flow) -> list[Batch]:
    """What leaves for these flows, taken off the wire."""
    for flow in flows:
        one.feed(*between(flow, one, two))
    one.end_turn()
    batches, wire.batches = wire.batches, []
    return batches


def deliver(two: Node, host: str, datagrams: Sequence[bytes], batch: int = 64) -> None:
    """Hand these over, in receives of so many datagrams, where their sizes allow it."""
    while datagrams:
        size = len(datagrams[0])
        count = 1
        while count < min(batch, len(datagrams)) and len(datagrams[count - 1]) == size:
            if len(datagrams[count]) > size:
                break
            count += 1
        two.receive(b"".join(datagrams[:count]), size, host)
        datagrams = datagrams[count:]
    two.end_turn()


@pytest.mark.parametrize(("encrypted", "together"), [(True, 64), (False, 64), (True, 5), (True, 1)])
@pytest.mark.parametrize("flow", [LARGE, FEW], ids=["large", "few"])
def test_any_one_lost_datagram_is_made_good_in_its_place(
    flow: Flow, encrypted: bool, together: int
) -> None:
    wire, one, two = protected(encrypted=encrypted)
    datagrams = [d for b in batches_of(wire, one, two, flow) for d in b.datagrams]
    deliver(two, one.host, datagrams)
    count = len(datagrams)
    assert count <= flow.count * (1 + 1 / GROUP) + 2
    for lost in range(count):
        two.bridge.clear()
        mended = two.forwarder(one).session.mended
        datagrams = [d for b in batches_of(wire, one, two, flow) for d in b.datagrams]
        gone = datagrams.pop(lost)
        deliver(two, one.host, datagrams, together)
        if lost == count - 1:
            assert left_by(two, flow) == segments_of(flow, one, two)[:-1], "it may still come"
            wire.now += HOLD_S
            two.end_turn()
        two.end_turn()
        assert left_by(two, flow) == segments_of(flow, one, two), f"without datagram {lost}"
        assert two.forwarder(one).session.mended == mended + (not is_parity(gone))


def test_a_burst_as_long_as_there_are_groups_is_made_good() -> None:
    wire, one, two = protected()
    first, _ = batches_of(wire, one, two, LARGE)
    groups = sum(map(is_parity, first.datagrams))
    assert groups == -(-(len(first.datagrams) - groups) // GROUP) > 7
    deliver(two, one.host, first.datagrams[5 + groups :])
    deliver(two, one.host, first.datagrams[:5])
    came = two.forwarder(one).session.mended + len(first.datagrams) - groups
    assert two.forwarder(one).session.mended >= groups - 5, came


@pytest.mark.parametrize("size", [1, 60, 1386])
def test_a_record_alone_survives_the_loss_of_either_datagram(size: int) -> None:
    for lost in (0, 1):
        wire, one, two = protected()
        wire.lose = lambda batch, number, lost=lost, one=one: batch.sender is one and number == lost
        one.feed(frame_of(one.mac, two.mac, bytes(size)))
        wire.run()
        assert len(two.bridge) == 1
        assert two.drops() == {}


def test_parity_comes_in_the_send_of_what_it_protects() -> None:
    wire, one, two = protected()
    for batch in batches_of(wire, one, two, LARGE, FEW):
        assert any(map(is_parity, batch.datagrams))
        assert len({len(datagram) for datagram in batch.datagrams[:-1]}) == 1


def test_a_clean_path_and_a_peer_that_cannot_mend_get_none() -> None:
    wire, one, two = pair()
    one.pin_span(two, 1)
    one.feed(*between(LARGE, one, two))
    wire.run()
    assert not any(map(is_parity, wire.carried))
    assert two.forwarder(one).mender is None
    for mended in (None, 0):
        choice = SpanChoice()
        choice.handle_receipt(Receipt(MAX_SPAN, 0, 0, mended), 0.0)
        choice.handle_receipt(Receipt(MAX_SPAN, 1, 1, mended), 0.0)
        assert choice.parity == (mended is not None)


def test_a_path_gets_parity_from_a_loss_until_spans_begin_again() -> None:
    choice = SpanChoice()

    def told(datagrams: int, lost: int) -> bool:
        choice.handle_receipt(Receipt(MAX_SPAN, datagrams, lost), 0.0)
        return choice.parity

    n = MIN_CLEAN
    assert [told(0, 0), told(n - 1, 0)] == [False, False]
    assert [told(n, 1), told(2 * n - 1, 1)] == [True, True]
    assert choice.span == 1
    assert not told(2 * n, 1)
    assert choice.span > 1
    assert told(2 * n + 1, 2)
    choice.start_anew()
    assert not choice.parity, "nothing is known of another path"


def test_parity_that_mends_nothing_pauses() -> None:
    choice = SpanChoice()
    choice.handle_receipt(Receipt(MAX_SPAN, 0, 0, 0), 0.0)
    choice.handle_receipt(Receipt(MAX_SPAN, 0, 1, 0), 0.0)
    assert choice.parity
    choice.handle_receipt(Receipt(MAX_SPAN, 0, 1 + TRIAL_LOSSES, 3), 1.0)
    assert not choice.parity
    choice.handle_receipt(Receipt(MAX_SPAN, 0, 2 + TRIAL_LOSSES, 3), 1.0 + MIN_PAUSE_S)
    assert choice.parity


def test_what_was_made_good_was_lost_all_the_same() -> None:
    wire, one, two = protected()
    for _ in range(8):
        datagrams = [d for b in batches_of(wire, one, two, FEW) for d in b.datagrams]
        deliver(two, one.host, datagrams[1:])
        wire.now += 0.01
    wire.run()
    (epoch, _), *_ = [e for e in two.engine.epochs.values() if e[0].mended]
    assert epoch.window.missing == 0
    assert two.forwarder(one).session._receipts._lost >= 5


def test_what_follows_a_hole_waits_only_a_moment_for_parity_that_never_comes() -> None:
    wire, one, two = protected()
    datagrams = [d for b in batches_of(wire, one, two, FEW) for d in b.datagrams]
    deliver(two, one.host, [d for d in datagrams[1:] if not is_parity(d)])
    assert two.bridge == []
    assert two.engine.release_at == wire.now + HOLD_S
    wire.now += HOLD_S
    two.end_turn()
    assert left_by(two, FEW) == segments_of(FEW, one, two)[1:]
    assert two.engine.release_at == math.inf


def test_a_forged_datagram_far_ahead_does_not_hold_up_what_comes_in_order() -> None:
    wire, one, two = protected()
    mending = two.forwarder(one).mender
    assert mending is not None
    (index,) = [epoch.local_index for epoch, _ in two.engine.epochs.values()]
    far = HEADER.pack(TYPE_DATA, index, 10_000, 0, 1) + bytes(50)
    two.receive(far, len(far), one.host)
    for _ in range(4):
        assert mending.held
        deliver(two, one.host, [d for b in batches_of(wire, one, two, FEW) for d in b.datagrams])
        assert left_by(two, FEW) == segments_of(FEW, one, two)
        two.bridge.clear()
        wire.now += HOLD_S / 3
    assert not mending.held, "however often it was looked at in between"
    assert two.drops() == {"not-authentic": 1}


@pytest.mark.parametrize("together", [64, 1])
def test_a_group_that_lost_two_holds_nothing_up(together: int) -> None:
    wire, one, two = protected()
    datagrams = [d for b in batches_of(wire, one, two, LARGE) for d in b.datagrams]
    groups = sum(map(is_parity, datagrams[: datagrams.index(datagrams[-1])])) - 3
    lost = (0, groups)
    deliver(two, one.host, [d for n, d in enumerate(datagrams) if n not in lost], together)
    came = [s for n, s in enumerate(segments_of(LARGE, one, two)) if n not in lost]
    assert left_by(two, LARGE) == came
    assert not two.drops()


def test_nothing_is_mended_that_is_still_to_come() -> None:
    wire, one, two = protected()
    for flow in (LARGE, FEW):
        datagrams = [d for b in batches_of(wire, one, two, flow) for d in b.datagrams]
        deliver(two, one.host, datagrams, 1)
        assert left_by(two, flow) == segments_of(flow, one, two)
        two.bridge.clear()
    assert two.forwarder(one).session.mended == 0
    assert two.drops() == {}


def test_what_waits_is_bounded_and_goes_with_its_session() -> None:
    wire, one, two = protected()
    mending = two.forwarder(one).mender
    assert mending is not None
    for _ in range(10):
        datagrams = [d for b in batches_of(wire, one, two, LARGE) for d in b.datagrams]
        deliver(two, one.host, [d for d in datagrams[1:] if not is_parity(d)])
        assert sum(-(-len(batch) // size) for batch, size in mending.held) <= mender.MAX_HELD
    two.steering.handle_message(RemoveSession(one.peer), wire.now)
    wire.now += HOLD_S
    two.bridge.clear()
    two.end_turn()
    assert two.bridge == []


def test_what_was_overtaken_by_its_parity_does_not_count_as_lost() -> None:
    wire, one, two = protected()
    datagrams = [d for b in batches_of(wire, one, two, FEW) for d in b.datagrams]
    deliver(two, one.host, [*datagrams[1:], datagrams[0]])
    assert two.drops() == {"replayed": 1}
    assert two.forwarder(one).session.mended == 0
    assert [epoch.mended for epoch, _ in two.engine.epochs.values()] == [0]


def test_a_relay_protects_by_the_loss_of_the_path_onward() -> None:
    wire, (one, two, three) = chain()
    two.pin_span(three, 1, parity=True)
    one.pin_span(two, 1)
    one.feed(*between(FEW, one, three))
    wire.run()
    three.bridge.clear()
    one.feed(*between(LARGE, one, three))
    wire.lose = lambda batch, number: (
        batch.sender is two and batch.receiver == three.host and (number == 3)
    )
    wire.run()
    assert left_by(three, LARGE) == segments_of(LARGE, one, three)
    assert three.forwarder(two).session.mended > 0
    assert two.forwarder(one).session.mended == 0


@settings(max_examples=150, deadline=None)
@given(st.data(), st.booleans(), st.integers(1, 64))
def test_no_mishap_delivers_what_was_not_sent_or_anything_twice(
    data: st.DataObject, encrypted: bool, together: int
) -> None:
    wire, one, two = protected(encrypted=encrypted)
    batches = batches_of(wire, one, two, FEW, FEW, LARGE)
    datagrams = [d for b in batches for d in b.datagrams]
    places = st.integers(0, len(datagrams) - 1)
    for place in sorted(data.draw(st.sets(places, max_size=12)), reverse=True):
        del datagrams[place]
    for _ in range(data.draw(st.integers(0, 4))):
        here, there = data.draw(places), data.draw(places)
        datagrams.insert(there, datagrams[here % len(datagrams)])
    for _ in range(data.draw(st.integers(0, 4))):
        datagrams.insert(data.draw(places), datagrams.pop(data.draw(places) % len(datagrams)))
    if encrypted:
        for _ in range(data.draw(st.integers(0, 4))):
            place = data.draw(places) % len(datagrams)
            spoiled = bytearray(datagrams[place])
            spoiled[data.draw(st.integers(0, len(spoiled) - 1))] ^= data.draw(st.integers(1, 255))
            datagrams[place] = bytes(spoiled)
    deliver(two, one.host, datagrams, together)
    left = left_by(two, LARGE)
    sent = segments_of(FEW, one, two) * 2 + segments_of(LARGE, one, two)
    for segment in left:
        sent.remove(segment)  # raises for what was not sent, and for a third of what was sent twice


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1, max_size=1500), st.integers(1, 5), st.booleans())
def test_forged_parity_is_harmless(garbage: bytes, copies: int, encrypted: bool) -> None:
    wire, one, two = protected(encrypted=True)
    (index,) = [HEADER.unpack(d[:HEADER_BYTES])[1] for d in wire.carried] or [
        epoch.local_index for epoch, f in two.engine.epochs.values() if f is two.forwarder(one)
    ]
    kind = TYPE_PARITY if encrypted else TYPE_PLAIN_PARITY
    forged = bytes((kind,)) + index.to_bytes(4, "big") + garbage.ljust(11, b"\0")
    datagrams = [d for b in batches_of(wire, one, two, FEW) for d in b.datagrams]
    deliver(two, one.host, [*[forged] * copies, *datagrams[1:2], forged, *datagrams[2:]])
    wire.now += HOLD_S
    two.end_turn()
    left, sent = left_by(two, FEW), segments_of(FEW, one, two)
    assert [segment for segment in left if segment != sent[0]] == sent[1:]
    assert left.count(sent[0]) <= 1


def test_forged_parity_costs_only_so_many_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    _, one, two = protected()
    attempts = 0
    attempt = mender.remaining

    def counted(*arguments: object) -> bytes:
        nonlocal attempts
        attempts += 1
        return attempt(*arguments)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(mender, "remaining", counted)
    epoch = next(e for e, f in two.engine.epochs.values() if f is two.forwarder(one))
    low = epoch.window.highest + 1
    forged = PARITY.pack(TYPE_PARITY, epoch.local_index, low, 1, 1, 0, 0, 1) + bytes(100)
    for _ in range(1000):
        two.receive(forged, len(forged), one.host)
    assert attempts <= mender.MAX_FRUITLESS
    two.receive(forged, len(forged), "10.99.0.77")
    assert two.forwarder(one).session.mended == 0


def test_what_is_kept_for_parity_is_bounded_and_let_go() -> None:
    wire, one, two = protected()
    mending = two.forwarder(one).mender
    assert mending is not None
    one.pin_span(two, 1)
    for _ in range(mender.MAX_IDLE_BATCHES + 1):
        one.feed(*between(LARGE, one, two))
        wire.run()
        assert sum(-(-len(batch) // size) for batch, size in mending._kept) <= mender.MAX_KEPT
    assert two.forwarder(one).mender is None


@given(st.integers(0, 2**32 + 5), st.lists(st.integers(16, 60), min_size=1, max_size=12))
def test_parity_is_only_made_of_consecutive_data(first: int, sizes: list[int]) -> None:
    parts: list[bytes | memoryview] = []
    for counter, size in enumerate(sizes, first):
        parts += (HEADER.pack(TYPE_DATA, 7, counter, 0, 1), bytes(60 if size < 50 else 59))
    size = 60 + HEADER_BYTES
    made = parity_of(parts[:2] * len(sizes), size)
    assert bool(made) == (len(sizes) == 1)
    assert not parity_of([*parts, HEADER.pack(TYPE_DATA, 7, first + 99, 0, 1), bytes(60)], size)
    assert not parity_of([HEADER.pack(TYPE_PARITY, 7, first, 0, 1), bytes(60)], size)


@given(st.binary(min_size=HEADER_BYTES, max_size=80), st.integers(-1, 1 << 40))
def test_any_bytes_name_a_small_group_or_none(data: bytes, highest: int) -> None:
    window = ReplayWindow()
    window.highest = highest
    group = parity.covered_by(memoryview(data), highest)
    assert len(group) <= parity.MAX_MEMBERS
    assert not group or group[0] >= 0
