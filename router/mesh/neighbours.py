"""The peers that we have a link with, and which of two connections to one peer is kept.

A neighbour is *connected* while a TCP connection stands, *established* while its overlay works.
Established without connected is an *orphan*: its router is gone, or cut off, but frames still
flow, so it stays in the routes until the overlay reports it dead. This is how a router can be
killed, or upgraded, without a lost frame.
"""

from dataclasses import dataclass, field
from enum import Enum

from router.mesh.effects import LinkId
from weavepy.base.names import PeerName, PeerUid

ALIVE_S = 1.5
"""A connection that was heard more recently than this is surely alive: heartbeats come faster.
One that was not must give way to a new one, because its other end may have lost it."""


@dataclass(slots=True)
class Neighbour:
    name: PeerName
    uid: PeerUid | None
    """Of the run that we talked to last; None for an adopted one that we did not talk to."""
    nickname: str
    address: str
    outbound: bool = False
    link: LinkId | None = None
    secret: bytes = field(default=b"", repr=False)
    established: bool = False
    overlay_info: str = "waiting for the overlay"
    """Why it is not established."""
    others: int | None = None
    """How many it was connected with when it greeted us; None before that."""

    @property
    def connected(self) -> bool:
        return self.link is not None

    @property
    def orphaned(self) -> bool:
        return self.link is None and self.established


class Verdict(Enum):
    """What to do with a connection whose handshake has just found a peer."""

    KEEP = "keep"
    REPLACE = "close the other and keep this"
    DUPLICATE = "close this and keep the other"
    CLONE = "refuse, because another router of this name is alive"


def judge(
    neighbour: Neighbour | None,
    *,
    ourself: PeerName,
    name: PeerName,
    uid: PeerUid,
    outbound: bool,
    secret: bytes,
    silence_s: float,
) -> Verdict:
    """Both ends come to the same verdict about two connections that live: the one stays that the
    peer with the lower name dialled, and of two that one end dialled (it has two addresses for
    the other), the one with the lower secret, as that is what both ends know of them.

    `silence_s` is how long nothing came over the other connection.
    """
    if neighbour is None or not neighbour.connected:
        return Verdict.KEEP
    if silence_s >= ALIVE_S:
        return Verdict.REPLACE
    if neighbour.uid != uid:
        return Verdict.CLONE
    if neighbour.outbound == outbound:
        return Verdict.REPLACE if secret < neighbour.secret else Verdict.DUPLICATE
    lower_dialled_this = outbound == (ourself < name)
    return Verdict.REPLACE if lower_dialled_this else Verdict.DUPLICATE
