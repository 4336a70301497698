"""The topology is a join, whatever it is fed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from router.mesh.records import MAX_ROSTER, Record, Roster, fingerprint, name_of
from router.mesh.topology import UNREACHABLE_S, Topology
from router.mesh.updates import WireRecord, WireUpdate, decode_update, encode_update
from weavepy.base.names import MAX_NICKNAME_LENGTH, PeerName, PeerUid, ShortId
from weavepy.base.wire import encode

NAMES = [PeerName(bytes([number] * 6).hex(":")) for number in range(1, 8)]


def record(
    subject: int = 0,
    version: int = 1,
    uid: int = 1,
    links: tuple[int, ...] = (),
    roster: Roster | None = None,
    nickname: str = "n",
) -> Record:
    roster = Roster() if roster is None else roster
    bits = roster.set_of(NAMES[link] for link in links if link != subject)
    return Record(
        NAMES[subject],
        PeerUid(uid),
        version,
        nickname,
        ShortId(subject),
        "1",
        ("10.0.0.1:6783",),
        bits,
        bits,
        0,
    )


def update(*records: tuple[int, int, int, tuple[int, ...]]) -> bytes:
    roster = Roster()
    made = [
        record(subject, version, uid, links, roster) for subject, version, uid, links in records
    ]
    marks = {one.name: fingerprint(one, roster) for one in made}
    return encode_update(made, roster, marks if len(marks) == len(made) else {})


def plain(topology: Topology) -> dict[PeerName, bytes]:
    """The state in a form that does not depend on the roster."""
    return {
        name: fingerprint(topology.records[name], topology.roster)
        for name in sorted(topology.records)
    }


def test_what_is_known_is_not_read_again() -> None:
    topology = joined(update((0, 2, 1, (1, 2)), (1, 1, 1, ())))
    names: list[PeerName] = []

    def is_known(heard: WireRecord, key: bytes) -> bool:
        names.append(name_of(key))
        return topology._is_known(heard, key)

    def read(data: bytes) -> list[tuple[PeerName, int]]:
        found = decode_update(data, Roster(), is_known).records
        return [(one.name, one.version) for one in found]

    assert read(update((0, 2, 1, (1, 2)), (1, 1, 1, ()))) == [], "the same"
    assert read(update((0, 1, 1, (3,)))) == [], "older"
    assert read(update((0, 3, 1, (1, 2)), (1, 1, 1, ()))) == [(NAMES[0], 3)], "newer"
    assert read(update((0, 2, 1, (3,)))) == [(NAMES[0], 2)], "a contradiction"
    assert names == [*NAMES[:2], NAMES[0], *NAMES[:2], NAMES[0]]


def joined(*updates: bytes) -> Topology:
    topology = Topology(None)
    for one in updates:
        topology.merge(one)
    return topology


records = st.tuples(
    st.integers(0, 6),
    st.integers(1, 4),
    st.integers(1, 3),
    st.lists(st.integers(0, 6), unique=True).map(tuple),
)
good_updates = st.lists(records, max_size=6).map(lambda made: update(*made))
packed_sets = st.one_of(
    st.just(b""),
    st.binary(max_size=3),
    st.binary(max_size=2).map(lambda data: b"\0" + data),
    st.lists(st.integers(0, 7), max_size=3).map(
        lambda places: b"\1" + b"".join(place.to_bytes(2, "little") for place in places)
    ),
)
wire_records = st.builds(
    WireRecord,
    subject=st.integers(-1, 8),
    uid=st.sampled_from([0, 1, 2**63 - 1, 2**63, -1]),
    version=st.sampled_from([-1, 0, 1, 2, 2**62, 2**62 + 1]),
    nickname=st.one_of(st.text(max_size=8), st.just("x" * 64), st.just("\x1b[2J")),
    short_id=st.sampled_from([-1, 0, 1, 4094, 4095, 9999]),
    router_version=st.sampled_from(["", "1", "x" * 65]),
    addresses=st.lists(st.sampled_from(["h:1", "", "x" * 300]), max_size=9),
    control=packed_sets,
    not_both=packed_sets,
    outbound=packed_sets,
)
odd_updates = st.builds(
    WireUpdate,
    names=st.one_of(
        st.binary(max_size=20),
        st.just(b"".join(bytes([number] * 6) for number in range(1, 7))),
    ),
    records=st.lists(wire_records, max_size=5),
).map(encode)
all_updates = st.one_of(good_updates, odd_updates, st.binary(max_size=40))


@given(all_updates, all_updates)
def test_the_merge_is_commutative(one: bytes, other: bytes) -> None:
    assert plain(joined(one, other)) == plain(joined(other, one))


@given(all_updates, all_updates, all_updates)
def test_the_merge_is_associative(one: bytes, two: bytes, three: bytes) -> None:
    left, right = joined(one, two), joined(two, three)
    left.merge(three)
    all_right = joined(one, right.update_of(right.records))
    assert plain(left) == plain(all_right)


@given(all_updates, all_updates)
def test_the_merge_is_idempotent_and_teaches_nothing_twice(one: bytes, other: bytes) -> None:
    topology = joined(one, other)
    before = plain(topology)
    assert topology.merge(one).changed == ()
    assert topology.merge(topology.update_of(topology.records)).changed == ()
    assert plain(topology) == before


@given(all_updates, all_updates)
def test_combining_two_updates_says_what_both_say(one: bytes, other: bytes) -> None:
    combined = Topology(None).combine(one, other)
    assert plain(joined(combined)) == plain(joined(one, other))


@given(all_updates, all_updates)
def test_equal_states_have_equal_digests_and_different_ones_are_repaired(
    one: bytes, other: bytes
) -> None:
    left, right = joined(one), joined(other)
    assert (left.digest() == right.digest()) == (plain(left) == plain(right))
    for giver, taker in ((left, right), (right, left)):
        answer = giver.answer(taker.digest())
        if answer is not None:
            taker.merge(answer)
    assert plain(left) == plain(right) == plain(joined(one, other))
    assert left.answer(right.digest()) is None


@given(all_updates)
def test_a_record_survives_the_wire_unchanged(one: bytes) -> None:
    topology = joined(one)
    assert plain(joined(topology.update_of(topology.records))) == plain(topology)


@given(st.binary(max_size=600))
def test_a_digest_that_makes_no_sense_is_answered_with_everything(digest: bytes) -> None:
    topology = joined(update((0, 1, 1, (1,)), (1, 1, 1, (0,))))
    answer = topology.answer(digest)
    assert answer is not None
    if len(digest) != 512:
        assert plain(joined(answer)) == plain(topology)


@given(all_updates, all_updates)
def test_compacting_changes_numbers_only(one: bytes, other: bytes) -> None:
    topology = joined(one, other)
    before, digest = plain(topology), topology.digest()
    topology.compact()
    assert plain(topology) == before
    assert topology.digest() == digest
    topology.merge(one)
    assert plain(topology) == before


class Histories(RuleBasedStateMachine):
    """Peers that write their own records, tell each other, and restart with new UIDs."""

    def __init__(self) -> None:
        super().__init__()
        self.views = [Topology(name) for name in NAMES]
        self.uids = list(range(1, len(NAMES) + 1))
        for peer in range(len(NAMES)):
            self.write(peer, 0, 1)

    def write(self, peer: int, links: int, version: int) -> None:
        chosen = tuple(link for link in range(len(NAMES)) if links >> link & 1)
        view = self.views[peer]
        view.write(record(peer, version, self.uids[peer], chosen, view.roster))

    @rule(peer=st.integers(0, 6), links=st.integers(0, 127))
    def change(self, peer: int, links: int) -> None:
        self.write(peer, links, self.views[peer].records[NAMES[peer]].version + 1)

    @rule(giver=st.integers(0, 6), taker=st.integers(0, 6))
    def tell(self, giver: int, taker: int) -> None:
        view = self.views[taker]
        learnt = view.merge(self.views[giver].update_of(self.views[giver].records))
        assert not learnt.ignored
        for claim in learnt.claims:
            assert claim.uid != self.uids[taker]
            ours = view.records[NAMES[taker]]
            self.write(taker, 0, max(ours.version, claim.version) + 1)

    @rule(peer=st.integers(0, 6))
    def restart(self, peer: int) -> None:
        self.views[peer] = Topology(NAMES[peer])
        self.uids[peer] += 100
        self.write(peer, 0, 1)

    @invariant()
    def nobody_knows_better_than_the_subject_unless_it_restarted(self) -> None:
        for view in self.views:
            for index, name in enumerate(NAMES):
                known = view.records.get(name)
                ours = self.views[index].records[name]
                if known is not None and known.uid == ours.uid:
                    assert known.version <= ours.version

    def teardown(self) -> None:
        for _ in range(3):
            for giver in range(len(NAMES)):
                for taker in range(len(NAMES)):
                    self.tell(giver, taker)
        states = [plain(view) for view in self.views]
        assert all(state == states[0] for state in states)
        for index, name in enumerate(NAMES):
            assert self.views[0].records[name].uid == self.uids[index]


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)


def test_a_thousand_peers_in_full_mesh_fit_into_half_a_megabyte() -> None:
    roster = Roster()
    names = [PeerName(number.to_bytes(6, "big").hex(":")) for number in range(1000)]
    everyone = roster.set_of(names)
    made = []
    for number, name in enumerate(names):
        links = everyone & ~(1 << roster.number(name))
        made.append(
            Record(name, PeerUid(2**62), 10, f"host-{number}", ShortId(number), "0.1.0",
                   ("10.0.0.1:6783",), links, links, 0)
        )  # fmt: skip
    data = encode_update(made, roster)
    assert len(data) < 512 * 1024
    decoded = decode_update(data, Roster())
    assert decoded.ignored == 0
    assert len(decoded.records) == 1000


def test_one_record_of_many_that_travel_together_is_short_in_a_sparse_mesh() -> None:
    roster = Roster()
    names = [PeerName(number.to_bytes(6, "big").hex(":")) for number in range(1000)]
    roster.set_of(names)
    made = []
    for number, name in enumerate(names):
        links = roster.set_of(names[(number + step * 31) % 1000] for step in range(1, 33))
        made.append(
            Record(name, PeerUid(2**62), 10, f"host-{number}", ShortId(number), "0.1.0",
                   ("10.0.0.1:6783",), links, links, links & links >> 1)
        )  # fmt: skip
    data = encode_update(made, roster)
    assert len(data) < 150 * 1000
    assert decode_update(data, roster).records == made


@pytest.mark.parametrize(
    "control",
    [
        b"\1\1",
        b"\1\1\0\1\0",
        b"\1\2\0",
        b"\1\0\0",
        b"\0\4",
        b"\0\1",
        b"\2\1\0",
        b"\1\1\0\0\0\0\0",
    ],
    ids=["half", "twice", "too high", "itself", "high bit", "own bit", "strange", "too many"],
)
def test_links_that_make_no_sense_are_left_out(control: bytes) -> None:
    wire = WireRecord(0, 1, 1, "n", 1, "1", [], control, b"", b"")
    learnt = Topology(None).merge(encode(WireUpdate(bytes(6) + bytes([1] * 6), [wire])))
    assert (learnt.changed, learnt.ignored) == ((), 1)


def test_links_are_understood_as_bits_and_as_places() -> None:
    for control in (b"\0\2", b"\1\1\0"):
        wire = WireRecord(0, 1, 1, "n", 1, "1", [], control, control, control)
        topology = Topology(None)
        topology.merge(encode(WireUpdate(bytes(6) + bytes([1] * 6), [wire])))
        (found,) = topology.records.values()
        assert topology.roster.names_of(found.control) == [name_of(bytes([1] * 6))]
        assert (found.established, found.outbound) == (0, found.control)


def test_our_own_record_is_never_overwritten_but_claims_on_it_are_told() -> None:
    topology = Topology(NAMES[0])
    topology.write(record(0, version=3, uid=5, roster=topology.roster))
    assert topology.merge(update((0, 2, 9, ()))).claims == ()
    assert topology.merge(update((0, 3, 5, ()))).claims == ()
    (claim,) = topology.merge(update((0, 3, 9, ()))).claims
    assert (claim.uid, claim.version) == (9, 3)
    assert topology.records[NAMES[0]].uid == 5


def test_a_nonsensical_record_is_left_out_and_the_others_are_kept() -> None:
    roster = Roster()
    bad = record(0, roster=roster, nickname="x" * (MAX_NICKNAME_LENGTH + 1))
    learnt = Topology(None).merge(encode_update([bad, record(1, roster=roster)], roster))
    assert learnt.changed == (NAMES[1],)
    assert learnt.ignored == 1


def test_an_update_from_a_newer_version_is_understood() -> None:
    newer = [bytes([1] * 6), [[0, 1, 1, "n", 1, "2", [], b"", b"", b"", 0, b"", "new", 7]], "more"]
    assert Topology(None).merge(encode(newer)).changed == (NAMES[0],)


def test_names_without_bound_are_not_taken_in() -> None:
    topology = joined(update((0, 1, 1, ())))
    for batch in range(4):
        keys = b"".join(
            (batch << 24 | number).to_bytes(6, "big") for number in range(MAX_ROSTER - 1)
        )
        topology.merge(encode(WireUpdate(keys, [])))
        assert len(topology.roster) <= MAX_ROSTER
    assert topology.merge(update((1, 1, 1, (0,)))).changed == (NAMES[1],)


def test_an_unreachable_peer_is_kept_for_a_while_and_does_not_come_back_by_hearsay() -> None:
    topology = joined(update((0, 1, 1, ()), (1, 1, 1, ())))
    assert topology.collect([NAMES[0]], 100.0) == []
    assert topology.next_deadline().at == 100.0 + UNREACHABLE_S
    assert topology.collect([NAMES[0]], 100.0 + UNREACHABLE_S) == [NAMES[1]]

    topology.merge(update((1, 1, 1, ())))
    assert topology.collect([NAMES[0]], 120.0) == [NAMES[1]]

    topology.merge(update((1, 2, 1, ())))
    assert topology.collect([NAMES[0]], 130.0) == [], "it says something new, so it lives"
    topology.collect(NAMES[:2], 135.0)
    assert topology.collect([NAMES[0]], 141.0) == [], "the clock starts anew"


def test_what_was_removed_and_comes_back_by_hearsay_is_not_passed_on_unless_links_lead_to_it() -> (
    None
):
    told = update((1, 1, 1, ()))
    topology = joined(update((0, 1, 1, ())), told)
    topology.collect([NAMES[0]], 100.0)
    topology.collect([NAMES[0]], 100.0 + UNREACHABLE_S)

    learnt = topology.merge(told)
    assert (learnt.changed, learnt.returned) == ((), (NAMES[1],))
    assert list(joined(topology.update_of(topology.records)).records) == [NAMES[0]]

    topology.collect(NAMES[:2], 120.0)
    assert list(joined(topology.update_of(topology.records)).records) == NAMES[:2]

    topology.collect([NAMES[0]], 130.0)
    topology.merge(told)
    assert topology.merge(update((1, 2, 1, ()))).changed == (NAMES[1],), "it says something new"
    assert list(joined(topology.update_of(topology.records)).records) == NAMES[:2]
