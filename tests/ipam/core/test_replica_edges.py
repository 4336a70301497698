"""One replica and what another tells it, one rule at a time."""

from dataclasses import replace

import pytest

from ipam.core import replica as replica_module
from ipam.core.messages import Hint, Update
from ipam.core.paxos import NO_BALLOT, Ballot, Vote
from ipam.core.promise import Promise
from ipam.core.ranges import Range
from ipam.core.replica import MAX_ENTRIES_PER_UPDATE, Learnt, Replica
from ipam.core.ring import MAX_ENTRIES, Entry, Fence, Ring
from tests.ipam.core.mesh import peer_name
from tests.ipam.core.parts import A, B, C, D, replica_of, replica_without_ring
from weavepy.base.digest import bucket_of
from weavepy.base.errors import ProtocolError

RING = b"12345678"
VOTE = Vote(Ballot(1, B), NO_BALLOT, None)


def update_of(replica: Replica, *entries: Entry, **parts: object) -> Update:
    return Update(ring_id=RING, entries=entries, **parts)  # type: ignore[arg-type]


def later(entry: Entry, **fields: object) -> Entry:
    return replace(entry, version=entry.version + 1, **fields)  # type: ignore[arg-type]


def entry_of(replica: Replica, owner: str) -> Entry:
    assert replica.ring is not None
    (entry,) = replica.ring.owned_by(owner)  # type: ignore[arg-type]
    return entry


# --- on disk ---------------------------------------------------------------------------------


def test_what_was_written_down_is_taken_up_as_the_next_generation() -> None:
    replica = replica_of(2)
    assert replica.ring is not None
    replica.ring.donate(A, replica.universe.first + 4, 2, B, 1)
    replica.ring.join_fences({D: Fence(1, A)})
    replica.hints = {B: Hint(4, 9)}
    replica.promises = {C: Promise(0, (3, str(B)))}
    replica.paxos.join({B: VOTE})
    replica.generation = 5
    other = replica_without_ring()
    other.nicknames = {A: "renamed"}
    other.restore(replica.snapshot())
    assert other.ring is not None
    assert other.ring.ring_id == RING
    assert other.ring.entries() == replica.ring.entries()
    assert other.fences == {D: Fence(1, A)}
    assert other.hints == {B: Hint(4, 9)}
    assert other.promises == replica.promises
    assert other.paxos.votes == {B: VOTE}
    assert other.generation == 6
    assert other.nicknames == {A: "renamed", B: "host2", D: "host4"}


def test_without_a_ring_votes_are_written_down_all_the_same() -> None:
    replica = replica_without_ring()
    assert replica.generation == 1
    replica.paxos.join({B: VOTE})
    other = replica_without_ring()
    other.restore(replica.snapshot())
    assert other.ring is None
    assert other.paxos.votes == {B: VOTE}


def test_the_ring_can_be_looked_at_in_what_was_written_down() -> None:
    replica = replica_of(2)
    assert replica.ring is not None
    update = replica.codec.decode(replica.update_of(replica.snapshot()))
    assert update.entries == replica.ring.entries()


def test_another_format_is_refused() -> None:
    snapshot = bytearray(replica_of(1).snapshot())
    at = snapshot.index(b"format") + len(b"format")
    assert snapshot[at] == 1
    snapshot[at] = 2
    with pytest.raises(ProtocolError, match="format 2"):
        replica_without_ring().restore(bytes(snapshot))


# --- whom to ask -----------------------------------------------------------------------------


def test_donors_are_those_who_own_something_there_with_what_they_may_have_free() -> None:
    replica = replica_of(4)
    first = replica.universe.first
    replica.hints = {C: Hint(1, 5), D: Hint(1, 500)}
    assert replica.donors(Range(first + 10, first + 200)) == {B: 64, C: 5, D: 8}
    assert replica.donors(Range(first, first + 65)) == {B: 1}
    replica.avoid = [B]
    assert replica.donors(Range(first, first + 256)) == {C: 5, D: 64}


def test_what_is_disputed_is_asked_of_nobody_and_what_is_in_pieces_counts_whole() -> None:
    replica = replica_of(2)
    first = replica.universe.first
    ring = Ring(RING, replica.universe)
    ring.join(
        [
            Entry(first + 250, 16, B, 1, 1),
            Entry(first + 20, 4, B, 1, 1),
            Entry(first + 30, 4, C, 1, 1, disputed=True),
        ]
    )
    replica.ring = ring
    assert replica.donors(Range(first, first + 256)) == {B: 20}


def test_who_has_no_nickname_is_known_by_its_name() -> None:
    replica = replica_of(1)
    replica.nicknames[C] = ""
    assert [replica.label(peer) for peer in (B, C, peer_name(99))] == [
        "host2",
        C,
        peer_name(99),
    ]


# --- digests ---------------------------------------------------------------------------------


def test_equal_replicas_have_nothing_to_tell() -> None:
    assert replica_of(2).answer(replica_of(2).digest()) is None
    one, other = replica_without_ring(), replica_without_ring()
    one.paxos.join({B: VOTE})
    one.paxos.join({C: VOTE})
    other.paxos.join({C: VOTE})
    assert one.answer(other.digest()) is not None
    other.paxos.join({B: VOTE})
    assert one.answer(other.digest()) is None


def decoded(replica: Replica, answer: bytes | None) -> Update:
    assert answer is not None
    return replica.codec.decode(answer)


def test_without_a_ring_the_answer_are_the_votes() -> None:
    replica = replica_without_ring()
    replica.paxos.join({B: VOTE})
    update = decoded(replica, replica.answer(replica_of(1).digest()))
    assert (update.ring_id, update.votes, update.entries) == (b"", {B: VOTE}, [])


def test_who_lives_with_another_ring_is_told_which_ring_this_is_and_nothing_of_it() -> None:
    replica, other = replica_of(1), replica_of(1)
    other.ring = Ring.divide(b"another!", other.universe, [A])
    update = decoded(replica, replica.answer(other.digest()))
    assert (update.ring_id, update.entries) == (RING, [])
    other.ring = Ring.divide(b"12345", other.universe, [A])
    assert len(other.digest()) == len(replica.digest())


def test_who_has_no_ring_yet_is_told_all_of_it() -> None:
    replica = replica_of(3)
    assert replica.ring is not None
    update = decoded(replica, replica.answer(replica_without_ring().digest()))
    assert sorted(update.entries, key=lambda one: one.token) == replica.ring.entries()
    assert not update.more


def cut_up(replica: Replica, pieces: int) -> None:
    assert replica.ring is not None
    first = replica.universe.first
    replica.ring.join(Entry(first + 2 * at, 2, A, 3, 1) for at in range(pieces))


def tokens_in(replica: Replica, bucket: int) -> list[int]:
    assert replica.ring is not None
    return [one.token for one in replica.ring.entries() if bucket_of(one.key) == bucket]


def big(pieces: int) -> Replica:
    replica = replica_of(1, "10.32.0.0/16")
    cut_up(replica, pieces)
    return replica


def differing_in(replica: Replica, buckets: int) -> tuple[Replica, list[Entry]]:
    """Return one that lacks one write in each of so many buckets, and our entries in those."""
    other = replica_without_ring("10.32.0.0/16")
    other.restore(replica.snapshot())
    assert replica.ring is not None
    entries: list[Entry] = []
    for bucket in range(buckets):
        entry = replica.ring.in_bucket(bucket)[0]
        replica.ring.join([later(entry)])
        entries += replica.ring.in_bucket(bucket)
    return other, entries


@pytest.mark.parametrize(("buckets", "is_fine"), [(1, True), (6, True), (7, False)])
def test_where_few_buckets_differ_the_answer_is_a_finer_digest_of_those(
    buckets: int, is_fine: bool
) -> None:
    replica = big(6000)
    other, entries = differing_in(replica, buckets)
    update = decoded(replica, replica.answer(other.digest()))
    if not is_fine:
        assert update.entries == entries
        return
    assert update.entries == []
    assert list(update.slices) == list(range(buckets))
    differing, mine = other.compare_slices(update)
    assert len(differing) == buckets
    assert all(one in other.ring.entries() for one in mine)  # type: ignore[union-attr]
    wanted = [one for one in replica.in_slices(differing) if one not in mine]
    assert len(wanted) == buckets
    assert other.merge(A, replica.codec.decode(replica.encode_repair(wanted))).entries == wanted
    assert other.digest() == replica.digest()


def test_where_few_entries_are_in_question_they_go_at_once() -> None:
    small, large = big(1200), big(6000)
    for replica in (small, large):
        other, entries = differing_in(replica, 1)
        update = decoded(replica, replica.answer(other.digest()))
        assert bool(update.slices) is (len(entries) > 48)
        assert (update.entries == entries) is (len(entries) <= 48)


def test_a_finer_digest_is_asked_for_from_49_entries_on() -> None:
    replica = replica_of(1, "10.32.0.0/16")
    assert replica.ring is not None
    first = replica.universe.first
    tokens = [at for at in range(first, first + 2**16) if bucket_of(at.to_bytes(16, "big")) == 9]
    for count in (48, 49):
        replica.ring = Ring(RING, replica.universe)
        replica.ring.join(Entry(at, 1, A, 1, 1) for at in tokens[:count])
        other = replica_without_ring("10.32.0.0/16")
        other.ring = Ring(RING, replica.universe)
        update = decoded(replica, replica.answer(other.digest()))
        assert bool(update.slices) is (count == 49)


def test_a_large_ring_is_told_in_pieces_and_the_last_says_so() -> None:
    replica = big(6000)
    assert replica.ring is not None
    other = replica_without_ring("10.32.0.0/16")
    rounds = 0
    while (answer := replica.answer(other.digest())) is not None:
        update = replica.codec.decode(answer)
        assert 0 < len(update.entries) <= MAX_ENTRIES_PER_UPDATE == 4096
        other.merge(A, update)
        rounds += 1
        assert update.more is (other.ring is None or len(other.ring) < len(replica.ring))
    assert rounds == 2


def test_a_bucket_that_is_larger_than_an_update_is_told_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replica_module, "MAX_ENTRIES_PER_UPDATE", 3)
    replica = big(3000)
    update = decoded(replica, replica.answer(b"V"))
    assert len(update.entries) == len(tokens_in(replica, 0)) > 3
    assert update.more


def test_pieces_are_filled_as_far_as_whole_buckets_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = big(3000)
    assert replica.ring is not None
    two = len(replica.ring.in_bucket(0)) + len(replica.ring.in_bucket(1))
    for limit, buckets in ((two, 2), (two - 1, 1)):
        monkeypatch.setattr(replica_module, "MAX_ENTRIES_PER_UPDATE", limit)
        update = decoded(replica, replica.answer(b"V"))
        assert len(update.entries) == sum(
            len(replica.ring.in_bucket(bucket)) for bucket in range(buckets)
        )


def test_fine_digests_that_make_no_sense_are_ignored() -> None:
    replica = replica_of(2)
    assert replica.ring is not None
    whole = b"\0" * 256
    for slices in ({64: whole}, {-1: whole}, {0: whole[:-1]}, {0: whole + b"\0"}):
        assert replica.compare_slices(update_of(replica, slices=slices)) == ([], [])
    foreign = Update(ring_id=b"another!", slices={0: b"\1" * 256})
    assert replica.compare_slices(foreign) == ([], [])
    assert replica_without_ring().compare_slices(foreign) == ([], [])
    for bucket in (0, 63):
        differing, _ = replica.compare_slices(update_of(replica, slices={bucket: b"\1" * 256}))
        assert differing == [(bucket, at) for at in range(64)]


def test_what_is_wanted_is_told_by_slice_and_as_far_as_it_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replica = big(3000)
    assert replica.ring is not None
    everything = [(bucket, at) for bucket in range(64) for at in range(64)]
    found = replica.in_slices([*everything, *everything, (64, 0), (-1, 0)])
    assert sorted(one.token for one in found) == [one.token for one in replica.ring.entries()]
    assert replica.in_slices([]) == []
    assert replica_without_ring().in_slices(everything) == []
    parts = [replica.in_slices([(3, at)]) for at in range(64)]
    assert sum(map(len, parts)) == len(replica.ring.in_bucket(3))
    assert max(map(len, parts)) < 10
    monkeypatch.setattr(replica_module, "MAX_ENTRIES_PER_UPDATE", 7)
    assert len(replica.in_slices(everything)) == 7


# --- telling ---------------------------------------------------------------------------------


def test_news_is_told_in_pieces_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_module, "MAX_ENTRIES_PER_UPDATE", 2)
    replica = replica_of(1)
    assert replica.ring is not None
    replica.ring.join_fences({D: Fence(1, A)})
    entries = [Entry(replica.universe.first + at, 1, A, 1, 1) for at in range(5)]
    learnt = Learnt(entries=entries, hints={B: Hint(1, 2)}, votes={B: VOTE})
    updates = [replica.codec.decode(data) for data in replica.encode_news(learnt)]
    assert [list(update.entries) for update in updates] == [entries[:2], entries[2:4], entries[4:]]
    assert [update.hints for update in updates] == [{B: Hint(1, 2)}, {}, {}]
    assert [update.votes for update in updates] == [{B: VOTE}, {}, {}]
    assert all(update.fences == {D: Fence(1, A)} for update in updates)
    (empty,) = replica.encode_news(Learnt(hints={B: Hint(1, 2)}))
    assert not replica.codec.decode(empty).more


def test_names_go_with_entries_and_votes_and_repairs_go_without() -> None:
    replica = replica_of(2)
    entry = entry_of(replica, B)
    assert replica.codec.decode(replica.encode_entries([entry])).nicknames == {B: "host2"}
    repair = replica.codec.decode(replica.encode_repair([entry]))
    assert (repair.ring_id, repair.entries, repair.nicknames) == (RING, [entry], {})
    votes = replica.codec.decode(replica.encode_votes({B: VOTE}))
    assert (votes.ring_id, votes.votes) == (b"", {B: VOTE})


@pytest.mark.parametrize("field", ["entries", "hints", "votes", "fences"])
def test_what_is_to_be_passed_on_is_news(field: str) -> None:
    assert not Learnt()
    learnt = Learnt()
    if field == "entries":
        learnt.entries.append(Entry(0, 1, A, 1, 1))
    else:
        getattr(learnt, field)[A] = "anything"
    assert learnt


# --- hearing ---------------------------------------------------------------------------------


def test_votes_are_heard_while_there_is_no_ring_and_a_ring_is_taken_up() -> None:
    replica = replica_without_ring()
    learnt = replica.merge(B, Update(votes={B: VOTE}))
    assert learnt.votes == {B: VOTE}
    assert not learnt.ring_adopted
    assert replica.merge(B, Update(ring_id=RING)).ring_adopted is False
    assert replica.ring is None
    entry = Entry(replica.universe.first, 256, A, 1, 1)
    learnt = replica.merge(B, update_of(replica, entry, votes={C: VOTE}, hints={B: Hint(1, 1)}))
    assert learnt.ring_adopted
    assert learnt.entries == learnt.gained == [entry]
    assert learnt.received == [], "what was ours before we were asked"
    assert learnt.votes == {C: VOTE}
    assert learnt.hints == {B: Hint(1, 1)}
    learnt = replica.merge(B, Update(votes={D: VOTE}))
    assert learnt.votes == {}
    assert D not in replica.paxos.votes


def test_another_ring_is_noted_and_nothing_of_it_taken() -> None:
    replica = replica_of(1)
    foreign = Update(
        ring_id=b"another!",
        entries=[Entry(replica.universe.first, 256, B, 9, 9)],
        hints={B: Hint(1, 1)},
        fences={A: Fence(1, B)},
    )
    learnt = replica.merge(B, foreign)
    assert learnt.foreign_ring
    assert not learnt
    assert not replica.merge(B, foreign).foreign_ring, "that is known"
    assert replica.foreign == {B: f"ring {b'another!'.hex()}"}
    replica.merge(B, Update())
    assert B in replica.foreign, "who says nothing of a ring has not changed it"
    replica.merge(C, update_of(replica))
    replica.merge(B, update_of(replica))
    assert replica.foreign == {}


def test_a_bounded_number_of_foreigners_is_noted() -> None:
    replica = replica_of(1)
    for number in range(64):
        assert replica.note_foreign_universe(peer_name(number), "10.0.0.0/8")
    assert not replica.note_foreign_universe(peer_name(64), "10.0.0.0/8")
    assert len(replica.foreign) == 64
    assert replica.foreign[peer_name(3)] == "range 10.0.0.0/8"


def test_hints_of_others_are_kept_if_they_are_later() -> None:
    replica = replica_of(2)
    replica.hints = {B: Hint(4, 4)}
    told = {A: Hint(9, 9), B: Hint(4, 5), C: Hint(1, 1)}
    assert replica.merge(B, update_of(replica, hints=told)).hints == {C: Hint(1, 1)}
    assert replica.merge(B, update_of(replica, hints={B: Hint(5, 0)})).hints == {B: Hint(5, 0)}
    assert replica.hints == {B: Hint(5, 0), C: Hint(1, 1)}


def test_bounded_numbers_of_hints_and_nicknames_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replica_module, "MAX_PEERS", 2)
    replica = replica_of(2)
    replica.nicknames = {A: "host1"}
    told = update_of(
        replica,
        hints={B: Hint(1, 1), C: Hint(1, 1), D: Hint(1, 1)},
        nicknames={A: "me", B: "b", C: "c"},
    )
    replica.merge(B, told)
    assert list(replica.hints) == [B, C]
    assert replica.nicknames == {A: "host1", B: "b"}
    again = update_of(replica, hints={D: Hint(1, 1), C: Hint(2, 1)}, nicknames={C: "c", B: "new"})
    assert replica.merge(B, again).hints == {C: Hint(2, 1)}
    assert replica.nicknames == {A: "host1", B: "new"}


def test_a_full_ring_takes_writes_but_no_further_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_ENTRIES == 65_536
    replica = replica_of(2)
    theirs = entry_of(replica, B)
    new = Entry(theirs.token + 4, 4, B, 1, 1)
    other = Entry(theirs.token + 9, 4, B, 1, 1)
    monkeypatch.setattr(replica_module, "MAX_ENTRIES", 3)
    learnt = replica.merge(B, update_of(replica, new, other, later(theirs, size=4)))
    assert learnt.entries == [new, later(theirs, size=4)]


def test_what_was_ours_and_others_rewrote_is_lost() -> None:
    replica = replica_of(2)
    mine = entry_of(replica, A)
    news = later(mine, owner=B)
    learnt = replica.merge(B, update_of(replica, news))
    assert learnt.lost == [news]
    assert (learnt.gained, learnt.received, learnt.taken) == ([], [], [])


def test_what_we_are_given_is_received_and_what_is_ours_already_is_not() -> None:
    replica = replica_of(2)
    theirs, mine = entry_of(replica, B), entry_of(replica, A)
    given = Entry(theirs.token + 8, 4, A, 1, 1)
    whole = later(theirs, owner=A)
    own = Entry(mine.token + 8, 4, A, 1, 1)
    learnt = replica.merge(B, update_of(replica, given, own))
    assert learnt.gained == [given, own]
    assert learnt.received == [given]
    assert learnt.lost == []
    assert replica.merge(B, update_of(replica, whole)).received == [whole]


def test_what_is_others_is_neither_lost_nor_gained() -> None:
    replica = replica_of(2)
    news = later(entry_of(replica, B), owner=C)
    learnt = replica.merge(B, update_of(replica, news))
    assert learnt.entries == [news]
    assert (learnt.lost, learnt.gained, learnt.received, learnt.taken) == ([], [], [], [])


@pytest.mark.parametrize(("fence_epoch", "entry_epoch"), [(1, 0), (2, 1), (1, 1)])
def test_what_a_fence_took_from_us_was_taken_and_not_lost(
    fence_epoch: int, entry_epoch: int
) -> None:
    replica = replica_of(2)
    assert replica.ring is not None
    mine = later(entry_of(replica, A), epoch=entry_epoch)
    replica.ring.join([mine])
    news = later(mine, owner=B, epoch=fence_epoch)
    learnt = replica.merge(B, update_of(replica, news, fences={A: Fence(fence_epoch, B)}))
    assert learnt.fences == {A: Fence(fence_epoch, B)}
    was_taken = fence_epoch > entry_epoch
    assert (learnt.taken, learnt.lost) == (([news], []) if was_taken else ([], [news]))
