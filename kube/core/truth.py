"""What follows from the nodes that the API server knows: whom to dial, and who is gone for good.

**Who is gone.** An owner of ranges whose peer nobody reaches, of which the register says which
node it ran on, and this node's object does not exist, or it is another machine's by now, whose
router has registered under another name. A node that is only down, or whose peer never was on
record, is never gone.

**Whether to believe it.** A server that was restored from a backup, or is another cluster's, lacks
nodes that live. So it is believed only as far as it can be checked: it must know our own node, and
the node of every peer that we reach. While it does not, nobody is declared gone, and status says
because of whom. The list and the watch may be old as well: what is acted on is a fresh read of the
one object, which the server answers from its database.

**Who acts.** Of those that are reachable one at a time: a rank by hash, which all compute alike,
says after how long a peer takes its turn, if nothing has come of it by then. Safety does not hang
on that: the register decides once (`judge`), and what was decided is a fence in the ring.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from kube.core.objects import Node
from kube.core.register import Reclaimed, Register, encode, reclaimed_key
from weavepy.base.names import PeerName

TURN_S = 4.0
"""How long a peer waits for each that has the turn before it."""

MAX_RANK = 8

CIRCLE = 1 << 64
SUCCESSORS = 3
"""Of the nodes behind ours on the circle of targets so many are dialled: some may be down."""


def targets(nodes: Mapping[str, Node], our_node: str, limit: int) -> tuple[str, ...]:
    """Return the addresses to dial: those of all other nodes, up to `limit` of them.

    Of more, each has a place on a circle by the hash of its name, and dials the next few behind it
    and the first at or behind 1/2, 1/4, 1/8 ... of the way round (as the fingers of Chord, Stoica
    2001). So all are connected, whoever came first, over few links; and a node that comes or goes
    changes the targets of a few others only. Discovery adds more.
    """
    others = [name for name in sorted(nodes) if name != our_node]
    if len(others) > limit:
        others = _fingers(others, our_node)
    return tuple(address for name in others for address in nodes[name].addresses)


def _fingers(others: Sequence[str], our_node: str) -> list[str]:
    circle = sorted((_place(name), name) for name in others)
    start = _place(our_node)
    nearest = bisect_left(circle, (start, ""))
    found = [circle[(nearest + step) % len(circle)][1] for step in range(SUCCESSORS)]
    for power in range(1, len(circle).bit_length() + 1):
        point = (start + (CIRCLE >> power)) % CIRCLE
        found.append(circle[bisect_left(circle, (point, "")) % len(circle)][1])
    return list(dict.fromkeys(found))


@lru_cache(maxsize=1 << 14)
def _place(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def suspects(
    owners: Iterable[PeerName],
    alive: Collection[PeerName],
    register: Register,
    nodes: Mapping[str, Node],
) -> list[PeerName]:
    """Return the owners that may be gone, as far as what we have watched says."""
    return [
        peer
        for peer in owners
        if peer not in alive
        and (home := register.homes.get(peer)) is not None
        and is_gone(peer, register, nodes.get(home.node))
    ]


def strangers(
    owners: Iterable[PeerName], register: Register, nodes: Mapping[str, Node]
) -> list[PeerName]:
    """Return the owners that this register does not know, or on a machine that is another now."""
    found = []
    for peer in owners:
        home = register.homes.get(peer)
        node = None if home is None else nodes.get(home.node)
        if home is None or (node is not None and node.uid != home.uid):
            found.append(peer)
    return found


def is_gone(peer: PeerName, register: Register, node: Node | None) -> bool:
    """`node` is the object of the name that the peer has registered, None if there is none."""
    home = register.homes.get(peer)
    if home is None:
        return False
    if node is None:
        return True
    return node.uid != home.uid and any(
        other != peer and one.node == home.node and one.uid == node.uid
        for other, one in register.homes.items()
    )


def why_not_believed(
    nodes: Mapping[str, Node],
    our_node: str,
    reachable: Iterable[PeerName],
    register: Register,
) -> str:
    """Return what the API server says wrongly, as far as we can tell; "" for nothing."""
    if our_node not in nodes:
        return f"it does not know this node, {our_node}"
    for peer in reachable:
        home = register.homes.get(peer)
        if home is not None and is_gone(peer, register, nodes.get(home.node)):
            return f"it does not know the node {home.node}, whose router {peer} is alive"
    return ""


def turn_s(peer: PeerName, ourself: PeerName, reachable: Iterable[PeerName]) -> float:
    """Return after how many seconds it is our turn to see to this peer's ranges."""

    def place(candidate: PeerName) -> bytes:
        return hashlib.sha256(f"{peer} {candidate}".encode()).digest()

    ours = place(ourself)
    before = sum(place(candidate) < ours for candidate in reachable if candidate != ourself)
    return TURN_S * min(before, MAX_RANK)


@dataclass(frozen=True, slots=True)
class Adopt:
    """It was decided already."""

    epoch: int
    taker: PeerName


@dataclass(frozen=True, slots=True)
class Write:
    """It is free to be decided: swap these keys in. A value of None removes one."""

    version: str
    changes: Mapping[str, str | None]
    epoch: int
    taker: PeerName


def judge(
    register: Register, peer: PeerName, after: int, epoch: int, taker: PeerName
) -> Adopt | Write:
    """Who takes over what `peer` has, having been fenced last in the epoch `after`?"""
    record = register.reclaimed.get(peer)
    if record is not None and record.epoch > after:
        return Adopt(record.epoch, PeerName(record.taker))
    home = register.homes.get(peer)
    written = Reclaimed(epoch, taker, home.node if home else "")
    changes: dict[str, str | None] = dict.fromkeys(register.to_forget(peer))
    changes[reclaimed_key(peer)] = encode(written)
    return Write(register.version, changes, epoch, taker)
