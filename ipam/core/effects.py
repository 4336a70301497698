"""What the address cores ask the world to do. `Persist` always precedes what depends on it."""

from dataclasses import dataclass

from weavepy.base.effects import LogLine
from weavepy.base.gossip import Announce, Unicast
from weavepy.base.names import PeerName

RING_CHANNEL = "ring"


@dataclass(frozen=True, slots=True)
class PersistedAddress:
    """One address that is in use, or cooling down after use."""

    address: int
    owner: str
    """The attachment: a container id, a namespace path, or "weave:expose"."""
    prefix_length: int
    freed_at: float | None = None
    """Wall-clock-free: seconds on the core's clock; reset at load. None while in use."""


@dataclass(frozen=True, slots=True)
class Persist:
    """Write ring and allocations to disk in one transaction, and sync it, before going on."""

    ring: bytes | None
    """The whole encoded ring with its hints; None if it has not changed."""
    allocated: tuple[PersistedAddress, ...]
    """Rows to insert or replace."""
    released: tuple[int, ...]
    """Addresses whose rows are to be deleted."""


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """A request is done. Exactly one of `address` and `error` is not None for an allocation;
    a successful `claim` or `release` answers with its address."""

    request: int
    address: int | None
    error: str | None


IpamEffect = Announce | Unicast | Persist | AnswerRequest | LogLine

__all__ = [
    "RING_CHANNEL",
    "Announce",
    "AnswerRequest",
    "IpamEffect",
    "LogLine",
    "PeerName",
    "Persist",
    "PersistedAddress",
    "Unicast",
]
