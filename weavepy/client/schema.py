"""The control API, version 1: every request and answer, in one place.

JSON over HTTP on the UNIX socket in the run directory. `docs/api.json` is generated from this
file. A request that fails answers with `Failure` and a status of 400 (asked wrongly: exit code
2), 404 (no such thing), 409 (conflicts with what is), 503 (not now) or 504 (waited in vain).

| method and path           | request           | answer          |
|---------------------------|-------------------|-----------------|
| GET  /v1/status           |                   | Status          |
| GET  /v1/report           |                   | Report          |
| POST /v1/connect          | ConnectRequest    | TargetsAnswer   |
| POST /v1/forget           | ForgetRequest     | TargetsAnswer   |
| POST /v1/attach           | AttachRequest     | Attachment      |
| POST /v1/detach           | DetachRequest     | DetachAnswer    |
| POST /v1/expose           | ExposeRequest     | ExposeAnswer    |
| POST /v1/hide             | HideRequest       | ExposeAnswer    |
| GET  /v1/attachments      |                   | AttachmentList  |
| GET  /v1/ipam             |                   | IpamStatus      |
| POST /v1/ipam/allocate    | AllocateRequest   | AddressAnswer   |
| POST /v1/ipam/claim       | ClaimRequest      | AddressAnswer   |
| POST /v1/ipam/release     | ReleaseRequest    | ReleaseAnswer   |
| POST /v1/ipam/lookup      | LookupRequest     | LookupAnswer    |
| POST /v1/ipam/prime       | PrimeRequest      | IpamStatus      |
| GET  /v1/ipam/addresses   |                   | AddressList     |
| GET  /v1/ipam/history     |                   | HistoryAnswer   |
| GET  /v1/ipam/check       |                   | CheckAnswer     |
| POST /v1/ipam/rmpeer      | RmpeerRequest     | RmpeerAnswer    |
| POST /v1/cni/add          | CniAddRequest     | CniAddAnswer    |
| POST /v1/cni/del          | CniDelRequest     | CniDelAnswer    |
| POST /v1/cni/check        | CniCheckRequest   | CniCheckAnswer  |
| POST /v1/cni/gc           | CniGcRequest      | CniGcAnswer     |
| POST /v1/cni/status       | CniStatusRequest  | CniStatusAnswer |
| POST /v1/capture          | CaptureRequest    | Pcapng          |
| POST /v1/bench            | BenchRequest      | BenchAnswer     |
| GET  /v1/policy           |                   | PolicyStatus    |
| POST /v1/policy/apply     | PolicyObjects     | PolicyAnswer    |
| POST /v1/policy/delete    | PolicyObjects     | PolicyAnswer    |
| POST /v1/policy/explain   | ExplainRequest    | ExplainAnswer   |
| POST /v1/policy/matrix    | MatrixRequest     | MatrixAnswer    |
| POST /v1/policy/lint      | LintRequest       | LintAnswer      |
| POST /v1/policy/trace     | TraceRequest      | PolicyDrops     |
| POST /v1/stop             | StopRequest       | Done            |
| POST /v1/reset            | ResetRequest      | Done            |
"""

from typing import Any

import msgspec


class Struct(msgspec.Struct, kw_only=True):
    """A JSON object; unknown members are ignored."""


class Failure(Struct):
    """Why a request failed, as one line that says what to do."""

    code: str
    """One of "usage", "not-found", "conflict", "not-ready", "timeout", "internal"."""
    message: str


class Done(Struct):
    message: str


# --- mesh --------------------------------------------------------------------------------------


class ConnectRequest(Struct):
    targets: list[str]
    """Each "host", "host:port" or "[v6]:port"."""
    replace: bool = False
    """Forget all other given targets."""


class ForgetRequest(Struct):
    targets: list[str]


class TargetsAnswer(Struct):
    targets: list[str]


# --- containers and host -----------------------------------------------------------------------


class AttachRequest(Struct):
    """Exactly one of `namespace`, `pid` and `container` is given."""

    namespace: str = ""
    """The name of a network namespace (as `ip netns` lists it) or a path to one."""
    pid: int = 0
    container: str = ""
    """A containerd or Docker id, or an unambiguous beginning of one."""
    addresses: list[str] = []
    """Each "net:default", "net:CIDR", "ip:ADDRESS/LENGTH"; none means "net:default"."""
    interface: str = "ethwe"
    """The interface's name inside the namespace."""
    labels: dict[str, str] = {}
    """What network policies know it by, with the next two; none of them leaves what is known."""
    pod_namespace: str = ""
    pod_name: str = ""
    timeout_s: float = 30.0


class DetachRequest(Struct):
    namespace: str = ""
    pid: int = 0
    container: str = ""
    addresses: list[str] = []
    """Only these; none means all, and the interface goes too."""


class DetachAnswer(Struct):
    released: list[str]


class Attachment(Struct):
    id: str
    """What the addresses belong to in the ring: a container id, or the namespace's path."""
    namespace: str
    interface: str
    host_interface: str
    mac: str
    addresses: list[str]
    """Each "ADDRESS/LENGTH"."""
    pod: str = ""
    """The pod that it was made for, as "NAMESPACE/NAME", if a CNI runtime named one."""


class AttachmentList(Struct):
    attachments: list[Attachment]


class ExposeRequest(Struct):
    addresses: list[str] = []
    masquerade: bool = True


class HideRequest(Struct):
    addresses: list[str] = []


class ExposeAnswer(Struct):
    addresses: list[str]


# --- CNI -----------------------------------------------------------------------------------------


class CniAttachment(Struct):
    """What names an attachment: a network, a container and an interface in it."""

    network: str
    container: str
    interface: str
    kind: str
    """Either "interface", or "addresses" if another plugin makes the interface."""


class CniRoute(Struct):
    dst: str
    gw: str = ""
    """Empty for the gateway of the addresses of that family, or for none."""


class CniAddress(Struct):
    address: str
    """As "ADDRESS/LENGTH"."""
    gateway: str = ""


class CniAddRequest(CniAttachment):
    namespace: str
    """The path of the container's network namespace."""
    subnet: str = ""
    """Within the universe; empty means the default subnet."""
    ips: list[str] = []
    """These very addresses, each as "ADDRESS" (with the subnet's length) or "ADDRESS/LENGTH"."""
    given: list[CniAddress] = []
    """Addresses that another IPAM plugin gave; then none are taken from the ring."""
    mac: str = ""
    mtu: int = 0
    """0 means the overlay's."""
    hairpin: bool = False
    """The bridge may send a frame back to the container that it came from."""
    is_default_gateway: bool = True
    """The host is on the network as well, and the container's way to everywhere else."""
    masquerade: bool = True
    """What leaves the network by the gateway has the host's own address."""
    gateway: str = ""
    """Another one than this host."""
    routes: list[CniRoute] = []
    """In addition to the default route."""
    pod: str = ""
    """As "NAMESPACE/NAME", if it is for a pod of Kubernetes."""
    pod_uid: str = ""
    timeout_s: float = 30.0


class CniAddAnswer(Struct):
    host_interface: str
    """Empty, as are the MACs, for "addresses"."""
    host_mac: str
    mac: str
    mtu: int
    addresses: list[CniAddress]
    routes: list[CniRoute]


class CniDelRequest(CniAttachment):
    """Succeeds for what is not attached."""

    namespace: str = ""


class CniDelAnswer(Struct):
    released: list[str]


class CniPrevious(Struct):
    """What ADD answered, as far as it concerns this interface."""

    mac: str = ""
    addresses: list[str] = []
    routes: list[CniRoute] = []


class CniCheckRequest(CniAttachment):
    namespace: str
    previous: CniPrevious


class CniCheckAnswer(Struct):
    findings: list[str]
    """What is not as ADD had left it; things that were added since are no finding."""


class CniValid(Struct):
    container: str
    interface: str


class CniGcRequest(Struct):
    """Free what this network has for any other attachment than these."""

    network: str
    kind: str
    valid: list[CniValid]


class CniGcAnswer(Struct):
    freed: list[str]
    """The attachments, each as "CONTAINER/INTERFACE"."""
    errors: list[str]
    """Of those that could not be freed; the others were."""


class CniStatusRequest(Struct):
    network: str
    subnet: str = ""


class CniStatusAnswer(Struct):
    code: int
    """0 if an attachment would succeed, 50 if none can, 51 if running containers suffer as well."""
    message: str


# --- ipam ----------------------------------------------------------------------------------------


class AllocateRequest(Struct):
    owner: str
    subnet: str = ""
    """CIDR within the universe; empty means the default subnet."""
    timeout_s: float = 30.0


class ClaimRequest(Struct):
    owner: str
    address: str
    """As "ADDRESS" or "ADDRESS/LENGTH"."""
    timeout_s: float = 30.0


class AddressAnswer(Struct):
    owner: str
    address: str
    """As "ADDRESS/LENGTH", with the length of the subnet."""


class ReleaseRequest(Struct):
    """All addresses of `owner`, or only `address`."""

    owner: str = ""
    address: str = ""


class ReleaseAnswer(Struct):
    released: list[str]


class LookupRequest(Struct):
    """By owner or by address; exactly one is given."""

    owner: str = ""
    address: str = ""


class LookupAnswer(Struct):
    addresses: list[str]
    """Those of the owner, or the one looked up if it is in use here."""
    owner: str
    """Who uses the address on this host; empty if nobody does."""
    peer: str
    """The peer whose range the address lies in; empty while there is no ring."""
    nickname: str


class PrimeRequest(Struct):
    timeout_s: float = 60.0


class AddressInUse(Struct):
    address: str
    """As "ADDRESS/LENGTH"."""
    owner: str
    kind: str
    """Either "attachment" (freed when its interface is gone) or "manual"."""
    interface: str
    """The host's end of it; empty if there is none."""
    since: float
    """Unix time; 0 if it is not known."""


class AddressList(Struct):
    addresses: list[AddressInUse]


class HistoryEntry(Struct):
    at: float
    """Unix time."""
    kind: str
    """One of "ring-made", "adopted", "donated", "received", "merged", "took-over", "taken-over",
    "handed-over", "lost"."""
    ranges: list[str]
    """Each "FIRST-LAST"; the first few."""
    addresses: int
    peer: str
    reason: str


class HistoryAnswer(Struct):
    events: list[HistoryEntry]
    """The newest first."""


class CheckFinding(Struct):
    what: str
    """One of "ring", "store", "interface"."""
    text: str


class CheckAnswer(Struct):
    findings: list[CheckFinding]
    """Empty if ring, store and interfaces say the same."""
    addresses: int
    """How many addresses in use were compared."""


class RmpeerRequest(Struct):
    """Take over the ranges of a peer that is gone for good."""

    peer: str
    """Its name or nickname."""
    force: bool = False
    """Without the consent of a majority."""
    timeout_s: float = 10.0


class RmpeerAnswer(Struct):
    peer: str
    message: str
    """What was done, and what remains to be known."""


class RangeOwner(Struct):
    peer: str
    nickname: str
    addresses: int
    """How many of the universe it owns."""
    share: float
    free: int | None
    """As it last told; None if it never did."""
    reachable: bool
    ranges: list[str]
    """Each "FIRST-LAST"; the first 32 at most."""


class IpamWaiting(Struct):
    owner: str
    what: str
    """What is asked for."""
    reason: str
    """What it waits for and what the operator can do."""
    since_s: float


class IpamStatus(Struct):
    state: str
    """One of "none" (disabled), "idle" (no ring yet, but nothing hinders making it), "waiting"
    (for a ring), "ready"."""
    reason: str
    """What a ring is waited for; empty when ready."""
    universe: str
    default_subnet: str
    ring_id: str
    entries: int
    allocated: int
    cooling: int
    free: int
    """Of the ranges that this host owns."""
    owners: list[RangeOwner]
    frozen: list[str]
    """Ranges under contradiction, each "FIRST-LAST"."""
    waiting: list[IpamWaiting]
    warnings: list[str]
    """Each a sentence: a foreign ring that was met, and the way out of it."""
    picture: list[int] = []
    """The universe in equal slices: of each, which of `owners` (counted from 0) has the most of
    it, -1 if part of it is frozen, -2 if nobody is known to own it. Empty without a ring."""


# --- status --------------------------------------------------------------------------------------


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
    policy: "PolicySummary | None" = None
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


# --- looking closer ------------------------------------------------------------------------------


class CaptureRequest(Struct):
    """Copy the frames that pass the overlay's port on this host's bridge, from now on."""

    peer: str = ""
    """Name or nickname: only frames from and to its host; empty: all."""
    count: int = 0
    """End after so many frames; 0: when the time is over or the caller closes the connection."""
    seconds: float = 0.0
    """0: an hour."""
    snap_bytes: int = 262144
    """As much is kept of each frame."""


class Pcapng(Struct):
    """Not JSON but a pcapng file, as it grows; the answer ends where the connection ends."""


class BenchRequest(Struct):
    """Measure between this host and another, each with a container that exists meanwhile."""

    peer: str
    """Name or nickname."""
    seconds: float = 2.0
    """For each of the TCP runs."""


class BenchAnswer(Struct):
    peer: str
    nickname: str
    route: str
    """As in `PeerStatus`."""
    seconds: float
    tcp_gbps: float
    """One stream to the peer, in 10^9 bits per second, as received."""
    tcp_reverse_gbps: float
    """The same from the peer to us."""
    small_sent_pps: float
    """Datagrams of 64 bytes, per second, as many as one process sends."""
    small_received_pps: float
    """Those that arrived."""
    rtt_ms_p50: float
    """Round trips of 64 bytes between two processes."""
    rtt_ms_p99: float
    rtt_lost: int
    """Of 200."""


# --- life ----------------------------------------------------------------------------------------


class StopRequest(Struct):
    """`keep_datapath`: containers go on talking; a router started later adopts everything."""

    keep_datapath: bool = False


class ResetRequest(Struct):
    """Leave the mesh for good: hand ranges over, then forget identity, ring and peers."""

    timeout_s: float = 10.0


# --- policy --------------------------------------------------------------------------------------


class PolicyObjects(Struct):
    objects: list[dict[str, Any]]
    """As Kubernetes writes them: NetworkPolicy, Namespace, Pod."""


class PolicyChange(Struct):
    kind: str
    namespace: str
    name: str
    done: str
    """One of "created", "changed", "unchanged", "deleted", "absent"."""
    fault: str
    """Why a policy cannot be compiled: it is in force, and allows nothing."""


class PolicyAnswer(Struct):
    changes: list[PolicyChange]


class PolicyRow(Struct):
    namespace: str
    name: str
    selector: str
    directions: list[str]
    pods: int
    """How many it selects on this host."""
    fault: str


class PodDrops(Struct):
    namespace: str
    name: str
    ingress: int
    """Packets to it that no policy allowed, since it has been isolated."""
    egress: int


class PolicyPassed(Struct):
    """Connections from or to pods of this host that a policy let through.

    Counted when they begin, and again when policies have changed; for each of the policies that
    name the peer.
    """

    namespace: str
    name: str
    ingress: int
    egress: int


class Durations(Struct):
    bounds_s: list[float]
    counts: list[int]
    """Up to each of the bounds and above the one before it; the last is those above all."""
    sum_s: float


class PolicySummary(Struct):
    policies: int
    faulty: int
    """Of them, those that cannot be compiled."""
    repairs: int
    drops: list[PodDrops]
    """Of isolated pods on this host."""
    passed: list[PolicyPassed]
    rules: int
    """In the packet filter."""
    enforced: Durations
    """From when a change was heard of to when it was in the packet filter."""


class PolicyPod(Struct):
    namespace: str
    name: str
    addresses: list[str]
    labels: dict[str, str]
    local: bool
    isolated: list[str]
    """Directions."""
    drops: int
    """Packets from or to it that no policy allowed; only of pods on this host."""


class PolicyStatus(Struct):
    enforced: bool
    """If not, there is no policy, and packets are not looked at."""
    policies: list[PolicyRow]
    pods: list[PolicyPod]
    pods_left_out: int
    """Of other hosts: in a large cluster only the pods of this one are listed."""
    repairs: int
    """How often what somebody had done to the packet filter was undone."""
    policies_left_out: int = 0
    """In a large cluster only those are listed that select pods of this host or have a fault."""


class TraceRequest(Struct):
    """Tell of packets that network policies drop on this host, from now on."""

    source: str = ""
    """Only connections from this pod or address; empty: from anybody."""
    destination: str = ""
    direction: str = ""
    """ "ingress" or "egress": only drops by that isolation."""
    count: int = 0
    """End after so many; 0: when the caller closes the connection."""


class PolicyDrop(Struct):
    time: float
    """Seconds since 1970."""
    direction: str
    source: str
    """Of the connection, as NAMESPACE/NAME (ADDRESS) or as an address."""
    destination: str
    service: str
    """Like "80/tcp"; for what has no ports "icmp", "igmp" or the protocol's number."""
    place: str
    """Of the packet: "new", "reply", "group" (to a group or to everybody) or "unjudged"."""
    policies: list[str]
    """That isolate the pod in this direction, as NAMESPACE/NAME."""
    why: list[str]
    """As `explain` has it."""
    left_out: int = 0
    """So many before this one were dropped faster than they were read."""


class PolicyDrops(Struct):
    """Not one answer but a PolicyDrop per line, as they happen; ends where the connection ends."""


class ExplainRequest(Struct):
    source: str
    """A pod (NAME, NAMESPACE/NAME) or an address."""
    destination: str
    port: str
    """Like "80/tcp", or "icmp"."""


class ExplainAnswer(Struct):
    allowed: bool
    lines: list[str]


class MatrixRequest(Struct):
    port: str
    namespace: str = ""
    """Only pods of this one."""


class MatrixAnswer(Struct):
    pods: list[str]
    allowed: list[list[bool]]
    """From each pod to each."""


class LintRequest(Struct):
    namespace: str = ""
    """Only policies of this one."""


class LintAnswer(Struct):
    findings: list[str]
    is_cut: bool = False
    """There may be more."""
