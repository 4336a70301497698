"""What carries frames between hosts without us: the seam behind which drivers differ.

A driver is told the complete desired state (`arrange`) and changes only what differs from it, so
it is called again and again: that repairs what others broke. All calls block, belong on one
worker thread, and act on the network namespace of that thread. What concerns one peer and fails
is an answer or a `HostError` that says what to do; sleeve goes on meanwhile.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fastdp.core.effects import AdoptedTunnel, Association, Tunnel
from weavepy.base.names import PeerName


@dataclass(frozen=True, slots=True)
class Port:
    """A tunnel's place on the bridge, for heartbeats."""

    interface: str
    mac: bytes


@dataclass(frozen=True, slots=True)
class Associations:
    """SPIs that the kernel has of one tunnel."""

    receiving: frozenset[int] = frozenset()
    sending: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Arranged:
    ports: Mapping[PeerName, Port] = field(default_factory=dict)
    """Of the tunnels that are there now."""
    errors: Mapping[PeerName, str] = field(default_factory=dict)
    """Why the others are not."""
    repairs: Sequence[str] = ()
    """What others had changed about tunnels that were there before, and is as it was again."""
    associations: Mapping[PeerName, Associations] = field(default_factory=dict)
    """Of the tunnels in ESP."""
    silent: Sequence[PeerName] = ()
    """Tunnels that were carrying until others broke them, and carry no more. With the device's port
    the bridge lost what it knew behind it, and would flood what the datapath sends to one peer."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Of one tunnel since it was made; a tunnel made anew begins at zero. Heartbeats count too.

    Bytes as the kernel counts them here: without the frames' Ethernet headers.
    """

    frames_sent: int
    frames_received: int
    bytes_sent: int
    bytes_received: int


@dataclass(frozen=True, slots=True)
class Counters:
    tunnels: Mapping[PeerName, Traffic]
    refused: Mapping[str, int]
    """Datagrams that the guard dropped, by reason."""


class Driver(Protocol):
    @property
    def name(self) -> str:
        """As operators choose it: "ovs" or "vxlan"."""
        ...

    @property
    def title(self) -> str:
        """The name and, where it matters, which kind of it, once that is known."""
        ...

    def available(self) -> str:
        """Why this host cannot do it, and what to do about that; empty if it can."""
        ...

    def adopt(self) -> list[AdoptedTunnel]:
        """The tunnels that a router before us left. To be called before the first `arrange`."""
        ...

    def left(self) -> bool:
        """Whether a router before us left anything, tunnels or their guard."""
        ...

    def arrange(self, tunnels: Sequence[Tunnel], mtu_bytes: int) -> Arranged:
        """Have exactly these tunnels. Raises `HostError` for what concerns all of them."""
        ...

    def macs(self, peer: PeerName) -> list[bytes]:
        """Those learnt behind the peer's tunnel; none if there is no such tunnel."""
        ...

    def carry(self, peer: PeerName, macs: Sequence[bytes]) -> None:
        """Let the tunnel carry frames, those for `macs` first of all."""
        ...

    def retire(self, peer: PeerName, macs: Sequence[bytes]) -> None:
        """Point `macs` to the TAP and let the tunnel carry heartbeats only.

        The part that concerns the TAP is done also if the tunnel has vanished.
        """
        ...

    def point(self, peer: PeerName, macs: Sequence[bytes]) -> None:
        """Send what is for `macs` through the tunnel, if it carries."""
        ...

    def add_association(self, short_id: int, association: Association) -> None:
        """ESP's, for the peer with this short id; one for sending is used from now on."""
        ...

    def keep_associations(
        self, short_id: int, sending: Collection[int], receiving: Collection[int] | None
    ) -> None:
        """Remove this peer's others; with `receiving` None, only of those for sending."""
        ...

    def counters(self) -> Counters: ...

    def remove_tunnels(self) -> None:
        """All of them, if there are any, and what they need; but not the guard."""
        ...

    def remove_all(self) -> None:
        """Leave nothing of ours behind. For a clean end, never at a start."""
        ...
