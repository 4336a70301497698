"""Updates at the limits of what is taken for one, and what combining two of them keeps."""

from ipaddress import ip_network

import msgspec
import pytest

from ipam.core.messages import (
    AddressRequest,
    Answer,
    ConsentAnswer,
    ConsentRequest,
    Consult,
    ConsultAnswer,
    ForeignUniverse,
    HandOver,
    HandOverDone,
    Hint,
    Message,
    Repair,
    SpaceRequest,
    Update,
    UpdateCodec,
    encode_message,
)
from ipam.core.paxos import NO_BALLOT, Ballot, Proposal, Vote
from ipam.core.ranges import Universe
from ipam.core.ring import Entry, Fence
from tests.ipam.core.parts import A, B, C
from weavepy.base.errors import ProtocolError

UNIVERSE = Universe.of(ip_network("10.32.0.0/24"))
CODEC = UpdateCodec(UNIVERSE)
FIRST = UNIVERSE.first

VOTE = [0, [1, 0], [1, 0], b"ring", [0]]

GOOD: list = [  # type: ignore[type-arg]
    [4, FIRST.to_bytes(16, "big"), 8],
    b"ring",
    [[b"\2\0\0\0\0\1", "host1"], [b"\2\0\0\0\0\2", ""]],
    [[255, 255, 1, 2**62 - 1, 0, False, 0]],
    [[0, 1, 5]],
    [VOTE],
    {},
    False,
    [[0, 1, 1]],
]
UNIVERSE_AT, RING_AT, PEERS_AT, ENTRIES_AT, HINTS_AT, VOTES_AT, _, _, FENCES_AT = range(9)


def decoded(part: int, content: object) -> Update:
    wire = list(GOOD)
    wire[part] = content
    return CODEC.decode(msgspec.msgpack.encode(wire))


def test_what_is_just_within_the_limits_is_taken() -> None:
    update = CODEC.decode(msgspec.msgpack.encode(GOOD))
    assert update.entries == [Entry(FIRST + 255, 256, B, 2**62 - 1, 0)]
    assert update.hints == {A: Hint(1, 5)}
    assert update.fences == {A: Fence(1, B)}
    assert update.nicknames == {A: "host1"}
    assert update.votes == {A: Vote(Ballot(1, A), Ballot(1, A), Proposal(b"ring", (A,)))}


@pytest.mark.parametrize(
    ("part", "content"),
    [
        (RING_AT, b"r" * 17),
        (RING_AT, b""),
        (PEERS_AT, [[b"\2\0\0\0\0", ""], [b"\2\0\0\0\0\2", ""]]),
        (PEERS_AT, [[b"\2\0\0\0\0\0\0", ""], [b"\2\0\0\0\0\2", ""]]),
        (ENTRIES_AT, [[256, 0, 0, 1, 0, False, 0]]),
        (ENTRIES_AT, [[-1, 0, 0, 1, 0, False, 0]]),
        (ENTRIES_AT, [[0, 256, 0, 1, 0, False, 0]]),
        (ENTRIES_AT, [[0, -1, 0, 1, 0, False, 0]]),
        (ENTRIES_AT, [[0, 0, 2, 1, 0, False, 0]]),
        (ENTRIES_AT, [[0, 0, -1, 1, 0, False, 0]]),
        (ENTRIES_AT, [[0, 0, 0, 2**62, 0, False, 0]]),
        (ENTRIES_AT, [[0, 0, 0, -1, 0, False, 0]]),
        (ENTRIES_AT, [[0, 0, 0, 1, -1, False, 0]]),
        (ENTRIES_AT, [[0, 0, 0, 1, 0, False, -1]]),
        (HINTS_AT, [[-1, 1, 5]]),
        (HINTS_AT, [[0, -1, 5]]),
        (HINTS_AT, [[2, 1, 5]]),
        (FENCES_AT, [[-1, 1, 1]]),
        (FENCES_AT, [[0, -1, 1]]),
        (FENCES_AT, [[0, 1, -1]]),
        (VOTES_AT, [[-1, [1, 0], None, b"", []]]),
        (VOTES_AT, [[0, [-1, 0], None, b"", []]]),
        (VOTES_AT, [[0, [1, -1], None, b"", []]]),
        (VOTES_AT, [[0, [1, 0], [-1, 0], b"ring", [0]]]),
        (VOTES_AT, [[0, [1, 0], [1, -1], b"ring", [0]]]),
        (VOTES_AT, [[0, [1, 0], [1, 0], b"ring", [-1]]]),
        (VOTES_AT, [[0, [1, 0], [1, 0], b"", [0]]]),
        (VOTES_AT, [[0, [1, 0], [1, 0], b"ring", []]]),
        (VOTES_AT, [[0, [1, 0], [1, 0], b"r" * 17, [0]]]),
    ],
)
def test_what_is_beyond_the_limits_is_refused(part: int, content: object) -> None:
    with pytest.raises(ProtocolError, match="malformed"):
        decoded(part, content)


def test_the_longest_ids_and_nicknames_are_taken() -> None:
    assert decoded(RING_AT, b"r" * 16).ring_id == b"r" * 16
    vote = decoded(VOTES_AT, [[0, [1, 0], [1, 0], b"r" * 16, [1, 0, 1]]]).votes[A]
    assert vote.proposal == Proposal(b"r" * 16, (A, B))
    names = decoded(PEERS_AT, [[b"\2\0\0\0\0\1", "n" * 1000], [b"\2\0\0\0\0\2", ""]]).nicknames
    assert 0 < len(names[A]) < 1000


def test_the_form_of_an_update_on_the_wire_is_this() -> None:
    update = Update(
        ring_id=b"ring",
        votes={A: Vote(Ballot(1, A), Ballot(1, A), Proposal(b"r", (A,)))},
        fences={A: Fence(3, B)},
        slices={2: b"s"},
    )
    peers = [[bytes.fromhex(peer.replace(":", "")), ""] for peer in (A, B)]
    vote = [0, [1, 0], [1, 0], b"r", [0]]
    universe = [4, FIRST.to_bytes(16, "big"), 8]
    assert msgspec.msgpack.decode(CODEC.encode(update)) == [
        universe,
        b"ring",
        peers,
        [],
        [],
        [vote],
        {2: b"s"},
        False,
        [[0, 3, 1]],
    ]


def test_those_who_get_shares_are_in_the_order_of_their_names() -> None:
    names = [bytes([2, 0, 0, 0, 0, 20 - number]) for number in range(15)]
    vote = [0, [1, 0], [1, 0], b"ring", list(range(15))]
    wire = [GOOD[0], b"ring", [[name, ""] for name in names], [], [], [vote], {}, False, []]
    (found,) = CODEC.decode(msgspec.msgpack.encode(wire)).votes.values()
    assert found.proposal is not None
    assert found.proposal.peers == tuple(sorted(name.hex(":") for name in names))


def test_a_vote_that_has_accepted_nothing_says_so() -> None:
    assert decoded(VOTES_AT, [[1, [3, 0], None, b"", []]]).votes == {
        B: Vote(Ballot(3, A), NO_BALLOT, None)
    }


def test_without_entries_a_ring_needs_no_id_and_older_peers_send_neither_fences_nor_epochs() -> (
    None
):
    wire = list(GOOD[:FENCES_AT])
    wire[RING_AT], wire[ENTRIES_AT] = b"", []
    assert CODEC.decode(msgspec.msgpack.encode(wire)).fences == {}
    wire[RING_AT], wire[ENTRIES_AT] = b"ring", [[0, 0, 0, 1, 0, False]]
    assert CODEC.decode(msgspec.msgpack.encode(wire)).entries == [Entry(FIRST, 1, A, 1, 0)]


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ([4, FIRST.to_bytes(16, "big"), 12], "10.32.0.0/20"),
        ([6, (0xFD << 120).to_bytes(16, "big"), 64], "fd00::/64"),
        ([4, b"\xff" * 20, 8], "255.255.255.255/24"),
        ([6, b"\xff" * 20, 8], "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/120"),
    ],
)
def test_another_universe_is_called_by_its_name(label: list[object], text: str) -> None:
    with pytest.raises(ForeignUniverse) as caught:
        decoded(UNIVERSE_AT, label)
    assert caught.value.universe == text
    assert str(caught.value) == f"ring update about {text}"


def test_fences_epochs_and_hints_survive_the_wire() -> None:
    update = Update(
        ring_id=b"ring",
        entries=[Entry(FIRST, 9, A, 3, 2, True, 5), Entry(FIRST + 9, 1, C, 1, 1, False, 6)],
        hints={B: Hint(4, 2)},
        fences={C: Fence(6, B), A: Fence(5, C)},
        nicknames={B: "host2"},
    )
    assert CODEC.decode(CODEC.encode(update)) == update


def combined(first: Update, second: Update) -> Update:
    return CODEC.decode(CODEC.combine(CODEC.encode(first), CODEC.encode(second)))


def test_two_updates_are_combined_part_by_part() -> None:
    one = Update(
        ring_id=b"ring",
        entries=[Entry(FIRST + 9, 1, A, 2, 1), Entry(FIRST, 9, A, 3, 1)],
        hints={A: Hint(4, 2), B: Hint(1, 9)},
        votes={A: Vote(Ballot(2, B), NO_BALLOT, None), B: Vote(Ballot(2, B), NO_BALLOT, None)},
        nicknames={A: "host1", B: "old"},
        fences={A: Fence(1, B), B: Fence(2, A)},
        slices={1: b"a", 2: b"b"},
    )
    two = Update(
        ring_id=b"ring",
        entries=[Entry(FIRST, 8, A, 4, 1), Entry(FIRST + 8, 1, B, 1, 1)],
        hints={A: Hint(3, 7), B: Hint(2, 5), C: Hint(1, 1)},
        votes={B: Vote(Ballot(3, C), NO_BALLOT, None), C: Vote(Ballot(1, C), NO_BALLOT, None)},
        nicknames={B: "new", C: "host3"},
        fences={B: Fence(1, C), C: Fence(3, A)},
        slices={2: b"c", 3: b"d"},
    )
    for first, second in ((one, two), (two, one)):
        both = combined(first, second)
        assert [(e.token - FIRST, e.size, e.version) for e in both.entries] == [
            (0, 8, 4),
            (8, 1, 1),
            (9, 1, 2),
        ]
        assert both.hints == {A: Hint(4, 2), B: Hint(2, 5), C: Hint(1, 1)}
        assert both.votes == {**one.votes, **two.votes}
        assert both.fences == {A: Fence(1, B), B: Fence(2, A), C: Fence(3, A)}
        assert both.ring_id == b"ring"
    both = combined(one, two)
    assert both.nicknames == {A: "host1", B: "new", C: "host3"}
    assert both.slices == {1: b"a", 2: b"c", 3: b"d"}


@pytest.mark.parametrize(("first", "second"), [(False, False), (False, True), (True, False)])
def test_there_is_more_if_either_says_so(first: bool, second: bool) -> None:
    assert combined(Update(more=first), Update(more=second)).more is (first or second)


def test_of_two_rings_the_later_update_is_kept() -> None:
    one = Update(ring_id=b"one", entries=[Entry(FIRST, 9, A, 1, 0)])
    two = Update(ring_id=b"two", entries=[Entry(FIRST, 8, B, 1, 0)])
    assert combined(one, two) == two
    votes = Update(votes={A: Vote(Ballot(1, A), NO_BALLOT, None)})
    for first, second in ((one, votes), (votes, one)):
        both = combined(first, second)
        assert (both.ring_id, both.entries, both.votes) == (b"one", one.entries, votes.votes)


def test_what_cannot_be_decoded_is_left_out() -> None:
    good = CODEC.encode(Update(ring_id=b"ring"))
    assert CODEC.combine(good, b"?") == good
    assert CODEC.combine(b"?", good) == good


@pytest.mark.parametrize(
    ("message", "golden"),
    [
        (SpaceRequest(7, b"r", 1, 2, True), "960107c401720102c3"),
        (AddressRequest(7, b"r", 1), "940207c4017201"),
        (Answer(7, False, "k", "e", b"u"), "960307c2a16ba165c40175"),
        (Consult(7, b"d"), "930407c40164"),
        (ConsultAnswer(7, b"u", b"p"), "940507c40175c40170"),
        (HandOver(7, b"u"), "930607c40175"),
        (HandOverDone(7), "920707"),
        (Repair(b"u", [(1, 2)]), "9308c40175919201" + "02"),
        (
            ConsentRequest(7, b"r", b"p", 1, 2, b"e", b"t", 3, b"u"),
            "9a0907c40172c4017001" + "02c40165c4017403c40175",
        ),
        (
            ConsentAnswer(7, True, "k", "e", 1, (2, b"o", b"t", 3), b"u"),
            "980a07c3a16ba165019402c4016fc4017403c40175",
        ),
    ],
    ids=lambda one: type(one).__name__,
)
def test_the_bytes_of_messages_are_these(message: Message, golden: str) -> None:
    assert encode_message(message).hex() == golden
