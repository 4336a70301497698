"""What the router and the datapath process say to each other.

They talk over a UNIX SEQPACKET socket in the run directory: one message, one packet, encoded
by `weavepy.base.wire`; larger ones come in parts (`router.sleeve.parts`). The datapath listens,
because it outlives the router. On each new connection it says which version of all this it speaks
(`router.sleeve.hello`) and then sends a `Snapshot` of what it has; the router compares that with
what it wants and sends only the difference. There is one router at a time: a newer connection
replaces an older one. When the router is gone, the datapath carries on with what it has, rekeying
included.
"""

import msgspec

from weavepy.base.wire import Decoder

MAX_MESSAGE_BYTES = 192 * 1024
"""In one packet: below the kernel's default for a SEQPACKET socket (net.core.wmem_default)."""


class Part(msgspec.Struct, frozen=True, tag=True):
    """A slice of the encoding of a message that is larger than a packet. Both ways."""

    number: int
    """From 0, without a gap, and with nothing else between them."""
    count: int
    data: bytes


class Epoch(msgspec.Struct, frozen=True):
    """One generation of a session's keys, agreed by the two routers over TCP.

    Both ends derive the two directions' keys from `secret` by label; `initiator` says which
    end of the labels we are. An epoch is received on from the moment it is installed, and
    sent on as soon as one authentic record came in on it.
    """

    secret: bytes
    """32 bytes, unique to this epoch."""
    initiator: bool
    local_index: int
    """32 bits, chosen by us: what datagrams to us on this epoch carry."""
    remote_index: int
    """32 bits, chosen by the peer: what datagrams to it on this epoch carry."""


class DropCount(msgspec.Struct, frozen=True):
    reason: str
    count: int


class SessionReport(msgspec.Struct, frozen=True, kw_only=True):
    """One peer's session as the datapath sees it."""

    peer: str
    up: bool
    """True while authentic records came in within the last `SESSION_DEAD_S` seconds."""
    reason: str
    """Why it is not up; empty while it is."""
    endpoint_host: str
    endpoint_port: int
    overlay_mtu_bytes: int
    """The largest inner IP packet that fits one datagram on the path as probed."""
    path_mtu_bytes: int
    """The largest underlay IP packet that was seen to pass; 0 before the first probe."""
    epoch: int
    """How many times this session's keys have been replaced since it came up."""
    rtt_ms: float
    span: int = 0
    """How many datagrams a record to this peer may span now; 0: it did not say that it can."""
    losses: int = 0
    """Records to this peer that did not reach it, as far as it told; parity may have made them
    good."""
    mended: int = 0
    """Datagrams from this peer that were lost on the way and made good by parity."""
    parity_sent: int = 0
    """Datagrams of parity sent to it."""
    frames_sent: int
    frames_received: int
    bytes_sent: int
    bytes_received: int
    records_sent: int
    records_received: int
    drops: list[DropCount]


# --- router to datapath ----------------------------------------------------------------------


class InstallEpoch(msgspec.Struct, frozen=True, tag=True):
    """Add a session or give it a new generation of keys. The endpoint may be a mere guess.

    The short id is 0 while it is not known; `InstallRoutes` tells it later.
    """

    peer: str
    short_id: int
    endpoint_host: str
    endpoint_port: int
    epoch: Epoch


class RemoveSession(msgspec.Struct, frozen=True, tag=True):
    peer: str


class InstallRoutes(msgspec.Struct, frozen=True, tag=True):
    """Replace all routes. Short ids stand for peers; neighbours are named by short id too."""

    ourself: int
    unicast: dict[int, int]
    """Destination to next hop."""
    broadcast: dict[int, list[int]]
    """Source, ourself included, to the neighbours its broadcasts go on to."""
    short_ids: dict[int, str]
    """Every short id used above to its peer's name."""
    mtus_bytes: dict[int, int] = {}
    """Destination to the largest packet that its containers take, where that is less than here."""


class SetMtu(msgspec.Struct, frozen=True, tag=True):
    """The overlay MTU in force on this host: the TAP's, and what DF packets are held against."""

    mtu_bytes: int
    underlay_mtu_bytes: int = 0
    """What the path to a peer may carry at most; 0: as before."""


class ForgetMacs(msgspec.Struct, frozen=True, tag=True):
    """A peer is gone: whatever was learnt behind it will be learnt anew."""

    short_id: int


class SetFastPeers(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """To these neighbours, and no others, the kernel's tunnels take the frames of our bridge.

    Our own broadcasts are no longer sent to them from the moment `FastPeersSet` answers this.
    Frames that still come to us for one address behind them are sent as before.
    """

    generation: int
    """Comes back in the answer."""
    fast: list[int]
    """Short ids."""
    relays: list[int]
    """Those of `fast` that have to pass our broadcasts on. These still get them, but not for
    their own bridge."""
    tunnels: list[int] = []
    """Peers that may send us frames by a tunnel. What others relay of their broadcasts is not for
    our bridge."""
    learn: dict[int, list[str]]
    """Short id to addresses that are known to be behind it: at most `MAX_FAST_MACS` in all."""


class Report(msgspec.Struct, frozen=True, tag=True):
    """Ask for a `Snapshot`."""


class StartCapture(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Copy frames, as a pcapng file, to the SEQPACKET socket that comes with this message.

    A block is a packet; the end of the file is the end of the connection.
    """

    number: int
    """The router's name for it."""
    short_id: int
    """Only frames from and to this peer's host; 0: all."""
    count: int
    """End after so many frames; 0: not before `StopCapture`."""
    snap_bytes: int
    """As much is kept of each frame."""


class StopCapture(msgspec.Struct, frozen=True, tag=True):
    number: int


class Shutdown(msgspec.Struct, frozen=True, tag=True):
    """Close the TAP and end. Only `weavepy stop` and `reset` send this."""


# --- datapath to router ----------------------------------------------------------------------


class MacEntry(msgspec.Struct, frozen=True):
    mac: str
    short_id: int
    age_s: float


class Snapshot(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """All that the datapath has. Sent on connection and in answer to `Report`."""

    pid: int
    version: str
    uptime_s: float
    tap: str
    udp_port: int
    mtu_bytes: int
    encrypted: bool
    offloads: list[str]
    """Those in use, e.g. "tap-tso", "tap-fair", "udp-gso", "udp-gro"; empty: the portable path."""
    ourself: int
    sessions: list[SessionReport]
    routes: InstallRoutes
    macs: list[MacEntry]
    """The newest 256 at most."""
    mac_count: int
    drops: list[DropCount]
    """Those that belong to no session: unknown index, no route, TAP queue full ..."""
    mac_moves: int = 0
    """How often an address was seen behind another peer than before."""
    refused_messages: int = 0
    """Messages of routers that made no sense."""
    fast: list[int] = []
    """As in the newest `SetFastPeers`."""


class SessionUp(msgspec.Struct, frozen=True, tag=True):
    """Authentic records go both ways (our probes are answered)."""

    peer: str
    endpoint_host: str
    endpoint_port: int


class SessionDown(msgspec.Struct, frozen=True, tag=True):
    peer: str
    reason: str


class EndpointRoamed(msgspec.Struct, frozen=True, tag=True):
    peer: str
    endpoint_host: str
    endpoint_port: int


class PathMtuChanged(msgspec.Struct, frozen=True, tag=True):
    peer: str
    path_mtu_bytes: int
    overlay_mtu_bytes: int


class FastPeersSet(msgspec.Struct, frozen=True, tag=True):
    """`SetFastPeers` is in force: the tunnels named by it may begin to carry frames."""

    generation: int
    macs: dict[int, list[str]]
    """Of each fast peer, the addresses known behind it: the newest, `MAX_FAST_MACS` in all."""


class MacsOnTap(msgspec.Struct, frozen=True, tag=True):
    """Frames came to us for these addresses, although a tunnel leads to their peers."""

    macs: dict[int, list[str]]
    """Short id to addresses; few, and each once a second or so."""


ToSteering = (
    InstallEpoch
    | RemoveSession
    | InstallRoutes
    | SetMtu
    | ForgetMacs
    | SetFastPeers
    | Report
    | Shutdown
)
ToDatapath = ToSteering | StartCapture | StopCapture
FromDatapath = (
    Snapshot | SessionUp | SessionDown | EndpointRoamed | PathMtuChanged | FastPeersSet | MacsOnTap
)

to_datapath_decoder = Decoder(ToDatapath | Part, "message to the datapath")
from_datapath_decoder = Decoder(FromDatapath | Part, "message from the datapath")

SESSION_DEAD_S = 3.0
"""A session that got no authentic record for this long is down. Probes go out each second
when there is nothing else to send, so this is three lost in a row."""

MAX_FAST_MACS = 8192
"""Addresses in one message about fast peers: 18 bytes each, within `MAX_MESSAGE_BYTES`."""
