"""All that there is to see of a router: `weavepy status`, metrics and reports are made of this."""

from weavepy.client.schema.base import Struct
from weavepy.client.schema.containers import Attachment
from weavepy.client.schema.ipam import IpamStatus
from weavepy.client.schema.policy import PolicySummary


class ConnectionStatus(Struct):
    """One row of `status connections`: a control link or an attempt at one."""

    peer: str
    """Empty while it is not known who answers."""
    nickname: str
    address: str
    outbound: bool
    state: str
    """One of "dialling", "handshake", "connected" (TCP up, overlay not), "established", "orphaned"
    (TCP down, overlay up), "retrying", "failed"."""
    overlay: str
    """One of "fastdp", "sleeve" or empty."""
    encrypted: bool
    """Frames are, on their way to this peer."""
    overlay_mtu_bytes: int
    rtt_ms: float | None
    info: str
    """Why it is in this state, why it is not better, when the next attempt is due."""


class PeerStatus(Struct):
    name: str
    nickname: str
    uid: int
    version: int
    short_id: int
    ourself: bool
    reachable: bool
    route: str
    """One of "direct", "relayed via NICKNAME", "ourself" or "none"."""
    connections: list[str]
    """Each "-> NICKNAME" (we know it dialled) or "<- NICKNAME", with "(not established)"."""
    addresses: list[str]
    """Where it says that it can be dialled, likeliest first; not all need work from everywhere."""
    mtu_bytes: int = 0
    """The largest packets that its containers take and send; 0 if it has not said."""


class TargetStatus(Struct):
    target: str
    nickname: str
    """Of the peer that is expected there, or answered last; empty if nobody is known."""
    origin: str
    """One of "given", "remembered" or "discovered"."""
    state: str
    """One of "connected", "dialling", "waiting" or "suspended" (connection limit reached)."""
    next_attempt_s: float | None
    last_error: str


class CounterStatus(Struct):
    name: str
    value: int


class SessionStatus(Struct):
    peer: str
    nickname: str
    up: bool
    reason: str
    endpoint: str
    overlay_mtu_bytes: int
    path_mtu_bytes: int
    epoch: int
    rtt_ms: float
    frames_sent: int
    frames_received: int
    bytes_sent: int
    bytes_received: int
    drops: list[CounterStatus]
    records_sent: int = 0
    records_received: int = 0
    mended: int = 0
    """Datagrams from the peer that were lost on the way and made good by parity."""
    parity_sent: int = 0
    """Datagrams of parity sent to the peer, because it tells that some are lost."""


class DatapathStatus(Struct):
    running: bool
    pid: int
    uptime_s: float
    tap: str
    bridge: str
    mtu_bytes: int
    encrypted: bool
    offloads: list[str]
    macs: int
    sessions: list[SessionStatus]
    drops: list[CounterStatus]
    mac_moves: int = 0
    """How often an address was seen behind another peer than before: a container that moved, or, if
    it goes on, a loop outside of weavepy or an address used twice."""
    filtered: list[CounterStatus] = []
    """Frames of containers here that their filters dropped, by reason, as of some seconds ago."""
    refused_messages: int = 0
    """Of routers, by the datapath; never any but between two versions."""


class TunnelStatus(Struct):
    """The fast path to one connected peer, or why there is none."""

    peer: str
    nickname: str
    state: str
    """One of "fastdp" (frames go through it), "trying" (heartbeats do), or "sleeve"."""
    reason: str
    """Why not better; empty for "fastdp"."""
    remote: str
    """The underlay's address of the other end; empty without a session."""
    mtu_bytes: int
    """The size of inner packets that heartbeats prove to pass."""
    since_s: float
    """How long ago frames changed their way, or the tunnel was made."""
    failures: int
    """How often it failed soon after it came up; the more, the longer it is held down."""
    heartbeats_sent: int
    heartbeats_received: int
    frames_sent: int = 0
    frames_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    encrypted: bool = False
    """The tunnel is in ESP, or shall be."""


class FastdpStatus(Struct):
    mode: str
    """As launched: "auto", "ovs", "vxlan" or "off"."""
    reason: str
    """Why this host has no fast path to anybody; empty if it may have."""
    port: int
    """UDP, for VXLAN."""
    trusted_subnets: list[str]
    tunnels: list[TunnelStatus]
    refused: list[CounterStatus]
    """Datagrams to the port that were no current peer's, by reason, as of a second ago."""
    driver: str = ""
    """What makes tunnels, such as "ovs, kernel datapath" or "vxlan"; empty if nothing does."""
    better: str = ""
    """Why `auto` did not take a better one; empty if it did."""


class RouterStatus(Struct):
    version: str
    name: str
    nickname: str
    uid: int
    short_id: int
    pid: int
    uptime_s: float
    port: int
    encrypted: bool
    discovery: bool
    connection_limit: int
    peers: int
    established: int
    targets: int
    refused: list[CounterStatus]
    """Strangers refused since start, by reason."""
    warnings: list[str]
    """What an operator should see first: name collisions, wrong secrets, foreign rings."""


class Status(Struct):
    router: RouterStatus
    connections: list[ConnectionStatus]
    peers: list[PeerStatus]
    targets: list[TargetStatus]
    ipam: IpamStatus
    datapath: DatapathStatus
    fastdp: FastdpStatus | None = None
    """None from a router that is older than the fast path."""
    policy: PolicySummary | None = None
    """None while there is no network policy."""


class Report(Struct):
    """Everything for a bug report; holds no secret and no key."""

    status: Status
    attachments: list[Attachment]
    exposed: list[str]
    routes: dict[str, str]
    """Destination peer to next hop, both as "NAME(NICKNAME)"."""
    broadcast: dict[str, list[str]]
    """Source peer to the neighbours its broadcasts go on to."""
    options: dict[str, str]
    kernel: str
    python: str
