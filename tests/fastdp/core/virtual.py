"""Two hosts on a virtual clock: each has a driver and a datapath that answer late, and they share
a pair of tunnels that can be blocked in either direction.

The model keeps what the kernel and the datapath would: which tunnels are there and carry, and
which peers the datapath holds for fast. Both outlive a router. After every event it is checked
that no broadcast could go both ways at once.
"""

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from random import Random

from fastdp.core.effects import (
    AddAssociation,
    AdoptedTunnel,
    Arrange,
    Carry,
    FastEffect,
    KeepAssociations,
    Point,
    ReadMacs,
    Retire,
    SendHeartbeat,
    SetFast,
    TellPeer,
    Tunnel,
)
from fastdp.core.esp import REKEY_S
from fastdp.core.paths import FastPaths
from fastdp.core.policy import Policy
from weavepy.base.effects import LogLine
from weavepy.base.names import PeerName

NAMES = (PeerName("00:00:00:00:00:0a"), PeerName("00:00:00:00:00:0b"))
HOSTS = ("10.0.0.1", "10.0.0.2")
SHORT_IDS = (11, 22)

CLEAR = Policy(mode="vxlan", encrypted=False)
TRUSTING = Policy(mode="auto", encrypted=True, trusted=(ip_network("10.0.0.0/24"),))

ESP = Policy(mode="auto", encrypted=True, no_esp="")
NO_ESP = Policy(mode="auto", encrypted=True)

SECRET = b"s" * 32

MACS = (b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02")
"""One container on each host."""


@dataclass
class Host:
    """What stays while routers come and go."""

    index: int
    policy: Policy = CLEAR
    paths: FastPaths | None = None
    """The router's, while there is one."""
    life: int = 0
    """Answers to an earlier life are for nobody."""
    tunnels: dict[PeerName, Tunnel] = field(default_factory=dict)
    carrying: dict[PeerName, None] = field(default_factory=dict)
    carries: int = 0
    """How often the driver was told to carry."""
    mtu_bytes: int = 1400
    device_error: str = ""
    """What the driver answers to `Carry` and `Arrange`, if anything."""
    datapath: bool = True
    told: bool = True
    """The datapath has heard of the router: before that it has no session to send by."""
    fast: tuple[int, ...] = ()
    told_of: tuple[int, ...] = ()
    """Tunnels, as the datapath was told."""
    mac_owner: str = "tap"
    """Where the bridge sends frames for the other host's container."""
    known_behind: tuple[bytes, ...] = ()
    """MACs that the datapath has behind the other host."""
    receiving: dict[int, bytes] = field(default_factory=dict)
    """ESP's associations in the kernel, SPI to key."""
    sending: dict[int, bytes] = field(default_factory=dict)
    """The last one is used."""
    sends_in_vain: bool = False
    """The other end's tunnel ended, and its associations with it."""
    association_error: str = ""
    """What the driver answers to `AddAssociation`, if anything."""
    driver_free_at: float = 0.0
    session: bool = False
    connected: bool = False
    log: list[str] = field(default_factory=list)

    @property
    def name(self) -> PeerName:
        return NAMES[self.index]

    @property
    def other(self) -> int:
        return 1 - self.index


class World:
    def __init__(self, seed: int = 1, policies: tuple[Policy, Policy] = (CLEAR, CLEAR)) -> None:
        self.rng = Random(seed)
        self.now = 100.0
        self.hosts = [Host(index, policy) for index, policy in enumerate(policies)]
        self.blocked = [False, False]
        """Heartbeats and frames from that host."""
        self.loss = 0.0
        self.driver_delay_s = 0.02
        self.rekey_s = REKEY_S
        self.underlay_mtu_bytes = 1500
        self.secret = SECRET
        """Of the control connection; another one each time."""
        self.undeliverable = 0
        """Events after which a kernel sent by what the other's did not have."""
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    # --- what happens ------------------------------------------------------------------------

    def start_router(self, index: int) -> None:
        host = self.hosts[index]
        host.life += 1
        host.driver_free_at = self.now
        other = NAMES[host.other]
        adopted = [
            AdoptedTunnel(
                t.peer,
                t.short_id,
                t.network_id,
                t.remote_host,
                t.peer in host.carrying,
                t.encrypted,
            )
            for t in host.tunnels.values()
        ]
        host.paths = FastPaths(
            Random(self.rng.getrandbits(32)),
            self.now,
            policy=host.policy,
            mtu_bytes=host.mtu_bytes,
            ourself=host.name,
            rekey_s=self.rekey_s,
            underlay_mtu_bytes=self.underlay_mtu_bytes,
            adopted=adopted,
        )
        if host.datapath:
            self.run(index, host.paths.handle_datapath_back(host.fast, self.now))
        if host.session:
            self.run(index, host.paths.handle_session(other, HOSTS[host.other], self.now))

    def kill_router(self, index: int) -> None:
        self.disconnect()
        self.hosts[index].paths = None
        self.hosts[index].life += 1

    def connect(self) -> None:
        self.secret = self.rng.randbytes(32)
        for host in self.hosts:
            if host.paths is not None and not host.connected:
                host.connected = True
                other = NAMES[host.other]
                self.run(host.index, host.paths.handle_connected(other, self.secret, self.now))
                self.tell_routes(host.index)

    def disconnect(self, left: bool = False) -> None:
        for host in self.hosts:
            if host.connected:
                host.connected = False
                if host.paths is not None:
                    other = NAMES[host.other]
                    self.run(host.index, host.paths.handle_disconnected(other, left, self.now))

    def session_up(self) -> None:
        for host in self.hosts:
            host.session = True
            if host.paths is not None:
                other = NAMES[host.other]
                self.run(host.index, host.paths.handle_session(other, HOSTS[host.other], self.now))

    def session_down(self) -> None:
        for host in self.hosts:
            host.session = False
            if host.paths is not None:
                self.run(host.index, host.paths.handle_session_lost(NAMES[host.other], self.now))

    def tell_routes(self, index: int, relays: bool = False) -> None:
        host = self.hosts[index]
        assert host.paths is not None
        other = NAMES[host.other]
        self.run(
            index,
            host.paths.handle_short_ids(
                SHORT_IDS[index],
                dict(zip(NAMES, SHORT_IDS, strict=True)),
                [other],
                [other] if relays else [],
                self.now,
            ),
        )

    def lose_datapath(self, index: int) -> None:
        host = self.hosts[index]
        host.datapath, host.fast, host.known_behind = False, (), ()
        if host.paths is not None:
            self.run(index, host.paths.handle_datapath_lost(self.now))

    def new_datapath(self, index: int) -> None:
        host = self.hosts[index]
        host.datapath, host.told = True, False
        if host.paths is not None:
            self.run(index, host.paths.handle_datapath_back((), self.now))

    def up(self) -> None:
        """Two routers that are connected, with a session."""
        for index in (0, 1):
            self.start_router(index)
        self.connect()
        self.session_up()

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            timers = [
                (host.paths.next_deadline().at, host.index)
                for host in self.hosts
                if host.paths is not None
            ]
            timer = min(timers, default=(float("inf"), 0))
            event_at = self._queue[0][0] if self._queue else float("inf")
            if min(timer[0], event_at) > end:
                self.now = end
                return
            if event_at <= timer[0]:
                at, _, action = heapq.heappop(self._queue)
                self.now = max(self.now, at)
                action()
            else:
                self.now = max(self.now, timer[0])
                paths = self.hosts[timer[1]].paths
                assert paths is not None
                self.run(timer[1], paths.handle_timeout(self.now))
            self.check()

    # --- what is seen ------------------------------------------------------------------------

    def is_carrying(self, index: int) -> bool:
        host = self.hosts[index]
        return NAMES[host.other] in host.carrying

    def both_carry(self) -> bool:
        return self.is_carrying(0) and self.is_carrying(1)

    def row(self, index: int) -> tuple[str, str]:
        paths = self.hosts[index].paths
        assert paths is not None
        rows = paths.rows(self.now)
        return (rows[0].state, rows[0].reason) if rows else ("", "")

    def check(self) -> None:
        """No broadcast goes both ways: what floods the tunnel is not sent by the datapath."""
        for host in self.hosts:
            if host.sending and not host.sends_in_vain:
                self.undeliverable += not self._is_decrypted(host.index)
            told = host.datapath and host.told
            by_sleeve = told and SHORT_IDS[host.other] not in host.fast
            assert not (self.is_carrying(host.index) and by_sleeve and host.session), (
                f"at {self.now}: broadcasts of {host.name} go twice"
            )

    # --- effects -----------------------------------------------------------------------------

    def later(self, at: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (at, next(self._order), action))

    def run(self, index: int, effects: list[FastEffect]) -> None:
        for effect in effects:
            self._perform(index, effect)

    def _perform(self, index: int, effect: FastEffect) -> None:
        host = self.hosts[index]
        match effect:
            case (
                Arrange()
                | ReadMacs()
                | Carry()
                | Retire()
                | Point()
                | AddAssociation()
                | KeepAssociations()
            ):
                life = host.life
                host.driver_free_at = max(host.driver_free_at, self.now)
                host.driver_free_at += self.rng.uniform(0, 2 * self.driver_delay_s)
                self.later(host.driver_free_at, lambda: self._drive(index, life, effect))
            case SetFast():
                life = host.life
                self.later(self.now + 0.002, lambda: self._set_fast(index, life, effect))
            case SendHeartbeat(payload=payload, frame_bytes=frame_bytes):
                assert frame_bytes == 14 + min(it.mtu_bytes for it in self.hosts)
                tunnel = host.tunnels.get(NAMES[host.other])
                if tunnel is None or (tunnel.encrypted and not self._is_decrypted(index)):
                    return
                if not self.blocked[index] and self.rng.random() >= self.loss:
                    self.later(self.now + 0.001, lambda: self._heartbeat(index, payload))
            case TellPeer(payload=payload):
                assert host.connected
                life = self.hosts[host.other].life
                self.later(self.now + 0.001, lambda: self._tell(index, life, payload))
            case LogLine(message=message):
                host.log.append(f"{self.now:.2f} {message}")

    def _drive(self, index: int, life: int, effect: FastEffect) -> None:
        host = self.hosts[index]
        if host.life != life or host.paths is None:
            return  # killed before it came to that
        answer: list[FastEffect] = []
        match effect:
            case Arrange(tunnels=tunnels):
                wanted = {tunnel.peer: tunnel for tunnel in tunnels}
                for peer, tunnel in list(host.tunnels.items()):
                    now_wanted = wanted.get(peer)
                    if now_wanted is None or replace(now_wanted, encrypted=False) != replace(
                        tunnel, encrypted=False
                    ):
                        assert peer not in host.carrying, "removed while it carries frames"
                        del host.tunnels[peer]
                errors = {}
                for tunnel in tunnels:
                    if host.device_error and tunnel.peer not in host.tunnels:
                        errors[tunnel.peer] = host.device_error
                    else:
                        host.tunnels[tunnel.peer] = tunnel
                if host.receiving and not any(tunnel.encrypted for tunnel in tunnels):
                    host.receiving.clear()
                    host.sending.clear()
                    self.hosts[host.other].sends_in_vain = True
                found = {
                    tunnel.peer: (frozenset(host.receiving), frozenset(host.sending))
                    for tunnel in tunnels
                    if tunnel.encrypted
                }
                answer = host.paths.handle_arranged(errors, "", self.now, found)
            case ReadMacs(peer=peer):
                macs = MACS[host.other :][:1] if host.mac_owner == "tunnel" else ()
                answer = host.paths.handle_macs(peer, macs, self.now)
            case Carry(peer=peer, macs=macs):
                assert peer in host.tunnels
                host.carries += 1
                assert SHORT_IDS[host.other] in host.fast or not host.datapath
                if not host.device_error:
                    host.carrying[peer] = None
                    host.mac_owner = "tunnel"
                answer = host.paths.handle_carried(peer, host.device_error, self.now)
            case Retire(peer=peer, macs=macs):
                assert set(macs) <= set(host.known_behind) or not host.datapath
                host.carrying.pop(peer, None)
                host.mac_owner = "tap"
                answer = host.paths.handle_retired(peer, "", self.now)
            case Point(peer=peer):
                assert peer in host.tunnels
            case AddAssociation(peer=peer, association=added):
                if not host.association_error:
                    (host.receiving if added.local_host else host.sending)[added.spi] = added.key
                    host.sends_in_vain &= bool(added.local_host)
                answer = host.paths.handle_association_added(
                    peer, added.spi, host.association_error, self.now
                )
            case KeepAssociations(sending=sending, receiving=receiving):
                for spi in set(host.sending) - set(sending):
                    del host.sending[spi]
                if receiving is not None:
                    for spi in set(host.receiving) - set(receiving):
                        del host.receiving[spi]
        self.run(index, answer)

    def _set_fast(self, index: int, life: int, message: SetFast) -> None:
        host = self.hosts[index]
        if host.life != life or not host.datapath or host.paths is None:
            return
        host.fast, host.told_of, host.told = message.fast, message.tunnels, True
        for macs in message.learn.values():
            host.known_behind = (*host.known_behind, *macs)
        answer = {short_id: [MACS[host.other]] for short_id in message.fast}
        self.later(
            self.now + 0.002,
            lambda: self._fast_set(index, life, message.generation, answer),
        )

    def _fast_set(
        self, index: int, life: int, generation: int, macs: dict[int, list[bytes]]
    ) -> None:
        host = self.hosts[index]
        if host.life == life and host.paths is not None and host.datapath:
            self.run(index, host.paths.handle_fast_set(generation, macs, self.now))

    def _is_decrypted(self, sender: int) -> bool:
        """What the host would send now by its tunnel in ESP."""
        host, other = self.hosts[sender], self.hosts[1 - sender]
        if not host.sending:
            return False
        spi, key = list(host.sending.items())[-1]
        return other.receiving.get(spi) == key

    def _heartbeat(self, sender: int, payload: bytes) -> None:
        host = self.hosts[1 - sender]
        if host.paths is not None and NAMES[sender] in host.tunnels:
            self.run(
                host.index,
                host.paths.handle_heartbeat(NAMES[sender], payload + b"\0" * 9, self.now),
            )

    def _tell(self, sender: int, life: int, payload: bytes) -> None:
        host = self.hosts[1 - sender]
        if host.life == life and host.paths is not None and host.connected:
            self.run(host.index, host.paths.handle_message(NAMES[sender], payload, self.now))
