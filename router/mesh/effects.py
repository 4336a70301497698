"""What the mesh core asks the world to do, and what it tells the rest of the router.

`LinkId` numbers one TCP connection for the life of the process; the shell chooses it for
accepted connections and the mesh for dialled ones (see `Dial`).
"""

from dataclasses import dataclass, field
from typing import NewType

from weavepy.base.effects import LogLine
from weavepy.base.names import PeerName, PeerUid, ShortId

LinkId = NewType("LinkId", int)

# --- for the TCP shell -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dial:
    """Open a TCP connection. Answer with `handle_link_opened` or `handle_dial_failed`."""

    link: LinkId
    host: str
    """An IP address or a host name, resolved anew at each attempt."""
    port: int


@dataclass(frozen=True, slots=True)
class SendBytes:
    link: LinkId
    data: bytes


@dataclass(frozen=True, slots=True)
class CloseLink:
    """Flush what was sent, then close. No `handle_link_closed` follows."""

    link: LinkId
    reason: str


# --- for the overlay -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PeerConnected:
    """A control connection to this peer is up, and is the one both ends keep."""

    peer: PeerName
    remote_host: str
    """The address that the TCP connection has at the other end: a first guess for UDP."""
    remote_udp_port: int
    overlay_secret: bytes
    """32 bytes that only the two ends know, from the handshake; the root of the data keys."""
    dialled_by_us: bool


@dataclass(frozen=True, slots=True)
class PeerDisconnected:
    """The control connection is gone. The overlay session may live on: see `handle_overlay_up`."""

    peer: PeerName
    reason: str
    left: bool = False
    """It said goodbye for good: its link is gone from the routes, and its session can go too."""


@dataclass(frozen=True, slots=True)
class OverlayMessageReceived:
    """The overlay of a connected peer says this to ours; the mesh does not look inside."""

    peer: PeerName
    payload: bytes


@dataclass(frozen=True, slots=True)
class RoutesChanged:
    """How frames travel now. Complete, not a difference."""

    short_ids: dict[PeerName, ShortId]
    """Of ourself and of every reachable peer whose short id is undisputed."""
    unicast: dict[PeerName, PeerName]
    """Destination to the neighbour that is the next hop; only reachable peers."""
    broadcast: dict[PeerName, tuple[PeerName, ...]]
    """Source (ourself included) to the neighbours that we pass its broadcasts on to."""
    relays: tuple[PeerName, ...]
    """The neighbours that have to pass our own broadcasts on."""
    mtus_bytes: dict[PeerName, int] = field(default_factory=dict)
    """The peers whose containers take smaller packets than ours may send."""


@dataclass(frozen=True, slots=True)
class ReachableChanged:
    """Gossip and unicasts reach other peers than before, while frames travel as they did: as when
    a session has ended first, and the connection then. `RoutesChanged` says so by itself."""


# --- for the owners of channels --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GossipReceived:
    """Someone announced an update on a channel; its owner merges it."""

    channel: str
    source: PeerName
    update: bytes


@dataclass(frozen=True, slots=True)
class UnicastReceived:
    channel: str
    source: PeerName
    payload: bytes


# --- for everyone who watches peers ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PeerAdded:
    """A peer appeared in the topology, or came back with a new UID."""

    peer: PeerName
    uid: PeerUid
    nickname: str


@dataclass(frozen=True, slots=True)
class PeerRemoved:
    """A peer is not reachable any more over any link and was garbage collected."""

    peer: PeerName


@dataclass(frozen=True, slots=True)
class IdentityCopied:
    """Another router that lives has our identity. Either of us may be the copy."""

    text: str


@dataclass(frozen=True, slots=True)
class RememberTargets:
    """Addresses to dial at the next start; the shell stores them."""

    targets: tuple[str, ...]


MeshEffect = (
    Dial
    | SendBytes
    | CloseLink
    | PeerConnected
    | PeerDisconnected
    | OverlayMessageReceived
    | RoutesChanged
    | ReachableChanged
    | GossipReceived
    | UnicastReceived
    | PeerAdded
    | PeerRemoved
    | IdentityCopied
    | RememberTargets
    | LogLine
)

__all__ = [
    "CloseLink",
    "Dial",
    "GossipReceived",
    "IdentityCopied",
    "LinkId",
    "LogLine",
    "MeshEffect",
    "OverlayMessageReceived",
    "PeerAdded",
    "PeerConnected",
    "PeerDisconnected",
    "PeerRemoved",
    "ReachableChanged",
    "RememberTargets",
    "RoutesChanged",
    "SendBytes",
    "UnicastReceived",
]
