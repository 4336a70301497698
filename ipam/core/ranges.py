"""Ranges of addresses on the circle that the universe is, for IPv4 and IPv6 alike.

Addresses are plain integers. A `Range` is linear: `[start, end)`, never empty, never across the
end of the universe. What lies on the circle is a token and a size; `Universe.unroll` turns it
into one linear range, or two where it crosses the end. Everything that computes with sets of
addresses (free, frozen, wanted) works on sorted lists of disjoint linear ranges.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from weavepy.base.errors import UsageError

Network = IPv4Network | IPv6Network

MAX_UNIVERSE_BITS = 64
"""Offsets in the universe travel as 64-bit integers; an IPv6 /64 is the largest."""

MIN_HOST_BITS = 2
"""A /30 or a /126 is the smallest network in which addresses are left to give out."""


@dataclass(frozen=True, order=True, slots=True)
class Range:
    start: int
    end: int

    def __post_init__(self) -> None:
        assert self.start < self.end, (self.start, self.end)

    @property
    def size(self) -> int:
        return self.end - self.start

    def __contains__(self, address: int) -> bool:
        return self.start <= address < self.end

    def meet(self, other: Range) -> Range | None:
        """Return what both have, or None."""
        start, end = max(self.start, other.start), min(self.end, other.end)
        return Range(start, end) if start < end else None


@dataclass(frozen=True, slots=True)
class Universe:
    """All addresses that the ring deals with; after the last one comes the first."""

    first: int
    size: int
    ip_version: int

    @classmethod
    def of(cls, network: Network) -> Universe:
        """Raises `UsageError` if no ring can be made of this network."""
        host_bits = network.max_prefixlen - network.prefixlen
        if host_bits < MIN_HOST_BITS:
            raise UsageError(
                f"{network} is too small for an address range: take at least a"
                f" /{network.max_prefixlen - MIN_HOST_BITS}"
            )
        if host_bits > MAX_UNIVERSE_BITS:
            raise UsageError(
                f"{network} is too large for an address range: take at most a"
                f" /{network.max_prefixlen - MAX_UNIVERSE_BITS}"
            )
        return cls(int(network.network_address), network.num_addresses, network.version)

    @property
    def end(self) -> int:
        return self.first + self.size

    def __contains__(self, address: int) -> bool:
        return self.first <= address < self.end

    def wrap(self, address: int) -> int:
        """Bring what ran past the end back onto the circle."""
        return self.first + (address - self.first) % self.size

    def distance(self, start: int, end: int) -> int:
        """Return how many steps lead forward from `start` to `end`: 0 to size - 1."""
        return (end - start) % self.size

    def unroll(self, token: int, size: int) -> tuple[Range, ...]:
        """Return `size` addresses from `token` on as one linear range, or two across the end."""
        assert token in self, (token, self)
        assert 0 < size <= self.size, (size, self)
        if token + size <= self.end:
            return (Range(token, token + size),)
        return (Range(self.first, token + size - self.size), Range(token, self.end))

    def text(self, address: int) -> str:
        return str(IPv4Address(address) if self.ip_version == 4 else IPv6Address(address))

    def range_text(self, piece: Range) -> str:
        return f"{self.text(piece.start)}-{self.text(piece.end - 1)}"


def bounds_of(network: Network) -> Range:
    start = int(network.network_address)
    return Range(start, start + network.num_addresses)


def usable(network: Network) -> Range:
    """Return the addresses that hosts of this network may have.

    IPv4 keeps the network and the broadcast address (RFC 1122, 3.2.1.3), IPv6 the
    subnet-router anycast address (RFC 4291, 2.6.1). Raises `UsageError` if none is left.
    """
    if network.max_prefixlen - network.prefixlen < MIN_HOST_BITS:
        raise UsageError(
            f"{network} is too small for a subnet: take at least a"
            f" /{network.max_prefixlen - MIN_HOST_BITS}"
        )
    whole = bounds_of(network)
    return Range(whole.start + 1, whole.end - 1 if network.version == 4 else whole.end)


def check_subnet(network: Network, universe: Network) -> None:
    """Raise `UsageError` unless addresses can be given out in this network."""
    if network.version != universe.version:
        raise UsageError(f"{network} is not of the same kind as the address range {universe}")
    usable(network)
    inner, outer = bounds_of(network), bounds_of(universe)
    if inner.start < outer.start or inner.end > outer.end:
        raise UsageError(
            f"{network} lies outside the address range {universe}: choose a subnet of it"
        )


def why_reserved(universe: Universe, address: int, prefix_length: int) -> str:
    """Return why no host may have this address in a subnet of this length; empty if one may."""
    all_bits = 32 if universe.ip_version == 4 else 128
    bits = all_bits - prefix_length
    if not 0 <= bits <= all_bits:
        return f"/{prefix_length} is not a prefix length"
    if bits < MIN_HOST_BITS:
        return ""
    text = universe.text(address)
    start = address >> bits << bits
    if address == start:
        return f"{text}/{prefix_length} is the address of the network itself: choose another"
    if universe.ip_version == 4 and address == start + (1 << bits) - 1:
        return f"{text}/{prefix_length} is a broadcast address: choose another"
    return ""


def normalise(ranges: Iterable[Range]) -> list[Range]:
    """Return the same addresses as sorted, disjoint ranges that do not touch."""
    merged: list[Range] = []
    for piece in sorted(ranges):
        if merged and piece.start <= merged[-1].end:
            merged[-1] = Range(merged[-1].start, max(merged[-1].end, piece.end))
        else:
            merged.append(piece)
    return merged


def subtract(ranges: Sequence[Range], holes: Sequence[Range]) -> list[Range]:
    """Return what of `ranges` is in no hole. Both must be normalised."""
    left: list[Range] = []
    at = 0
    for piece in ranges:
        start = piece.start
        while at < len(holes) and holes[at].end <= start:
            at += 1
        hole_at = at
        while hole_at < len(holes) and holes[hole_at].start < piece.end:
            if start < holes[hole_at].start:
                left.append(Range(start, holes[hole_at].start))
            start = max(start, holes[hole_at].end)
            hole_at += 1
        if start < piece.end:
            left.append(Range(start, piece.end))
    return left


def within(ranges: Iterable[Range], bounds: Range) -> list[Range]:
    """Return what of `ranges` lies inside `bounds`."""
    return [common for piece in ranges if (common := piece.meet(bounds)) is not None]


def total(ranges: Iterable[Range]) -> int:
    return sum(piece.size for piece in ranges)
