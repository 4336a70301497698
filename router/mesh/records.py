"""What a peer says about itself, and how that travels.

A *record* is written by its subject only. Its links are three bit sets over a *roster*, which
numbers the peers that we have heard of in the order in which we did. Numbers mean nothing to
anyone else, so an update starts with a table of the names that it uses and its bit sets are
over that table: a thousand peers with a million links fit into half a megabyte.

Where to dial a peer is told in the peer's own record, not in each link of each other peer
(that would be n² addresses): whoever connects to it tells it the address that worked.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from types import MappingProxyType
from typing import Any

import msgspec

from router.mesh.bits import FEW, flags, indexes, mover
from weavepy.base.names import MAX_NICKNAME_LENGTH, MAX_PEERS, PeerName, PeerUid, ShortId
from weavepy.base.wire import Decoder, encode

MAX_VERSION = 2**62
"""A record beyond this is garbage. Its subject could not outbid it, should someone make it up."""

MAX_ADDRESSES = 8
MAX_ADDRESS_LENGTH = 264
"""A host name of 253 characters, brackets, a colon and a port."""

MAX_ROUTER_VERSION_LENGTH = 64

MAX_RECORD_BYTES = 4 * 1024
"""Of one record without its links."""

MAX_ROSTER = 2 * MAX_PEERS
"""Names that records may mention. Twice the peers, because dead ones linger for a while."""

MIN_MTU_BYTES = 576
"""Packets are cut for a peer that takes less than we send, and should not be cut to shreds."""

BROADCAST_SHORT_ID = 0xFFF
MAX_SHORT_ID = 0xFFE

KEY_BYTES = 6
MARK_BYTES = 8


@dataclass(frozen=True, slots=True)
class Record:
    """One peer, as it described itself last. The bit sets are over the roster that decoded it.

    `control`: peers to which it has a TCP connection. `established`: peers to which its overlay
    works; without `control`, that is an orphan. `outbound`: those that it dialled.
    """

    name: PeerName
    uid: PeerUid
    version: int
    nickname: str
    short_id: ShortId
    router_version: str
    addresses: tuple[str, ...]
    """Where it can be dialled, likeliest first, each "host:port"."""
    control: int
    established: int
    outbound: int
    mtu_bytes: int = 0
    """The largest packet that its containers take; 0 if it has not said."""

    @property
    def links(self) -> int:
        return self.control | self.established


def key_of(name: PeerName) -> bytes:
    return bytes.fromhex(name.replace(":", ""))


def name_of(key: bytes) -> PeerName:
    return PeerName(key.hex(":"))


class Roster:
    """Numbers names, first come first numbered. Numbers change only in `Topology.compact`."""

    def __init__(self) -> None:
        self.names: list[PeerName] = []
        self._keys: list[bytes] = []
        self._number_of_key: dict[bytes, int] = {}
        self._number_of_name: dict[PeerName, int] = {}
        self._in_key_order: list[int] = []
        self._put_in_order = mover((), 0)

    def __len__(self) -> int:
        return len(self.names)

    def number(self, name: PeerName) -> int:
        """The number of this name, which is given one if it has none."""
        known = self._number_of_name.get(name)
        return self._add(key_of(name)) if known is None else known

    def find(self, name: PeerName) -> int | None:
        return self._number_of_name.get(name)

    def number_keys(self, keys: Sequence[bytes]) -> list[int] | None:
        """The numbers of these keys, or None if the new ones among them do not fit."""
        fresh = sum(key not in self._number_of_key for key in keys)
        if len(self) + fresh > MAX_ROSTER:
            return None
        return [
            self._add(key) if number is None else number
            for key, number in zip(keys, map(self._number_of_key.get, keys), strict=True)
        ]

    def key(self, number: int) -> bytes:
        return self._keys[number]

    def set_of(self, names: Iterable[PeerName]) -> int:
        bits = 0
        for name in names:
            bits |= 1 << self.number(name)
        return bits

    def names_of(self, bits: int) -> list[PeerName]:
        """The members, in the order of their names."""
        return sorted(map(self.names.__getitem__, indexes(bits)))

    def canonical(self, bits: int) -> bytes:
        """The members in a form that every peer computes alike: their keys in order."""
        if FEW * bits.bit_count() < len(self):
            return b"".join(sorted(map(self._keys.__getitem__, indexes(bits))))
        if len(self._in_key_order) != len(self):
            in_order = self._in_key_order = sorted(range(len(self)), key=self._keys.__getitem__)
            self._put_in_order = mover(in_order, len(self))
        ordered = self._put_in_order(bits)
        return b"".join(compress(map(self._keys.__getitem__, self._in_key_order), flags(ordered)))

    def _add(self, key: bytes) -> int:
        number = self._number_of_key.get(key)
        if number is not None:
            return number
        number = len(self.names)
        name = name_of(key)
        self.names.append(name)
        self._keys.append(key)
        self._number_of_key[key] = number
        self._number_of_name[name] = number
        return number


def fingerprint(record: Record, roster: Roster) -> bytes:
    """16 bytes that differ if the records do, and are the same on every peer."""
    control = established = roster.canonical(record.control)
    if record.established != record.control:
        established = roster.canonical(record.established)
    content = encode(
        [
            record.uid,
            record.version,
            record.nickname,
            record.short_id,
            record.router_version,
            record.addresses,
            control,
            established,
            roster.canonical(record.outbound),
            record.mtu_bytes,
        ]
    )
    return hashlib.blake2b(content, digest_size=16).digest()


# --- on the wire -----------------------------------------------------------------------------


class WireRecord(msgspec.Struct, array_like=True, frozen=True):
    """New fields come at the end with a default; those that we do not know are ignored."""

    subject: int
    """Its place in the table of names."""
    uid: int
    version: int
    nickname: str
    short_id: int
    router_version: str
    addresses: list[str]
    control: bytes
    """Bit sets over the table of names, little-endian."""
    established: bytes
    outbound: bytes
    mtu_bytes: int = 0
    mark: bytes = b""
    """The beginning of the record's fingerprint, as its sender has it, so that whoever knows it
    need not read on. It proves nothing, and nothing is kept of it."""


class WireUpdate(msgspec.Struct, array_like=True, frozen=True):
    names: bytes
    """`KEY_BYTES` for each peer that the records mention."""
    records: list[WireRecord]


_update_decoder = Decoder(WireUpdate, "topology update")


@dataclass(frozen=True, slots=True)
class Update:
    records: list[Record]
    ignored: int
    """Records that say what no correct peer says, or that there was no room for."""


def encode_update(
    records: Sequence[Record],
    roster: Roster,
    fingerprints: Mapping[PeerName, bytes] = MappingProxyType({}),
) -> bytes:
    numbers = [roster.number(record.name) for record in records]
    used = 0
    for number, record in zip(numbers, records, strict=True):
        used |= record.control | record.established | record.outbound | 1 << number
    table = indexes(used)
    place = {number: index for index, number in enumerate(table)}
    dense = mover(table, len(roster))

    def move(bits: int) -> int:
        if FEW * bits.bit_count() < len(table):
            return sum(1 << place[number] for number in indexes(bits))
        return dense(bits)

    length = (len(table) + 7) // 8
    wire_records = [
        WireRecord(
            place[number],
            record.uid,
            record.version,
            record.nickname,
            record.short_id,
            record.router_version,
            list(record.addresses),
            move(record.control).to_bytes(length, "little"),
            move(record.established).to_bytes(length, "little"),
            move(record.outbound).to_bytes(length, "little"),
            record.mtu_bytes,
            fingerprints.get(record.name, b"")[:MARK_BYTES],
        )
        for number, record in zip(numbers, records, strict=True)
    ]
    return encode(WireUpdate(b"".join(map(roster.key, table)), wire_records))


def decode_update(
    data: bytes,
    roster: Roster,
    is_known: Callable[[WireRecord, PeerName], bool] = lambda record, name: False,
) -> Update:
    """Raises `ProtocolError` if it is not an update; records that make no sense are left out.

    So are those that the caller knows, before the work begins: most of what a peer hears it has
    heard before.
    """
    wire: WireUpdate = _update_decoder.decode(data)
    fresh = [record for record in wire.records if not is_known(record, _subject(wire, record))]
    if not fresh:
        return Update([], 0)
    keys = [wire.names[at : at + KEY_BYTES] for at in range(0, len(wire.names), KEY_BYTES)]
    well_formed = len(wire.names) % KEY_BYTES == 0 and len(set(keys)) == len(keys)
    numbers = roster.number_keys(keys) if well_formed and len(keys) <= MAX_ROSTER else None
    if numbers is None:
        return Update([], len(fresh))
    move = _renumbering(numbers, len(roster))
    records = []
    for wire_record in fresh:
        if not _makes_sense(wire_record, len(keys)):
            continue
        control = established = move(int.from_bytes(wire_record.control, "little"))
        if wire_record.established != wire_record.control:
            established = move(int.from_bytes(wire_record.established, "little"))
        outbound = move(int.from_bytes(wire_record.outbound, "little"))
        records.append(
            Record(
                name=roster.names[numbers[wire_record.subject]],
                uid=PeerUid(wire_record.uid),
                version=wire_record.version,
                nickname=wire_record.nickname,
                short_id=ShortId(wire_record.short_id),
                router_version=wire_record.router_version,
                addresses=tuple(wire_record.addresses),
                control=control,
                established=established,
                outbound=outbound,
                mtu_bytes=wire_record.mtu_bytes,
            )
        )
    return Update(records, len(fresh) - len(records))


def _renumbering(numbers: Sequence[int], width: int) -> Callable[[int], int]:
    """Return a function that takes bit i of a set to bit `numbers[i]`, of `width`."""
    sources = [len(numbers)] * width
    for index, number in enumerate(numbers):
        sources[number] = index
    dense = mover(sources, len(numbers))

    def move(bits: int) -> int:
        if FEW * bits.bit_count() < len(numbers):
            return sum(1 << numbers[index] for index in indexes(bits))
        return dense(bits)

    return move


def _subject(wire: WireUpdate, record: WireRecord) -> PeerName:
    at = max(0, record.subject) * KEY_BYTES
    return name_of(wire.names[at : at + KEY_BYTES])


def _makes_sense(record: WireRecord, width: int) -> bool:
    if not (
        0 <= record.subject < width
        and 0 < record.uid < 2**63
        and 0 < record.version <= MAX_VERSION
        and 0 <= record.short_id <= MAX_SHORT_ID
        and (not record.mtu_bytes or MIN_MTU_BYTES <= record.mtu_bytes < 1 << 16)
        and len(record.nickname) <= MAX_NICKNAME_LENGTH
        and len(record.router_version) <= MAX_ROUTER_VERSION_LENGTH
        and len(record.addresses) <= MAX_ADDRESSES
        and all(len(address) <= MAX_ADDRESS_LENGTH for address in record.addresses)
        and "".join([record.nickname, record.router_version, *record.addresses]).isprintable()
    ):
        return False
    control, established, outbound = (
        int.from_bytes(bits, "little")
        for bits in (record.control, record.established, record.outbound)
    )
    if (control | established | outbound) >> width or (control | established) >> record.subject & 1:
        return False
    if outbound & ~(control | established):
        return False
    texts: Any = [record.nickname, record.router_version, record.addresses]
    return len(encode(texts)) <= MAX_RECORD_BYTES


def moved(record: Record, sources: Sequence[int], width: int) -> Record:
    """The same record over another roster; see `bits.mover`."""
    move = mover(sources, width)
    return replace(
        record,
        control=move(record.control),
        established=move(record.established),
        outbound=move(record.outbound),
    )
