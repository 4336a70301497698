"""A model of the datapath process: what the router sees of it, and where frames go.

It does what `router.sleeve.messages` says, in few words: a session has epochs, and works while
probes go through in both directions on an epoch that both ends have. Frames travel hop by hop over
the routes that the router has installed, through the real switch and the real filter of
broadcasts. Cryptography, sizes and speed are left out. It outlives the router.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from router.overlay.broadcast import BroadcastFilter
from router.overlay.mac_table import MacTable
from router.overlay.strays import Strays
from router.overlay.switch import DELIVER, Switch
from router.sleeve.format import BROADCAST_SHORT_ID, MAX_HOPS
from router.sleeve.messages import (
    SESSION_DEAD_S,
    Epoch,
    FastPeersSet,
    ForgetMacs,
    FromDatapath,
    InstallEpoch,
    InstallRoutes,
    MacsOnTap,
    RemoveSession,
    Report,
    SessionDown,
    SessionReport,
    SessionUp,
    SetFastPeers,
    SetMtu,
    Shutdown,
    Snapshot,
    ToDatapath,
)
from router.sleeve.steering import FAST_MAC_AGE_S, HOUSEKEEPING_S
from tests.sim.network import PORT

if TYPE_CHECKING:
    from tests.sim.peers import Host

PROBE_S = 1.0
FIRST_PROBE_S = 0.2
KEPT_EPOCHS = 4


@dataclass(frozen=True)
class Frame:
    number: int
    source: int
    destination: int
    hops_left: int
    boot_nonce: int
    sequence: int
    source_mac: bytes
    destination_mac: bytes
    only_pass_on: bool = False
    """The receiver's bridge has it by a tunnel."""


@dataclass
class Session:
    peer: str
    address: str
    epochs: list[Epoch] = field(default_factory=list)
    """Those heard last at the end: what is sent, is sent on the last."""
    up: bool = False
    proved_at: float = 0.0
    reason: str = "no keys agreed yet"
    renewals: int = 0


class Datapath:
    def __init__(self, host: "Host", pid: int, short_id: int) -> None:
        self.pid = pid
        self.alive = True
        self.host = host
        self.sessions: dict[str, Session] = {}
        self.routes = InstallRoutes(ourself=short_id, unicast={}, broadcast={}, short_ids={})
        self.switch = Switch(MacTable())
        self._world = host.world
        self.changed_at = self._world.now
        """When routes were installed last."""
        self._network = host.network
        self._rng = self._world.random(f"datapath {host.number} {pid}")
        self._broadcasts = BroadcastFilter()
        self._boot_nonce = self._rng.getrandbits(32)
        self._sequence = 0
        self._by_short_id: dict[int, Session] = {}
        self._strays = Strays()
        self._housekeeping_at = self._world.now + HOUSEKEEPING_S
        self._world.later(PROBE_S * self._rng.random(), self._tick)

    # --- from and to the router --------------------------------------------------------------

    def handle_message(self, message: ToDatapath) -> None:
        match message:
            case InstallEpoch(peer=peer, endpoint_host=address, epoch=epoch):
                session = self.sessions.setdefault(peer, Session(peer, address))
                if not session.up:
                    session.address = address
                session.epochs = session.epochs[1 - KEPT_EPOCHS :]
                # While the session works, a new epoch is sent on only when it was heard.
                session.epochs.insert(0 if session.up else len(session.epochs), epoch)
                session.renewals += 1
                self._name_sessions()
                self._probe(session, epoch)
                self._world.later(FIRST_PROBE_S, self._probe_later, session, epoch)
            case RemoveSession(peer=peer):
                self.sessions.pop(peer, None)
                self._name_sessions()
            case InstallRoutes():
                self.routes = message
                self.changed_at = self._world.now
                self.switch.install_routes(message.ourself, message.unicast, message.broadcast)
                self._name_sessions()
            case ForgetMacs(short_id=short_id):
                self.switch.macs.forget(short_id)
            case SetFastPeers():
                self._set_fast(message)
            case Report():
                self._tell(self.snapshot())
            case SetMtu() | Shutdown():
                pass

    def snapshot(self) -> Snapshot:
        return Snapshot(
            pid=self.pid,
            version="",
            uptime_s=0.0,
            tap="weavetap",
            udp_port=PORT,
            mtu_bytes=1400,
            encrypted=True,
            offloads=[],
            ourself=self.routes.ourself,
            sessions=[self._report(session) for session in self.sessions.values()],
            routes=self.routes,
            macs=[],
            mac_count=len(self.switch.macs),
            drops=[],
            fast=sorted(self.switch.fast),
        )

    def _report(self, session: Session) -> SessionReport:
        return SessionReport(
            peer=session.peer,
            up=session.up,
            reason=session.reason,
            endpoint_host=session.address,
            endpoint_port=PORT,
            overlay_mtu_bytes=1400,
            path_mtu_bytes=1500,
            epoch=session.renewals,
            rtt_ms=1.0,
            frames_sent=0,
            frames_received=0,
            bytes_sent=0,
            bytes_received=0,
            records_sent=0,
            records_received=0,
            drops=[],
        )

    def _set_fast(self, message: SetFastPeers) -> None:
        switch, now = self.switch, self._world.now
        switch.set_fast(message.fast, message.relays, message.tunnels, now)
        for short_id, macs in message.learn.items():
            for mac in macs:
                switch.learn_behind(_octets(mac), short_id, now)
        behind: dict[int, list[str]] = {}
        for octets, short_id, _ in switch.macs.behind(switch.fast):
            behind.setdefault(short_id, []).append(octets.hex(":"))
        self._tell(FastPeersSet(message.generation, behind))

    def _tell(self, message: FromDatapath) -> None:
        """The socket takes a moment, and loses nothing as long as both ends live."""
        self._world.later(0.0002, self._told, self.host.run, message)

    def _told(self, run: int, message: FromDatapath) -> None:
        if self.alive and self.host.run == run:
            self.host.post(self.host.datapath_said, message)

    # --- sessions ----------------------------------------------------------------------------

    def _tick(self) -> None:
        if not self.alive:
            return
        now = self._world.now
        for session in list(self.sessions.values()):
            if session.up and now - session.proved_at > SESSION_DEAD_S:
                session.up = False
                session.reason = f"nothing heard for {SESSION_DEAD_S:g} s"
                self._tell(SessionDown(session.peer, session.reason))
            for epoch in session.epochs[-1:] if session.up else reversed(session.epochs):
                self._probe(session, epoch)
        if self.switch.fast and now >= self._housekeeping_at:
            self._housekeeping_at = now + HOUSEKEEPING_S
            macs = self.switch.macs
            behind = list(macs.behind(self.switch.fast))
            macs.drop(mac for mac, _, seen_at in behind if now - seen_at >= FAST_MAC_AGE_S)
        self._world.later(PROBE_S, self._tick)

    def _probe_later(self, session: Session, epoch: Epoch) -> None:
        is_there = self.sessions.get(session.peer) is session
        if self.alive and is_there and epoch in session.epochs:
            self._probe(session, epoch)

    def _probe(self, session: Session, epoch: Epoch) -> None:
        self._send(session, epoch, lambda there: there._probe_came(epoch))

    def _send(self, session: Session, epoch: Epoch, arrive: Callable[["Datapath"], None]) -> None:
        def at_host(host: "Host") -> None:
            if host.datapath is not None and host.datapath.alive:
                arrive(host.datapath)

        self._network.send_datagram(self.host, session.address, at_host)

    def _match(self, theirs: Epoch) -> tuple[Session, Epoch] | None:
        """Our session with the epoch whose other end this is."""
        for session in self.sessions.values():
            for epoch in session.epochs:
                if (
                    epoch.local_index == theirs.remote_index
                    and epoch.secret == theirs.secret
                    and epoch.initiator != theirs.initiator
                ):
                    return session, epoch
        return None

    def _probe_came(self, theirs: Epoch) -> None:
        found = self._match(theirs)
        if found is not None:
            session, epoch = found
            self._heard(session, epoch)
            self._send(session, epoch, lambda there: there._answer_came(epoch))

    def _answer_came(self, theirs: Epoch) -> None:
        """The peer hears us, and we it."""
        found = self._match(theirs)
        if found is None:
            return
        session, epoch = found
        self._heard(session, epoch)
        session.proved_at = self._world.now
        if not session.up:
            session.up = True
            session.reason = ""
            self._tell(SessionUp(session.peer, session.address, PORT))

    def _heard(self, session: Session, epoch: Epoch) -> None:
        if session.epochs[-1] is not epoch:
            session.epochs.remove(epoch)
            session.epochs.append(epoch)

    def _name_sessions(self) -> None:
        self._by_short_id = {
            short_id: self.sessions[peer]
            for short_id, peer in self.routes.short_ids.items()
            if peer in self.sessions
        }

    # --- frames ------------------------------------------------------------------------------

    def frame_from_bridge(self, number: int, destination_mac: bytes, source_mac: bytes) -> None:
        switch = self.switch
        now = self._world.now
        destination = switch.from_bridge(destination_mac, source_mac, now)
        if destination < 0:
            return
        self._sequence += 1
        frame = Frame(
            number,
            switch.ourself,
            destination,
            MAX_HOPS,
            self._boot_nonce,
            self._sequence,
            source_mac,
            destination_mac,
        )
        if destination == BROADCAST_SHORT_ID:
            for neighbour in switch.flood_to:
                self._pass_on(neighbour, frame)
            for neighbour in switch.pass_on_to:
                self._pass_on(neighbour, replace(frame, only_pass_on=True))
            return
        if destination in switch.fast:
            self._strays.note(destination_mac, destination, now)
            taken = self._strays.take()
            if taken:
                self._tell(
                    MacsOnTap({to: [mac.hex(":") for mac in macs] for to, macs in taken.items()})
                )
        if destination in switch.unicast:
            self._pass_on(switch.unicast[destination], frame)

    def _pass_on(self, neighbour: int, frame: Frame) -> None:
        session = self._by_short_id.get(neighbour)
        if session is None or not session.epochs:
            return
        epoch = session.epochs[-1]
        self._send(session, epoch, lambda there: there._frame_came(epoch, frame))

    def _frame_came(self, theirs: Epoch, frame: Frame) -> None:
        found = self._match(theirs)
        if found is None:
            return
        sender, _ = found
        switch, now = self.switch, self._world.now
        onward = replace(frame, hops_left=max(0, frame.hops_left - 1), only_pass_on=False)
        if frame.destination != BROADCAST_SHORT_ID:
            next_hop = switch.from_peer(frame.source, frame.destination, frame.hops_left)
            if next_hop == DELIVER:
                self._deliver(frame)
            elif next_hop > 0:
                self._pass_on(next_hop, onward)
            return
        relayed = self._by_short_id.get(frame.source) is not sender
        if frame.only_pass_on and relayed:
            return
        if frame.source == switch.ourself or not self._broadcasts.accept(
            frame.source, frame.boot_nonce, frame.sequence, now
        ):
            return
        if not frame.only_pass_on and not (relayed and switch.may_come_twice(frame.source, now)):
            self._deliver(frame)
        for neighbour in switch.broadcast_from(frame.source, frame.hops_left):
            if self._by_short_id.get(neighbour) is not sender:
                self._pass_on(neighbour, onward)

    def _deliver(self, frame: Frame) -> None:
        self.switch.learn_behind(frame.source_mac, frame.source, self._world.now)
        self.host.frame_from_overlay(frame.number, frame.destination_mac, frame.source_mac)


def _octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))
