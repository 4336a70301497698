"""All that is known of the way to one peer, and how far its change from sleeve or back has come.

A change is a chain of questions and answers, so that no frame is sent twice or not at all:

    IDLE -> ANNOUNCED -> TAKING -> CARRYING     the datapath stops broadcasting to the peer, then
                                                the tunnel floods
    CARRYING -> READING -> LEARNING -> RETIRING -> DRAINING -> IDLE
                                                the datapath learns what lies behind the peer, then
                                                the tunnel falls silent, then the datapath goes on

Between two answers the path can only wait: what has changed meanwhile is looked at in IDLE and
CARRYING. A tunnel is exchanged for another only in IDLE.
"""

import enum
import math
from dataclasses import dataclass, field

from fastdp.core.effects import Tunnel
from fastdp.core.esp import Ends, KeyExchange
from fastdp.core.health import DEAD_S, Health
from fastdp.core.messages import Offer
from weavepy.base.names import PeerName


class Phase(enum.Enum):
    IDLE = "idle"
    """All frames go by sleeve. There may be a tunnel, for heartbeats."""
    ANNOUNCED = "announced"
    """`SetFast` with this peer is under way."""
    TAKING = "taking"
    """`Carry` is under way."""
    CARRYING = "carrying"
    READING = "reading"
    """`ReadMacs` is under way."""
    LEARNING = "learning"
    """`SetFast` with the MACs behind this peer is under way."""
    RETIRING = "retiring"
    """`Retire` is under way."""
    DRAINING = "draining"
    """What the TAP's queue held at the end is being sent, and must not go to this peer."""


@dataclass(slots=True)
class Path:
    peer: PeerName
    token: bytes
    """Ours: the peer's heartbeats must repeat it."""
    host: str = ""
    """Where the peer's sleeve session lives; empty without one."""
    connected: bool = False
    theirs: Offer | None = None
    """The peer's last offer."""
    offered: Offer | None = None
    """Our last one, over the connection that is up now."""
    repeat_at: float = math.inf
    """When to make it again, if the peer's has not come."""
    tunnel: Tunnel | None = None
    arranged: bool = False
    """The driver has it."""
    left: bool = False
    """The peer said goodbye for good."""
    phase: Phase = Phase.IDLE
    generation: int = -1
    """Of the `SetFast` that is waited for; -1: not yet sent."""
    is_news: bool = False
    """It carries, and a datapath that came after that has not seen it begin."""
    macs: tuple[bytes, ...] = ()
    """Behind the peer, as read when it began to retire."""
    keys: KeyExchange | None = None
    """Since there was a control connection or a message about them."""
    health: Health = field(default_factory=Health)
    beats_sent: int = 0
    beat_at: float = math.inf
    since: float = 0.0
    """Of the last change between sleeve and the tunnel, or of the tunnel's beginning."""
    refusal: str = ""
    """Why there shall be no tunnel."""
    failure: str = ""
    """Why the last change back to sleeve was made."""
    device_error: str = ""

    @property
    def is_fast(self) -> bool:
        """Our own broadcasts to the peer do not go by sleeve."""
        return self.phase is not Phase.IDLE

    @property
    def waits_for_datapath(self) -> bool:
        return self.phase in (Phase.ANNOUNCED, Phase.LEARNING) or (
            self.phase is Phase.CARRYING and self.is_news
        )

    @property
    def remote_host(self) -> str:
        """Of the tunnel; without one, of the session."""
        return self.host if self.tunnel is None else self.tunnel.remote_host

    @property
    def is_unused(self) -> bool:
        return not self.is_fast and self.tunnel is None and not (self.host or self.connected)

    @property
    def ends(self) -> Ends | None:
        """Of ESP's associations; None as long as the kernel is not to have any.

        Before that the driver has seen to it that nothing leaves or enters in clear.
        """
        tunnel = self.tunnel
        if tunnel is None or not tunnel.encrypted or not self.arranged or self.theirs is None:
            return None
        return Ends(tunnel.short_id, self.theirs.your_host, tunnel.remote_host)

    def mtu_bytes(self, ours: int) -> int:
        return ours if self.theirs is None else min(ours, self.theirs.mtu_bytes)

    def replace_tunnel(self, tunnel: Tunnel | None, now: float) -> None:
        assert self.phase is Phase.IDLE
        self.tunnel = tunnel
        self.arranged = False
        self.device_error = self.failure = ""
        self.beat_at = math.inf
        self.since = now
        self.health.restart()

    def reason(self, port: int, now: float) -> str:
        """Why frames do not go through the tunnel now; empty if they do."""
        if self.phase is Phase.CARRYING:
            return ""
        if self.refusal:
            return self.refusal
        if self.phase in (Phase.READING, Phase.LEARNING, Phase.RETIRING, Phase.DRAINING):
            return self.failure
        if self.phase is Phase.ANNOUNCED:
            return "the datapath has not agreed yet"
        if self.device_error:
            return f"no VXLAN device: {self.device_error}"
        if not self.arranged:
            return "the VXLAN device is being made"
        if self.tunnel is not None and self.tunnel.encrypted and self.keys is not None:
            if self.keys.error:
                return f"no ESP: {self.keys.error}"
            if not self.keys.is_agreed:
                return "ESP's keys are being agreed on"
        held_s = self.health.held_s(now)
        if held_s:
            return f"held down for {held_s:.0f} s after {self.health.failures} failures"
        return self.trouble(port, now) or self.failure or "VXLAN heartbeats are being tried"

    def trouble(self, port: int, now: float) -> str:
        """What is wrong with the heartbeats; empty if nothing is, or nothing can be known yet."""
        if self.device_error and not self.health.hears(now):
            return f"no VXLAN device: {self.device_error}"
        if now - self.since <= DEAD_S and self.phase is Phase.IDLE:
            return ""
        remote = self.remote_host
        if not self.health.hears(now):
            seen_at = self.theirs.your_host if self.theirs is not None else ""
            where = f" ({remote} sends its own to {seen_at})" if seen_at else ""
            return f"VXLAN heartbeats to {remote} get no answer: UDP {port} blocked?{where}"
        if not self.health.is_heard(now):
            return f"VXLAN heartbeats do not arrive at {remote}: UDP {port} blocked?"
        return ""


@dataclass(frozen=True, slots=True)
class FastRow:
    """What is shown of the way to one peer."""

    peer: PeerName
    state: str
    """Either "fastdp", "trying" (there is a tunnel, and frames go by sleeve) or "sleeve"."""
    reason: str
    """Why not better; empty for "fastdp"."""
    remote_host: str
    encrypted: bool
    """The tunnel is in ESP, or shall be."""
    mtu_bytes: int
    """The size of packets that heartbeats prove to pass: the smaller of both ends' overlay MTUs."""
    since_s: float
    failures: int
    heartbeats_sent: int
    heartbeats_received: int
