"""What must hold of the fast path, seen from outside: from the wires, the bridges and the clock.

For each host and each other host there are two clocks. One runs while VXLAN is blocked between
them and the host's router could do something about it; when it shows `FALLBACK_S`, the tunnel must
carry no more. The other runs while nothing at all is wrong between them; when it shows `RETURN_S`,
the tunnel must carry, unless it is held down for flapping. Whatever is neither fast nor healthy
must have a reason that an operator can read.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.sim.checkers import Checkers
from tests.sim.network import Network
from tests.sim.world import World

if TYPE_CHECKING:
    from tests.sim.peers import Host

LOOK_S = 0.5
FALLBACK_S = 5.0
RETURN_S = 10.0
SLEEVE_TRUSTED_S = 4.0
"""After so long without a fault, sleeve's sessions and routes are what they should be."""

ARRIVES_S = 0.5
BEYOND_S = 0.3
"""How long before a frame was sent a change may have been that it is excused for."""


@dataclass
class Pair:
    """What `giver` does with frames for `taker`."""

    blocked_since: float | None = None
    healthy_since: float | None = None
    sleeve_since: float | None = None
    lives: tuple[int, ...] = ()
    """Which routers and datapaths it was with: others begin anew."""
    probed: bool = False
    """A frame was sent since VXLAN is blocked."""


@dataclass
class Steady:
    """A router that runs, and nobody has stopped it for a moment."""

    run: int = -1
    since: float = 0.0
    paused_at: float = 0.0
    """When it was seen standing still last: it hears later what came meanwhile."""


@dataclass
class FastWatch:
    world: World
    network: Network
    checkers: Checkers
    hosts: "list[Host]"
    fallbacks: int = 0
    """How often a pair was seen on sleeve because VXLAN was blocked."""
    returns: int = 0
    held: int = 0
    pairs: dict[tuple[int, int], Pair] = field(default_factory=dict)
    _steady: dict[int, Steady] = field(default_factory=dict)

    def start(self) -> None:
        self.world.later(LOOK_S, self._look)

    def _look(self) -> None:
        self.world.later(LOOK_S, self._look)
        for host in self.hosts:
            self._look_at_router(host)
        for giver in self.hosts:
            for taker in self.hosts:
                if giver is not taker:
                    pair = self.pairs.setdefault((giver.number, taker.number), Pair())
                    self._look_at_pair(pair, giver, taker)

    def _look_at_router(self, host: "Host") -> None:
        steady = self._steady.setdefault(host.number, Steady())
        works = host.running and host.paused_until <= self.world.now and host.datapath is not None
        if not works or steady.run != host.run:
            steady.run = host.run if works else -1
            steady.since = self.world.now
        if host.paused_until > self.world.now:
            steady.paused_at = self.world.now

    def _look_at_pair(self, pair: Pair, giver: "Host", taker: "Host") -> None:
        now = self.world.now
        lives = giver.lives + taker.lives
        if pair.lives != lives:
            pair.lives = lives
            pair.healthy_since = pair.sleeve_since = None
        pair.blocked_since = self.network.vxlan_shut_at(giver, taker)
        pair.healthy_since = _since(pair.healthy_since, self._is_healthy(giver, taker), now)
        pair.sleeve_since = _since(pair.sleeve_since, self._sleeve_works(giver, taker), now)
        carries = giver.kernel is not None and giver.kernel.carries_to(taker.name)
        self._check_reason(giver, taker, carries)
        if pair.blocked_since is None:
            pair.probed = False
        elif now - self._could_act_since(pair.blocked_since, giver, taker) > FALLBACK_S:
            if carries and self._steady[giver.number].run == giver.run:
                self._fail(giver, taker, f"still goes by VXLAN, blocked for {FALLBACK_S:g} s")
            self._probe_sleeve(pair, giver, taker)
        if pair.healthy_since is not None and now - pair.healthy_since > RETURN_S and not carries:
            self._check_held(giver, taker)

    def _could_act_since(self, blocked_since: float, giver: "Host", taker: "Host") -> float:
        ours, theirs = self._steady[giver.number], self._steady[taker.number]
        return max(blocked_since, ours.since, theirs.paused_at)

    # --- what the world is like ------------------------------------------------------------------

    def _sleeve_works(self, giver: "Host", taker: "Host") -> bool:
        """Nothing is wrong with anything but VXLAN, and the two are neighbours."""
        network = self.network
        return (
            not network.udp_loss
            and all(self._steady[host.number].run == host.run for host in self.hosts_alive())
            and network.udp_is_open(giver, taker)
            and network.udp_is_open(taker, giver)
            and _neighbours(giver, taker)
            and _neighbours(taker, giver)
        )

    def _is_healthy(self, giver: "Host", taker: "Host") -> bool:
        return (
            self.network.vxlan_shut_at(giver, taker) is None
            and self._sleeve_works(giver, taker)
            and all(_is_willing(host) for host in (giver, taker))
            and all(_is_whole(host, self.world.now) for host in (giver, taker))
            and not _is_stalled(giver, taker, self.world.now)
            and not _is_stalled(taker, giver, self.world.now)
        )

    def hosts_alive(self) -> "list[Host]":
        return [host for host in self.hosts if not host.gone]

    # --- verdicts --------------------------------------------------------------------------------

    def _check_reason(self, giver: "Host", taker: "Host", carries: bool) -> None:
        row = _row(giver, taker)
        if row is not None and row[0] != "fastdp" and not row[1]:
            self._fail(giver, taker, f"is {row[0]} for no reason")

    def _check_held(self, giver: "Host", taker: "Host") -> None:
        """Either end may hold the tunnel down; the other end carries all the same."""
        row = _row(giver, taker)
        if row is not None and row[1].startswith("held down"):
            self.held += 1
            return
        self._fail(giver, taker, f"is not fast in {RETURN_S:g} s with nothing wrong: {row}")

    def _probe_sleeve(self, pair: Pair, giver: "Host", taker: "Host") -> None:
        """Frames must go by sleeve now."""
        trusted = pair.sleeve_since is not None and (
            self.world.now - pair.sleeve_since > SLEEVE_TRUSTED_S
        )
        if pair.probed or not trusted:
            return
        pair.probed = True
        self.fallbacks += 1
        sent_at = self.world.now
        number = self.send(giver, None)
        self.world.later(ARRIVES_S, self._check_arrival, number, giver, taker, sent_at)

    def _check_arrival(self, number: int, giver: "Host", taker: "Host", sent_at: float) -> None:
        pair = self.pairs[giver.number, taker.number]
        if taker.label in self.checkers.deliveries[number] or pair.sleeve_since is None:
            return
        if not self.changed_since(sent_at - BEYOND_S):
            self._fail(giver, taker, f"is blocked, and sleeve did not bring frame {number}")

    def changed_since(self, when: float) -> bool:
        """Frames may be lost while a path changes; which, only the path's ends know."""
        return any(
            (host.kernel is not None and host.kernel.changed_at >= when)
            or (host.datapath is None or host.datapath.changed_at >= when)
            for host in self.hosts_alive()
        )

    def send(self, giver: "Host", taker: "Host | None") -> int:
        number = len(self.checkers.deliveries) + 1
        self.checkers.deliveries[number] = {}
        giver.send_frame(number, b"\xff" * 6 if taker is None else taker.mac)
        return number

    def _fail(self, giver: "Host", taker: "Host", what: str) -> None:
        self.checkers.fail(f"{giver.label} to {taker.label} {what}")


def _since(since: float | None, holds: bool, now: float) -> float | None:
    if not holds:
        return None
    return now if since is None else since


def _is_willing(host: "Host") -> bool:
    kernel = host.kernel
    return host.settings.fastdp == "vxlan" and kernel is not None and not kernel.error


def _is_whole(host: "Host", now: float) -> bool:
    """Nobody has deleted a tunnel just now."""
    return host.kernel is not None and host.kernel.harmed_at < now - 2 * LOOK_S


def _neighbours(giver: "Host", taker: "Host") -> bool:
    """They have a direct link, and frames can use it."""
    mesh, datapath = giver.mesh, giver.datapath
    if mesh is None or datapath is None or mesh.routes.unicast.get(taker.name) != taker.name:
        return False
    session = datapath.sessions.get(taker.name)
    return session is not None and session.up and not giver.slow_bytes_per_s


def _is_stalled(giver: "Host", taker: "Host", now: float) -> bool:
    return any(
        end.other is not None and end.other.host is giver and end.stalled_until > now
        for end in taker.links.values()
    )


def _row(giver: "Host", taker: "Host") -> tuple[str, str] | None:
    if giver.node is None or giver.node.paths is None:
        return None
    for row in giver.node.paths.rows(giver.now):
        if row.peer == taker.name:
            return row.state, row.reason
    return None
