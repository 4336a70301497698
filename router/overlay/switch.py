"""The switch: where a frame goes, given its addresses and what was learnt from earlier ones.

Two inputs, one for frames that come from our bridge and one for frames that a peer brought. A
known address is one peer's; a group address or an unknown one goes along the broadcast tree of
the frame's source peer; a relay passes unicast on without looking into it.

Frames that come from the bridge teach "this address is local", those from a peer "it lives
behind the peer where the frame entered the overlay", and the latest wins: a container may move.
Only one thing is impossible: that a frame which we sent comes back, so those are dropped before
they teach anything. A frame from the bridge to an address that is itself local is the bridge
flooding what it forgot; its own ports have already got it.

An address which jumps to and fro between hosts is a layer-2 loop outside of us (or two
containers with one address). `MacTable.moves` counts, so that status can show it.

To *fast* peers, tunnels of the kernel take the frames of our bridge. What is for everyone has
reached their bridges already, so it goes to them only where they have to pass it on. In turn, a
peer that has a tunnel to us brings its broadcasts itself, by that or by sleeve. If others relay
them to us all the same, routes are changing, and the tunnel may have brought them as well.
"""

from collections.abc import Iterable

from router.overlay.flood import (
    HOST_COPIES_PER_S,
    PEER_COPIES_PER_S,
    PEERS_COPIES_PER_S,
    SOURCE_COPIES_PER_S,
    FloodLimiter,
)
from router.overlay.mac_table import MacTable
from router.sleeve.format import BROADCAST_SHORT_ID

DROP_LOCAL = -1
"""Instead of a short id: both addresses are on our own bridge."""

DROP_RUNT = -2
"""Instead of a short id: too short to be an Ethernet frame."""

DELIVER = 0
"""Instead of a next hop: it is for us."""

DROP_LOOPED = -3
"""Instead of a next hop: we sent it ourselves."""

DROP_NO_ROUTE = -4

DROP_HOPS = -5
"""It has been relayed too often: routes are changing, or someone is wrong about them."""

RELAYED_AFTER_S = 1.0
"""For so long after its end a tunnel counts as there: what it brought may still be on its way by
others as well."""

REASONS = {
    DROP_LOCAL: "local-to-local",
    DROP_RUNT: "runt-frame",
    DROP_LOOPED: "looped-back",
    DROP_NO_ROUTE: "no-route",
    DROP_HOPS: "hops-exceeded",
}


class Switch:
    def __init__(self, macs: MacTable) -> None:
        self.macs = macs
        self._floods = FloodLimiter(SOURCE_COPIES_PER_S, HOST_COPIES_PER_S)
        self._peer_floods = FloodLimiter(PEER_COPIES_PER_S, PEERS_COPIES_PER_S)
        self.ourself = 0
        """Our short id; 0 while the router has not said."""
        self.unicast: dict[int, int] = {}
        """Destination to next hop."""
        self.broadcast: dict[int, tuple[int, ...]] = {}
        """Source to the neighbours that its broadcasts go on to."""
        self.mtus_bytes: dict[int, int] = {}
        """The largest packets that go to destinations which take smaller ones than we may send."""
        self.fast: frozenset[int] = frozenset()
        """Peers that tunnels of the kernel lead to."""
        self.flood_to: tuple[int, ...] = ()
        """The neighbours that our own broadcasts go to."""
        self.pass_on_to: tuple[int, ...] = ()
        """Fast neighbours that our own broadcasts go to, only to be passed on."""
        self._relays: frozenset[int] = frozenset()
        self._tunnels: frozenset[int] = frozenset()
        """Peers whose broadcasts a tunnel may bring."""
        self._ended: dict[int, float] = {}
        """Until when a tunnel that has ended counts."""

    def install_routes(
        self, ourself: int, unicast: dict[int, int], broadcast: dict[int, list[int]]
    ) -> None:
        if ourself != self.ourself:
            self.macs.forget(self.ourself)
        self.ourself = ourself
        self.unicast = dict(unicast)
        self.broadcast = {source: tuple(nexts) for source, nexts in broadcast.items()}
        self._plan_floods()

    def set_fast(
        self, fast: Iterable[int], relays: Iterable[int], tunnels: Iterable[int], now: float
    ) -> None:
        """Name the fast peers, those of them that have to pass our broadcasts on, and all peers
        with a tunnel to us."""
        self.fast, self._relays = frozenset(fast), frozenset(relays)
        before, self._tunnels = self._tunnels, frozenset(tunnels)
        ended = {peer: until for peer, until in self._ended.items() if until > now}
        self._ended = ended | dict.fromkeys(before - self._tunnels, now + RELAYED_AFTER_S)
        self._plan_floods()

    def _plan_floods(self) -> None:
        neighbours = self.broadcast.get(self.ourself, ())
        self.flood_to = tuple(to for to in neighbours if to not in self.fast)
        self.pass_on_to = tuple(to for to in neighbours if to in self.fast & self._relays)

    def from_bridge(self, destination_mac: bytes, source_mac: bytes, now: float) -> int:
        """Learn from a frame of our bridge. Return the peer it is for, or a `DROP_`.

        `BROADCAST_SHORT_ID` means everyone.
        """
        if len(source_mac) != 6:
            return DROP_RUNT
        ourself = self.ourself
        if not ourself:
            return DROP_NO_ROUTE
        self.macs.learn(source_mac, ourself, now)
        if destination_mac[0] & 1:
            return BROADCAST_SHORT_ID
        peer = self.macs.lookup(destination_mac)
        if peer is None:
            return BROADCAST_SHORT_ID
        return DROP_LOCAL if peer == ourself else peer

    def may_flood(self, source_mac: bytes, frames: int, now: float) -> bool:
        """Whether a source on our bridge may send so many frames to everyone now."""
        copies = frames * (len(self.flood_to) + len(self.pass_on_to))
        return not copies or self._floods.admit(source_mac, copies, now)

    def may_spread(self, source: int, neighbours: int, now: float) -> bool:
        """Whether a broadcast of this peer may be delivered here and go on to so many."""
        return self._peer_floods.admit(source, 1 + neighbours, now)

    def from_peer(self, source: int, destination: int, hops_left: int) -> int:
        """Return `DELIVER`, the neighbour to relay to, or a `DROP_`. Not for broadcasts."""
        if source == self.ourself:
            return DROP_LOOPED
        if destination == self.ourself:
            return DELIVER
        if not hops_left:
            return DROP_HOPS
        return self.unicast.get(destination, DROP_NO_ROUTE)

    def may_come_twice(self, source: int, now: float) -> bool:
        """Whether a broadcast of this peer that another one brings may come by a tunnel as well."""
        return source in self._tunnels or self._ended.get(source, now) > now

    def broadcast_from(self, source: int, hops_left: int) -> tuple[int, ...]:
        """The neighbours that a broadcast of this source goes on to; none if it came too far."""
        return self.broadcast.get(source, ()) if hops_left else ()

    def learn_behind(self, source_mac: bytes, source: int, now: float) -> None:
        """Note that a delivered frame came from this address behind this peer."""
        if len(source_mac) == 6:
            self.macs.learn(source_mac, source, now)
