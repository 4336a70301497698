"""How records travel.

An update begins with a table of the names that its records mention, and what they say of links are
sets over that table. Two of the three sets of a record are nearly the same, so the second is told
as what differs. A set is a list of places in the table, or one bit for each place, whichever is
shorter: a thousand peers with a million links fit into half a megabyte, and one peer's 32 links
among a thousand into 65 bytes.

Most of what a peer hears it has heard before; so records are looked at before they are read.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import msgspec

from router.mesh.bits import FEW, indexes, mover, set_of
from router.mesh.records import (
    KEY_BYTES,
    MAX_ADDRESSES,
    MAX_ROSTER,
    MAX_SHORT_ID,
    MAX_VERSION,
    Record,
    Roster,
)
from weavepy.base.names import MAX_NICKNAME_LENGTH, PeerName, PeerUid, ShortId
from weavepy.base.wire import Decoder, encode

MAX_ADDRESS_LENGTH = 264
"""A host name of 253 characters, brackets, a colon and a port."""

MAX_ROUTER_VERSION_LENGTH = 64

MAX_RECORD_BYTES = 4 * 1024
"""Of one record without its links."""

MIN_MTU_BYTES = 576
"""Packets are cut for a peer that takes less than we send, and should not be cut to shreds."""

MARK_BYTES = 8

_BITS: Final = 0
_PLACES: Final = 1
_PLACE_BYTES = 2


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
    """Each set begins with a byte that says what it is: `_BITS`, little-endian, or `_PLACES`, two
    bytes each, little-endian, in any order. Of the empty set there is nothing at all."""
    not_both: bytes
    """Those that are in one of `control` and `established`, and not in the other."""
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


# --- to others -------------------------------------------------------------------------------


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
    pack = _Packer(table, place, len(roster)).pack
    wire_records = [
        WireRecord(
            place[number],
            record.uid,
            record.version,
            record.nickname,
            record.short_id,
            record.router_version,
            list(record.addresses),
            pack(record.control),
            pack(record.control ^ record.established),
            pack(record.outbound),
            record.mtu_bytes,
            fingerprints.get(record.name, b"")[:MARK_BYTES],
        )
        for number, record in zip(numbers, records, strict=True)
    ]
    return encode(WireUpdate(b"".join(map(roster.key, table)), wire_records))


class _Packer:
    def __init__(self, table: Sequence[int], place: Mapping[int, int], width: int) -> None:
        self._table = table
        self._place = place
        self._width = width
        self._is_whole_roster = len(table) == width
        """So that a place is a number. A newcomer is told of everybody by all its neighbours."""
        self._move: Callable[[int], int] | None = None

    def pack(self, bits: int) -> bytes:
        if not bits:
            return b""
        length = (len(self._table) + 7) // 8
        members = bits.bit_count()
        if _PLACE_BYTES * members < length:
            places = map(self._place.__getitem__, indexes(bits))
            return bytes([_PLACES]) + struct.pack(f"<{members}H", *places)
        if not self._is_whole_roster:
            bits = self._moved(bits)
        return bytes([_BITS]) + bits.to_bytes(length, "little")

    def _moved(self, bits: int) -> int:
        if self._move is None:
            self._move = mover(self._table, self._width)
        return self._move(bits)


# --- from others -----------------------------------------------------------------------------


def decode_update(
    data: bytes,
    roster: Roster,
    is_known: Callable[[WireRecord, bytes], bool] = lambda record, key: False,
) -> Update:
    """Raises `ProtocolError` if it is not an update; records that make no sense are left out.

    So are those that the caller knows, by what they say and their subject's key, before the work
    begins.
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
    unpacker = _Unpacker(numbers, len(roster))
    read = [_read(record, numbers, unpacker, roster) for record in fresh if _is_sane(record)]
    records = [record for record in read if record is not None]
    return Update(records, len(fresh) - len(records))


def _subject(wire: WireUpdate, record: WireRecord) -> bytes:
    at = max(0, record.subject) * KEY_BYTES
    return wire.names[at : at + KEY_BYTES]


def _is_sane(record: WireRecord) -> bool:
    """All but its links."""
    if not (
        0 < record.uid < 2**63
        and 0 < record.version <= MAX_VERSION
        and 0 <= record.short_id <= MAX_SHORT_ID
        and (not record.mtu_bytes or MIN_MTU_BYTES <= record.mtu_bytes < 1 << 16)
        and len(record.nickname) <= MAX_NICKNAME_LENGTH
        and len(record.router_version) <= MAX_ROUTER_VERSION_LENGTH
        and len(record.addresses) <= MAX_ADDRESSES
        and all(len(address) <= MAX_ADDRESS_LENGTH for address in record.addresses)
    ):
        return False
    texts: Any = [record.nickname, record.router_version, *record.addresses]
    return "".join(texts).isprintable() and len(encode(texts)) <= MAX_RECORD_BYTES


def _read(
    wire: WireRecord, numbers: Sequence[int], unpacker: "_Unpacker", roster: Roster
) -> Record | None:
    """The record over our roster; None if what it says of links makes no sense."""
    if not 0 <= wire.subject < len(numbers):
        return None
    control = unpacker.unpack(wire.control)
    not_both = unpacker.unpack(wire.not_both)
    outbound = unpacker.unpack(wire.outbound)
    if control is None or not_both is None or outbound is None:
        return None
    links, subject = control | not_both, numbers[wire.subject]
    if links >> subject & 1 or outbound & ~links:
        return None
    return Record(
        name=roster.names[subject],
        uid=PeerUid(wire.uid),
        version=wire.version,
        nickname=wire.nickname,
        short_id=ShortId(wire.short_id),
        router_version=wire.router_version,
        addresses=tuple(wire.addresses),
        control=control,
        established=control ^ not_both,
        outbound=outbound,
        mtu_bytes=wire.mtu_bytes,
    )


class _Unpacker:
    def __init__(self, numbers: Sequence[int], width: int) -> None:
        self._numbers = numbers
        self._width = width
        self._move: Callable[[int], int] | None = None

    def unpack(self, data: bytes) -> int | None:
        """The set over our roster, or None if it is none over the table."""
        if not data:
            return 0
        if data[0] == _PLACES:
            return self._unpack_places(data[1:])
        bits = int.from_bytes(data[1:], "little")
        if data[0] != _BITS or bits >> len(self._numbers):
            return None
        if FEW * bits.bit_count() < len(self._numbers):
            return set_of([self._numbers[place] for place in indexes(bits)])
        if self._move is None:
            self._move = self._renumbering()
        return self._move(bits)

    def _unpack_places(self, data: bytes) -> int | None:
        count, rest = divmod(len(data), _PLACE_BYTES)
        if rest or count > len(self._numbers):
            return None
        places = struct.unpack(f"<{count}H", data)
        if len(set(places)) != count or (places and max(places) >= len(self._numbers)):
            return None
        return set_of([self._numbers[place] for place in places])

    def _renumbering(self) -> Callable[[int], int]:
        sources = [len(self._numbers)] * self._width
        for place, number in enumerate(self._numbers):
            sources[number] = place
        return mover(sources, len(self._numbers))
