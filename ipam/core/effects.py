"""What the address cores ask the world to do, and what they are given from the disk.

A list of effects holds at most one `Persist`, and it is the first: everything behind it in the
same list may depend on it. While a `Persist` cannot be performed, what stands behind it must
wait; tell `Ipam.handle_disk`.
"""

from dataclasses import dataclass
from typing import Literal

from weavepy.base.effects import LogLine
from weavepy.base.gossip import Announce, Unicast
from weavepy.base.names import PeerName

RING_CHANNEL = "ring"

OwnerKind = Literal["attachment", "manual"]
"""What an owner is: an interface that can be looked for, or a name that somebody gave by hand.
What has no interface any more is a leak; what has a name by hand stays until it is released."""


@dataclass(frozen=True, slots=True)
class PersistedAddress:
    """One address that is in use, or cooling down after use."""

    address: int
    owner: str
    """The attachment: a container id, a namespace path, or "weave:expose"."""
    prefix_length: int
    freed_at: float | None = None
    """Wall-clock-free: seconds on the core's clock; reset at load. None while in use."""
    kind: OwnerKind = "manual"


@dataclass(frozen=True, slots=True)
class RunningAddress:
    """What the kernel shows to be in use: by a running container, or by the host itself."""

    address: int
    owner: str
    prefix_length: int


@dataclass(frozen=True, slots=True)
class Saved:
    """What the disk held at start."""

    ring: bytes | None
    """As the last `Persist` that had one gave it."""
    addresses: tuple[PersistedAddress, ...]


HistoryKind = Literal[
    "ring-made",
    "adopted",
    "donated",
    "received",
    "merged",
    "took-over",
    "taken-over",
    "handed-over",
    "lost",
]


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """A change of what this host owns, and why; the store adds the time."""

    kind: HistoryKind
    ranges: tuple[str, ...]
    """Each "FIRST-LAST"; the first few of many."""
    addresses: int
    """How many changed hands."""
    peer: str
    """The other side, as operators know it; empty if there is none."""
    reason: str


@dataclass(frozen=True, slots=True)
class Persist:
    """Write ring and allocations to disk in one transaction before going on.

    And sync it, unless it is only about attachments, which end when the machine does.
    """

    ring: bytes | None
    """The whole encoded ring with its hints; None if it has not changed."""
    allocated: tuple[PersistedAddress, ...]
    """Rows to insert or replace."""
    released: tuple[int, ...]
    """Addresses whose rows are to be deleted."""
    history: tuple[HistoryEvent, ...] = ()
    """Events to append; the store keeps the newest of them."""


ErrorKind = Literal[
    "",
    "usage",
    "outside-universe",
    "reserved",
    "in-use",
    "no-space",
    "frozen",
    "timeout",
    "cancelled",
    "disk",
    "leaving",
    "too-many",
    "unknown",
    "alive",
    "no-majority",
]
"""Why a request failed. "outside-universe": the address is nobody's in the ring, so it may be
attached statically. "reserved": a network, broadcast or anycast address. The last three are for
a take-over: nobody knows the peer, somebody sees it alive, too few consent."""


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """A request is done. Exactly one of `address` and `error` is not None for an allocation;
    a successful `claim` answers with its address. A release answers with `released`, a prime
    with neither address nor error, a take-over with `text`."""

    request: int
    address: int | None
    error: str | None
    kind: ErrorKind = ""
    prefix_length: int | None = None
    """Of the subnet of `address`."""
    released: tuple[int, ...] = ()
    text: str = ""
    """What was done, for the operator."""


@dataclass(frozen=True, slots=True)
class SettleTakeOver:
    """Have the register outside decide who takes a dead peer's ranges over, and in which epoch.

    Whatever it holds about a fence later than `after` is the decision, else this is, once it is
    written there by compare-and-swap. Tell `Ipam.handle_verdicts` what it says.
    """

    request: int
    peer: PeerName
    after: int
    """The epoch of the last fence of this peer that we know of; 0 if there is none."""
    epoch: int
    taker: PeerName


IpamEffect = Announce | Unicast | Persist | AnswerRequest | SettleTakeOver | LogLine

__all__ = [
    "RING_CHANNEL",
    "Announce",
    "AnswerRequest",
    "ErrorKind",
    "HistoryEvent",
    "HistoryKind",
    "IpamEffect",
    "LogLine",
    "OwnerKind",
    "PeerName",
    "Persist",
    "PersistedAddress",
    "RunningAddress",
    "Saved",
    "SettleTakeOver",
    "Unicast",
]
