"""What the datapath does beside moving frames: sessions, routes, timers, reports.

The router's messages come in here and become sessions and tables of the engine; the sessions'
effects are carried out here; what the router should know goes out through `tell`. Like a core,
it has no clock, no socket and no loop of its own.

Sessions are asked for their deadlines rarely: a heap holds, for each, a time at or before its
true one. Whoever comes up too early is put back with its new deadline.
"""

import heapq
import ipaddress
import os
from collections.abc import Callable, Iterable
from itertools import islice
from random import Random
from typing import Protocol, assert_never

from router.overlay.switch import Switch
from router.sleeve.effects import (
    CameUp,
    Endpoint,
    Listen,
    PathMtuFound,
    Roamed,
    SendControl,
    SessionEffect,
    Unlisten,
    WentDown,
)
from router.sleeve.engine import Engine
from router.sleeve.forwarder import DatagramSink, Forwarder
from router.sleeve.messages import (
    MAX_FAST_MACS,
    DropCount,
    EndpointRoamed,
    FastPeersSet,
    ForgetMacs,
    FromDatapath,
    InstallEpoch,
    InstallRoutes,
    MacEntry,
    MacsOnTap,
    PathMtuChanged,
    RemoveSession,
    Report,
    SessionDown,
    SessionReport,
    SessionUp,
    SetFastPeers,
    SetMtu,
    Shutdown,
    Snapshot,
    ToSteering,
)
from router.sleeve.rekey import REKEY_AFTER_S
from router.sleeve.session import Session
from router.sleeve.spans import MAX_SPAN
from weavepy import __version__
from weavepy.base.names import MAX_PEERS

MAX_REPORTED_MACS = 256

HOUSEKEEPING_S = 10.0
"""How often old MAC entries are looked for."""

FAST_MAC_AGE_S = 60.0
"""How long an address behind a fast peer is known without a frame from it; see below."""

Tell = Callable[[FromDatapath], None]
Effects = Iterable[tuple[Forwarder, list[SessionEffect]]]


class Device(Protocol):
    """The part of the TAP that is steered."""

    @property
    def name(self) -> str: ...

    def set_mtu(self, mtu_bytes: int) -> None: ...


class Steering:
    def __init__(
        self,
        engine: Engine,
        device: Device,
        sink: DatagramSink,
        rng: Random,
        now: float,
        tell: Tell,
        *,
        encrypted: bool,
        udp_port: int,
        mtu_bytes: int,
        underlay_mtu_bytes: int,
        offloads: Callable[[], Iterable[str]],
        kernel_drops: Callable[[], dict[str, int]],
        refused_messages: Callable[[], int] = lambda: 0,
        peers_changed: Callable[[], None] = lambda: None,
        max_span: int = MAX_SPAN,
        rekey_after_s: float = REKEY_AFTER_S,
    ) -> None:
        """`kernel_drops` counts what was lost before we could read it, by reason."""
        self.shutdown_wanted = False
        self.next_at = now + HOUSEKEEPING_S
        """When `handle_timeout` wants to be called."""
        self._engine = engine
        self._switch: Switch = engine.switch
        self._device = device
        self._sink = sink
        self._rng = rng
        self._started_at = now
        self._tell = tell
        self._encrypted = encrypted
        self._udp_port = udp_port
        self._mtu_bytes = mtu_bytes
        self._underlay_mtu_bytes = underlay_mtu_bytes
        self._offloads = offloads
        self._kernel_drops = kernel_drops
        self._refused_messages = refused_messages
        self._peers_changed = peers_changed
        self._max_span = max_span
        self._rekey_after_s = rekey_after_s
        self._forwarders: dict[str, Forwarder] = {}
        """By the peer's name."""
        self._routes = InstallRoutes(ourself=0, unicast={}, broadcast={}, short_ids={})
        self._due: list[tuple[float, str]] = []
        self._due_at: dict[str, float] = {}
        self._housekeeping_at = self.next_at

    # --- from the router -----------------------------------------------------------------

    def handle_message(self, message: ToSteering, now: float) -> None:
        match message:
            case InstallEpoch():
                self._install_epoch(message, now)
            case RemoveSession(peer=peer):
                self._remove_session(peer, now)
            case InstallRoutes():
                self._routes = message
                self._switch.install_routes(message.ourself, message.unicast, message.broadcast)
                self._switch.mtus_bytes = dict(message.mtus_bytes)
                self._name_forwarders()
            case SetMtu():
                self._set_mtu(message.mtu_bytes)
                self._set_underlay_mtu(message.underlay_mtu_bytes, now)
            case ForgetMacs(short_id=short_id):
                self._switch.macs.forget(short_id)
            case SetFastPeers():
                self._set_fast(message, now)
            case Report():
                self._tell(self.snapshot(now))
            case Shutdown():
                self.shutdown_wanted = True
            case _:
                assert_never(message)

    def _install_epoch(self, message: InstallEpoch, now: float) -> None:
        endpoint = _endpoint(message.endpoint_host, message.endpoint_port)
        secret_fits = len(message.epoch.secret) == 32
        short_id_fits = 0 <= message.short_id < MAX_PEERS
        if endpoint is None or not secret_fits or not short_id_fits:
            self._engine.drop("bad-epoch-from-router")
            return
        forwarder = self._forwarders.get(message.peer)
        if forwarder is None:
            session = Session(
                message.peer,
                message.short_id,
                endpoint,
                self._encrypted,
                self._underlay_mtu_bytes,
                self._rng,
                now,
                self._new_index,
                max_span=self._max_span,
                rekey_after_s=self._rekey_after_s,
            )
            forwarder = Forwarder(
                session,
                self._encrypted,
                self._sink,
                self._engine.waiting,
                self._engine.layout,
                self._rng.getrandbits(32),
            )
            self._forwarders[message.peer] = forwarder
        forwarder.session.short_id = message.short_id or forwarder.session.short_id
        self._name_forwarders()
        self._perform(forwarder, forwarder.session.install(message.epoch, endpoint, now), now)

    def _remove_session(self, peer: str, now: float) -> None:
        forwarder = self._forwarders.pop(peer, None)
        if forwarder is None:
            return
        self._perform(forwarder, forwarder.session.close(), now)
        self._due_at.pop(peer, None)
        self._engine.forget(forwarder)
        self._name_forwarders()

    def _name_forwarders(self) -> None:
        """Who has which short id: the routes know best, then what came with the epochs."""
        named = {by.session.short_id: by for by in self._forwarders.values() if by.session.short_id}
        for short_id, peer in self._routes.short_ids.items():
            forwarder = self._forwarders.get(peer)
            if forwarder is None:
                named.pop(short_id, None)
            else:
                named[short_id] = forwarder
        self._engine.forwarders = named

    def _set_fast(self, message: SetFastPeers, now: float) -> None:
        switch = self._switch
        switch.set_fast(message.fast, message.relays, message.tunnels, now)
        for short_id, macs in message.learn.items():
            for mac in macs:
                switch.learn_behind(_octets(mac), short_id, now)
        behind: dict[int, list[str]] = {}
        for octets, short_id, _ in islice(switch.macs.behind(switch.fast), MAX_FAST_MACS):
            behind.setdefault(short_id, []).append(octets.hex(":"))
        self._tell(FastPeersSet(message.generation, behind))

    def handle_strays(self) -> None:
        """Tell the router which frames came to us although a tunnel leads to their peers."""
        strays = self._engine.strays.take()
        self._tell(MacsOnTap({to: [mac.hex(":") for mac in macs] for to, macs in strays.items()}))

    def _forget_behind_tunnels(self, now: float) -> None:
        """The bridge knows what lies behind fast peers, and what it knows does not come to us.

        What it has forgotten, it gives to us and to all tunnels at once. Then we must not know
        the address any more, or its peer would get the frame twice. The bridge forgets after 300 s.
        """
        macs = self._switch.macs
        old = [
            mac
            for mac, _, seen_at in macs.behind(self._switch.fast)
            if now - seen_at >= FAST_MAC_AGE_S
        ]
        macs.drop(old)

    def _set_mtu(self, mtu_bytes: int) -> None:
        try:
            self._device.set_mtu(mtu_bytes)
        except OSError:
            self._engine.drop("mtu-refused")
            return
        self._mtu_bytes = mtu_bytes

    def _set_underlay_mtu(self, underlay_mtu_bytes: int, now: float) -> None:
        if underlay_mtu_bytes in (0, self._underlay_mtu_bytes):
            return
        self._underlay_mtu_bytes = underlay_mtu_bytes
        for forwarder in self._forwarders.values():
            forwarder.session.set_underlay_mtu(underlay_mtu_bytes, now)
            self._schedule(forwarder.session)

    def _new_index(self) -> int:
        while True:
            index = self._rng.getrandbits(32)
            if index and index not in self._engine.epochs:
                return index

    # --- from the sessions ---------------------------------------------------------------

    def handle_effects(self, effects: Effects, now: float) -> None:
        """Carry out what came of received datagrams."""
        for forwarder, session_effects in effects:
            if session_effects:
                self._perform(forwarder, session_effects, now)

    def handle_failed(self, failed: Iterable[Forwarder], now: float) -> None:
        """Tell sessions what their sends met."""
        for forwarder in failed:
            error, forwarder.send_error = forwarder.send_error, ""
            self._perform(forwarder, forwarder.session.handle_send_error(error, now), now)

    def _perform(self, forwarder: Forwarder, effects: Iterable[SessionEffect], now: float) -> None:
        peer = forwarder.session.peer
        failed = False
        for effect in effects:
            match effect:
                case SendControl():
                    forwarder.send_control(effect)
                    failed = failed or bool(forwarder.send_error)
                case Listen(epoch=epoch):
                    self._engine.epochs[epoch.local_index] = (epoch, forwarder)
                    self._peers_changed()
                case Unlisten(local_index=local_index):
                    self._engine.epochs.pop(local_index, None)
                    self._peers_changed()
                case CameUp(endpoint=(host, port)):
                    self._tell(SessionUp(peer, host, port))
                case WentDown(reason=reason):
                    self._tell(SessionDown(peer, reason))
                case Roamed(endpoint=(host, port)):
                    self._peers_changed()
                    self._tell(EndpointRoamed(peer, host, port))
                case PathMtuFound():
                    self._tell(
                        PathMtuChanged(peer, effect.path_mtu_bytes, effect.overlay_mtu_bytes)
                    )
                case _:
                    assert_never(effect)
        if failed:
            self.handle_failed((forwarder,), now)
        if peer in self._forwarders:
            self._schedule(forwarder.session)

    # --- timers --------------------------------------------------------------------------

    def handle_timeout(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            at, peer = heapq.heappop(self._due)
            forwarder = self._forwarders.get(peer)
            if forwarder is None or self._due_at.get(peer) != at:
                continue
            del self._due_at[peer]
            if forwarder.session.next_deadline().at <= now:
                self._perform(forwarder, forwarder.session.handle_timeout(now), now)
            self._schedule(forwarder.session)
        if now >= self._housekeeping_at:
            self._housekeeping_at = now + HOUSEKEEPING_S
            self._switch.macs.expire(now)
            if self._switch.fast:
                self._forget_behind_tunnels(now)
            for forwarder in self._forwarders.values():
                forwarder.reassembler.expire(now)
                forwarder.assembler.expire(now)
        self._set_next()

    def _schedule(self, session: Session) -> None:
        at = session.next_deadline().at
        if at < self._due_at.get(session.peer, float("inf")):
            self._due_at[session.peer] = at
            heapq.heappush(self._due, (at, session.peer))
            self._set_next()

    def _set_next(self) -> None:
        at = self._due[0][0] if self._due else float("inf")
        self.next_at = min(at, self._housekeeping_at)

    # --- reports -------------------------------------------------------------------------

    def snapshot(self, now: float) -> Snapshot:
        macs = self._switch.macs
        return Snapshot(
            pid=os.getpid(),
            version=__version__,
            uptime_s=now - self._started_at,
            tap=self._device.name,
            udp_port=self._udp_port,
            mtu_bytes=self._mtu_bytes,
            encrypted=self._encrypted,
            offloads=list(self._offloads()),
            ourself=self._switch.ourself,
            sessions=[_session_report(forwarder) for forwarder in self._forwarders.values()],
            routes=self._routes,
            macs=[
                MacEntry(mac.hex(":"), short_id, age_s)
                for mac, short_id, age_s in macs.newest(MAX_REPORTED_MACS, now)
            ],
            mac_count=len(macs),
            drops=_drop_counts({**self._engine.drops, **self._kernel_drops()}),
            mac_moves=macs.moves,
            refused_messages=self._refused_messages(),
            fast=sorted(self._switch.fast),
        )


def _session_report(forwarder: Forwarder) -> SessionReport:
    session = forwarder.session
    drops = dict(forwarder.drops)
    if forwarder.reassembler.given_up:
        drops["fragments-missing"] = forwarder.reassembler.given_up
    if forwarder.assembler.given_up:
        drops["datagrams-of-record-missing"] = forwarder.assembler.given_up
    if forwarder.reassembler.malformed:
        drops["fragments-malformed"] = forwarder.reassembler.malformed
    if session.unknown_controls:
        drops["unknown-control"] = session.unknown_controls
    return SessionReport(
        peer=session.peer,
        up=session.up,
        reason=session.reason,
        endpoint_host=session.endpoint[0],
        endpoint_port=session.endpoint[1],
        overlay_mtu_bytes=session.overlay_mtu_bytes,
        path_mtu_bytes=session.path_mtu_bytes,
        epoch=session.epochs,
        rtt_ms=session.rtt_ms,
        span=session.span,
        losses=session.losses,
        mended=session.mended,
        parity_sent=forwarder.parity_sent,
        frames_sent=forwarder.frames_sent,
        frames_received=forwarder.frames_received,
        bytes_sent=forwarder.bytes_sent,
        bytes_received=forwarder.bytes_received,
        records_sent=forwarder.records_sent,
        records_received=forwarder.records_received,
        drops=_drop_counts(drops),
    )


def _drop_counts(drops: dict[str, int]) -> list[DropCount]:
    return [DropCount(reason, drops[reason]) for reason in sorted(drops) if drops[reason]]


def _octets(mac: str) -> bytes:
    """Empty for what is no MAC, which nobody has then."""
    try:
        return bytes.fromhex(mac.replace(":", ""))
    except ValueError:
        return b""


def _endpoint(host: str, port: int) -> Endpoint | None:
    """The address as the sockets give it; None if it is none (a name would block on DNS)."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if not 0 < port < 65536:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address), port
