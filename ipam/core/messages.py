"""What the address cores of two peers say to each other, and how it looks on the wire.

`Update` travels by gossip and inside unicast messages; any two can be combined, and any part of
one is worth having. Addresses travel as offsets from the universe's first address and peers as
indexes into a table of six-byte names, so an entry takes about a dozen bytes.

| unicast         | answered with   | purpose                                                  |
|-----------------|-----------------|----------------------------------------------------------|
| `SpaceRequest`  | `Answer`        | give me about half of your biggest free block in a subnet |
| `AddressRequest`| `Answer`        | give me this very address                                |
| `Consult`       | `ConsultAnswer` | what do you know of the ring that I do not?              |
| `HandOver`      | `HandOverDone`  | all my ranges are yours, I am leaving                    |
| `Repair`        | `Repair`        | the entries of these slices of buckets, and I want those |
| `ConsentRequest`| `ConsentAnswer` | this peer is dead: may its ranges be taken over?         |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from ipam.core.paxos import Ballot, Proposal, Vote
from ipam.core.ranges import Universe
from ipam.core.ring import Entry, Fence
from weavepy.base import wire
from weavepy.base.errors import ProtocolError
from weavepy.base.names import MAX_NICKNAME_LENGTH, PeerName

_NAME_BYTES = 6
_MAX_COUNTER = 2**62
_MAX_RING_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class Hint:
    """How much a peer had free when it last said so. The higher stamp is the later."""

    stamp: int
    free: int


@dataclass(slots=True)
class Update:
    """Part of what a peer knows. Empty parts mean nothing; `ring_id` is empty without a ring."""

    ring_id: bytes = b""
    entries: Sequence[Entry] = ()
    hints: Mapping[PeerName, Hint] = field(default_factory=dict)
    votes: Mapping[PeerName, Vote] = field(default_factory=dict)
    nicknames: Mapping[PeerName, str] = field(default_factory=dict)
    fences: Mapping[PeerName, Fence] = field(default_factory=dict)
    """Always all that the sender knows: who has heard of one has heard of those before it."""
    slices: Mapping[int, bytes] = field(default_factory=dict)
    """Fine digests of whole buckets, for a receiver that wants to know what differs in them."""
    more: bool = False
    """There is more to tell: send your digest again."""


class _WireVote(msgspec.Struct, array_like=True):
    voter: int
    promised: tuple[int, int]
    """Round, opener."""
    accepted: tuple[int, int] | None
    ring_id: bytes
    peers: list[int]


class _WireEntry(msgspec.Struct, array_like=True):
    offset: int
    size_less_one: int
    owner: int
    version: int
    generation: int
    disputed: bool
    epoch: int = 0
    level: int = 0


class _WireUpdate(msgspec.Struct, array_like=True):
    universe: tuple[int, bytes, int]
    """IP version, first address, bits of host part."""
    ring_id: bytes
    peers: list[tuple[bytes, str]]
    """Name and nickname; the nickname is empty if unknown."""
    entries: list[_WireEntry]
    hints: list[tuple[int, int, int]]
    votes: list[_WireVote]
    slices: dict[int, bytes]
    more: bool
    fences: list[tuple[int, int, int]] = []
    """Peer, epoch, taker."""


class SpaceRequest(msgspec.Struct, array_like=True, tag=1):
    id: int
    ring_id: bytes
    offset: int
    size_less_one: int
    pressed: bool
    """Give also an address that is still cooling down: nobody has a free one."""


class AddressRequest(msgspec.Struct, array_like=True, tag=2):
    id: int
    ring_id: bytes
    offset: int


class Answer(msgspec.Struct, array_like=True, tag=3):
    id: int
    granted: bool
    kind: str
    """Empty if granted, else why not, in a word; see `ErrorKind`. "moved": not mine any more."""
    error: str
    update: bytes


class Consult(msgspec.Struct, array_like=True, tag=4):
    id: int
    digest: bytes


class ConsultAnswer(msgspec.Struct, array_like=True, tag=5):
    id: int
    update: bytes
    """Empty if the digests are equal."""
    promised: bytes = b""
    """Who may have taken the asker's ranges over, as far as the answering peer has consented and
    not heard the outcome; empty if nobody."""


class HandOver(msgspec.Struct, array_like=True, tag=6):
    id: int
    update: bytes


class HandOverDone(msgspec.Struct, array_like=True, tag=7):
    id: int


class Repair(msgspec.Struct, array_like=True, tag=8):
    update: bytes
    wanted: list[tuple[int, int]]
    """Bucket and slice."""


class ConsentRequest(msgspec.Struct, array_like=True, tag=9):
    """A step of a take-over; see `ipam.core.consent`."""

    id: int
    ring_id: bytes
    peer: bytes
    """Whose ranges are to be taken over."""
    after: int
    """The epoch of the fence that the peer has already; 0 if none."""
    round: int
    electorate: bytes
    """A hash of the peers whose consent counts, as the asker sees them."""
    taker: bytes
    """Empty in the first step, which asks for a promise; then who gets the ranges."""
    epoch: int
    update: bytes
    """What the asker knows of the ranges in question."""


class ConsentAnswer(msgspec.Struct, array_like=True, tag=10):
    id: int
    granted: bool
    kind: str
    """Empty if granted; else "alive", "stale", "outbid", "busy", "foreign" or "too-many"."""
    error: str
    round: int
    """The highest round that the voter has promised."""
    accepted: tuple[int, bytes, bytes, int] | None
    """What it has accepted before: round, opener, taker, epoch."""
    update: bytes
    """What the voter knows of the ranges in question, and all fences."""


Message = (
    SpaceRequest
    | AddressRequest
    | Answer
    | Consult
    | ConsultAnswer
    | HandOver
    | HandOverDone
    | Repair
    | ConsentRequest
    | ConsentAnswer
)

_update_decoder = wire.Decoder(_WireUpdate, "ring update")
_message_decoder = wire.Decoder(Message, "ring message")


def encode_message(message: Message) -> bytes:
    return wire.encode(message)


def decode_message(payload: bytes) -> Message:
    """Raises `ProtocolError`."""
    message: Message = _message_decoder.decode(payload)
    return message


class ForeignUniverse(ProtocolError):
    """The update is about another universe than ours; `universe` says which."""

    def __init__(self, universe: str) -> None:
        super().__init__(f"ring update about {universe}")
        self.universe = universe


class UpdateCodec:
    """Encodes and decodes updates about one universe."""

    def __init__(self, universe: Universe) -> None:
        self._universe = universe
        self._label = (
            universe.ip_version,
            universe.first.to_bytes(16, "big"),
            universe.size.bit_length() - 1,
        )

    def encode(self, update: Update) -> bytes:
        table = _PeerTable(update.nicknames)
        first = self._universe.first
        entries = [
            _WireEntry(
                entry.token - first,
                entry.size - 1,
                table.index(entry.owner),
                entry.version,
                entry.generation,
                entry.disputed,
                entry.epoch,
                entry.level,
            )
            for entry in update.entries
        ]
        hints = [(table.index(peer), h.stamp, h.free) for peer, h in update.hints.items()]
        votes = [_wire_vote(peer, vote, table) for peer, vote in update.votes.items()]
        fences = [
            (table.index(peer), fence.epoch, table.index(fence.taker))
            for peer, fence in update.fences.items()
        ]
        return wire.encode(
            _WireUpdate(
                self._label,
                update.ring_id,
                table.rows,
                entries,
                hints,
                votes,
                dict(update.slices),
                update.more,
                fences,
            )
        )

    def decode(self, data: bytes) -> Update:
        """Raises `ProtocolError`, `ForeignUniverse` among them, for whatever is not for us."""
        message: _WireUpdate = _update_decoder.decode(data)
        if message.universe != self._label:
            raise ForeignUniverse(_universe_text(message.universe))
        if len(message.ring_id) > _MAX_RING_ID_BYTES or (message.entries and not message.ring_id):
            raise ProtocolError("malformed ring update: bad ring id")
        names = [_name(raw) for raw, _ in message.peers]
        nicknames = {
            name: nickname[:MAX_NICKNAME_LENGTH]
            for name, (_, nickname) in zip(names, message.peers, strict=True)
            if nickname
        }
        try:
            return Update(
                ring_id=message.ring_id,
                entries=[self._entry(row, names) for row in message.entries],
                hints={
                    names[_counter(peer)]: Hint(_counter(stamp), free)
                    for peer, stamp, free in message.hints
                },
                votes=dict(_vote(vote, names) for vote in message.votes),
                nicknames=nicknames,
                fences={
                    names[_counter(peer)]: Fence(_counter(epoch), names[_counter(taker)])
                    for peer, epoch, taker in message.fences
                },
                slices=message.slices,
                more=message.more,
            )
        except IndexError as error:
            raise ProtocolError("malformed ring update: no such peer in its table") from error

    def combine(self, first: bytes, second: bytes) -> bytes:
        """Join two encoded updates. Total: what cannot be decoded is left out."""
        try:
            older = self.decode(first)
        except ProtocolError:
            return second
        try:
            newer = self.decode(second)
        except ProtocolError:
            return first
        if older.ring_id and newer.ring_id and older.ring_id != newer.ring_id:
            return second
        entries: dict[int, Entry] = {entry.token: entry for entry in older.entries}
        for entry in newer.entries:
            before = entries.get(entry.token)
            entries[entry.token] = entry if before is None else before.join(entry)
        hints = dict(older.hints)
        for peer, hint in newer.hints.items():
            hints[peer] = max(hints.get(peer, hint), hint, key=lambda hint: hint.stamp)
        fences = dict(older.fences)
        for peer, fence in newer.fences.items():
            fences[peer] = max(fences.get(peer, fence), fence)
        votes = dict(older.votes)
        for peer, vote in newer.votes.items():
            votes[peer] = votes[peer].join(vote) if peer in votes else vote
        return self.encode(
            Update(
                ring_id=older.ring_id or newer.ring_id,
                entries=[entries[token] for token in sorted(entries)],
                hints=hints,
                votes=votes,
                nicknames={**older.nicknames, **newer.nicknames},
                fences=fences,
                slices={**older.slices, **newer.slices},
                more=older.more or newer.more,
            )
        )

    def _entry(self, row: _WireEntry, names: list[PeerName]) -> Entry:
        size = self._universe.size
        if not (0 <= row.offset < size and 0 <= row.size_less_one < size):
            raise ProtocolError("malformed ring update: entry outside the universe")
        return Entry(
            self._universe.first + row.offset,
            row.size_less_one + 1,
            names[_counter(row.owner)],
            _counter(row.version),
            _counter(row.generation),
            row.disputed,
            _counter(row.epoch),
            _counter(row.level),
        )


class _PeerTable:
    def __init__(self, nicknames: Mapping[PeerName, str]) -> None:
        self.rows: list[tuple[bytes, str]] = []
        self._nicknames = nicknames
        self._indexes: dict[PeerName, int] = {}

    def index(self, peer: PeerName) -> int:
        if peer not in self._indexes:
            self._indexes[peer] = len(self.rows)
            self.rows.append((bytes.fromhex(peer.replace(":", "")), self._nicknames.get(peer, "")))
        return self._indexes[peer]

    def indexes(self, peers: Iterable[PeerName]) -> list[int]:
        return [self.index(peer) for peer in peers]


def _wire_vote(peer: PeerName, vote: Vote, table: _PeerTable) -> _WireVote:
    promised = (vote.promised.round, table.index(vote.promised.opener))
    if vote.proposal is None:
        return _WireVote(table.index(peer), promised, None, b"", [])
    accepted = (vote.accepted.round, table.index(vote.accepted.opener))
    proposed = table.indexes(vote.proposal.peers)
    return _WireVote(table.index(peer), promised, accepted, vote.proposal.ring_id, proposed)


def _vote(row: _WireVote, names: list[PeerName]) -> tuple[PeerName, Vote]:
    voter = names[_counter(row.voter)]
    promised = Ballot(_counter(row.promised[0]), names[_counter(row.promised[1])])
    if row.accepted is None:
        return voter, Vote(promised, Ballot(0, PeerName("")), None)
    if not row.ring_id or len(row.ring_id) > _MAX_RING_ID_BYTES or not row.peers:
        raise ProtocolError("malformed ring update: a vote for nothing")
    accepted = Ballot(_counter(row.accepted[0]), names[_counter(row.accepted[1])])
    peers = tuple(sorted({names[_counter(peer)] for peer in row.peers}))
    return voter, Vote(promised, accepted, Proposal(row.ring_id, peers))


def _name(raw: bytes) -> PeerName:
    if len(raw) != _NAME_BYTES:
        raise ProtocolError("malformed ring update: bad peer name")
    return PeerName(raw.hex(":"))


def _counter(value: int) -> int:
    if not 0 <= value < _MAX_COUNTER:
        raise ProtocolError(f"malformed ring update: {value} is out of range")
    return value


def _universe_text(label: tuple[int, bytes, int]) -> str:
    ip_version, first, host_bits = label
    bits = 32 if ip_version == 4 else 128
    universe = Universe(int.from_bytes(first[-16:], "big") % 2**bits, 1, ip_version)
    return f"{universe.text(universe.first)}/{bits - host_bits}"
