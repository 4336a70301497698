"""What a peer says about itself.

A *record* is written by its subject only. Its links are three bit sets over a *roster*, which
numbers the peers that we have heard of in the order in which we did. Numbers mean nothing to
anyone else: see `router.mesh.updates` for how records travel.

Where to dial a peer is told in the peer's own record, not in each link of each other peer
(that would be n² addresses): whoever connects to it tells it the address that worked.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import compress

from router.mesh.bits import FEW, flags, indexes, mover
from weavepy.base.names import MAX_PEERS, PeerName, PeerUid, ShortId
from weavepy.base.wire import encode

MAX_VERSION = 2**62
"""A record beyond this is garbage. Its subject could not outbid it, should someone make it up."""

MAX_ADDRESSES = 8

MAX_ROSTER = 2 * MAX_PEERS
"""Names that records may mention. Twice the peers, because dead ones linger for a while."""

BROADCAST_SHORT_ID = 0xFFF
MAX_SHORT_ID = 0xFFE

KEY_BYTES = 6


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
    content = encode(
        [
            record.uid,
            record.version,
            record.nickname,
            record.short_id,
            record.router_version,
            record.addresses,
            roster.canonical(record.control),
            roster.canonical(record.control ^ record.established),
            roster.canonical(record.outbound),
            record.mtu_bytes,
        ]
    )
    return hashlib.blake2b(content, digest_size=16).digest()


def moved(record: Record, sources: Sequence[int], width: int) -> Record:
    """The same record over another roster; see `bits.mover`."""
    move = mover(sources, width)
    return replace(
        record,
        control=move(record.control),
        established=move(record.established),
        outbound=move(record.outbound),
    )
