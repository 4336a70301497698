"""What the fast path asks the world to do, and what it is told of the kernel at start.

A *tunnel* is a point-to-point VXLAN port of the bridge towards one peer. It is *arranged* (it is
there and carries only heartbeats), then *carrying* (frames flow), and after that *retired*, which
is arranged again. `Arrange` holds all tunnels that should exist; the others speak of one of them.

All but `TellPeer`, `SetFast` and `LogLine` go to the driver or its socket, strictly in order.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from weavepy.base.effects import LogLine
from weavepy.base.names import PeerName


@dataclass(frozen=True, slots=True)
class Tunnel:
    peer: PeerName
    short_id: int
    """The peer's, after which the device is named."""
    network_id: int
    """24 bits, the same at both ends: see `network_id`."""
    remote_host: str
    """IPv4 or IPv6: where the peer's sleeve session lives."""
    encrypted: bool = False
    """Its datagrams travel in ESP, and in no other way."""


@dataclass(frozen=True, slots=True)
class AdoptedTunnel:
    """A tunnel that a router before us left behind."""

    peer: PeerName
    short_id: int
    network_id: int
    remote_host: str
    carrying: bool
    encrypted: bool = False


def network_id(one: int, other: int) -> int:
    """The VXLAN network id of the tunnel between two short ids; both ends compute the same."""
    return min(one, other) << 12 | max(one, other)


# --- for the driver --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Arrange:
    """Have exactly these tunnels; those that exist already stay as they are, carrying or not.

    Answered by `handle_arranged`. Repeated now and then: it repairs what others broke.
    """

    tunnels: tuple[Tunnel, ...]
    mtu_bytes: int
    """The overlay's MTU, so the devices'."""


@dataclass(frozen=True, slots=True)
class ReadMacs:
    """Answered by `handle_macs`: the MACs that the bridge has learnt behind the tunnel."""

    peer: PeerName


@dataclass(frozen=True, slots=True)
class Carry:
    """Flood and learn on the tunnel, and point these MACs to it. Answered by `handle_carried`."""

    peer: PeerName
    macs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Retire:
    """Point these MACs to the TAP, flood and learn no more, forget the rest of the tunnel's.

    Answered by `handle_retired`.
    """

    peer: PeerName
    macs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """Point these MACs to the carrying tunnel: frames for them came in by the TAP."""

    peer: PeerName
    macs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SendHeartbeat:
    """Send this through the peer's tunnel, padded to `frame_bytes` with the Ethernet header."""

    peer: PeerName
    payload: bytes
    frame_bytes: int


@dataclass(frozen=True, slots=True)
class Association:
    """One of ESP's security associations: the key of one direction, named by its receiver."""

    spi: int
    key: bytes = field(repr=False)
    """32 bytes for AES-GCM, and the salt's 4 (RFC 4106)."""
    local_host: str
    """Ours, where it is for receiving; empty where it is for sending, from whatever address."""
    remote_host: str


@dataclass(frozen=True, slots=True)
class AddAssociation:
    """Have it in the kernel; one for sending is used from then on, rather than those before it.

    Answered by `handle_association_added`.
    """

    peer: PeerName
    short_id: int
    """The peer's."""
    association: Association


@dataclass(frozen=True, slots=True)
class KeepAssociations:
    """Remove those of this peer that are not named here, whoever of us has made them."""

    peer: PeerName
    short_id: int
    sending: tuple[int, ...]
    """Their SPIs."""
    receiving: tuple[int, ...] | None
    """None: leave all of them."""


# --- for the others --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TellPeer:
    """Over the control connection; the payload says itself that it is for the fast path."""

    peer: PeerName
    payload: bytes


@dataclass(frozen=True, slots=True)
class SetFast:
    """To the datapath, complete: these peers get our own broadcasts through tunnels.

    Answered by `handle_fast_set` with the same generation.
    """

    generation: int
    fast: tuple[int, ...]
    """Short ids."""
    relays: tuple[int, ...]
    """Those of them that have to pass our broadcasts on: they still get them by sleeve, marked."""
    learn: Mapping[int, tuple[bytes, ...]]
    """MACs that lie behind peers, for the datapath to know when their tunnel retires."""
    tunnels: tuple[int, ...] = ()
    """Of all peers to whom there is a tunnel: whether or not we send by it, it may bring theirs."""


TunnelEffect = (
    Arrange | ReadMacs | Carry | Retire | Point | AddAssociation | KeepAssociations | SendHeartbeat
)
"""What the owner of the driver does."""

FastEffect = TunnelEffect | TellPeer | SetFast | LogLine

__all__ = [
    "AddAssociation",
    "AdoptedTunnel",
    "Arrange",
    "Association",
    "Carry",
    "FastEffect",
    "KeepAssociations",
    "LogLine",
    "Point",
    "ReadMacs",
    "Retire",
    "SendHeartbeat",
    "SetFast",
    "TellPeer",
    "Tunnel",
    "TunnelEffect",
    "network_id",
]
