"""Which peers' frames go through the kernel's tunnels, and how each gets there and back.

`FastPaths` compares what could be (a session, a direct link, both ends willing, a healthy tunnel)
with what is, once per input, in `_settle`: each path takes at most one step, then the sum of all
paths is told to the driver (`Arrange`) and to the datapath (`SetFast`), if it changed. See
`path.py` for the steps, and `health.py` for what healthy is.

Without a driver, or switched off, it only tells peers so.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from random import Random

from fastdp.core.choice import Choice
from fastdp.core.effects import (
    AdoptedTunnel,
    Arrange,
    Carry,
    FastEffect,
    Point,
    ReadMacs,
    Retire,
    SendHeartbeat,
    SetFast,
    Tunnel,
)
from fastdp.core.esp import REKEY_S, KeyExchange
from fastdp.core.health import BEAT_S
from fastdp.core.messages import (
    TOKEN_BYTES,
    Heartbeat,
    Offer,
    decode_heartbeat,
    decode_message,
    encode_heartbeat,
)
from fastdp.core.path import FastRow, Path, Phase
from fastdp.core.policy import Policy
from weavepy.base.deadline import Deadline, earliest
from weavepy.base.effects import LogLine
from weavepy.base.names import PeerName

PORT = 6784

MAX_MACS = 4096
"""Behind one peer, that are told to the datapath or the bridge in a change; what is beyond
that is flooded until it is learnt."""

TICK_S = 0.5
"""How often health is looked at."""
REPAIR_S = 5.0
"""How often the driver compares what should be with what is."""
ANSWER_S = 1.0
"""So long a datapath may take to learn MACs; then the tunnel retires without it."""
DRAIN_S = 0.1

NOTHING: Mapping[PeerName, tuple[frozenset[int], frozenset[int]]] = {}

_ETHERNET_HEADER_BYTES = 14


class FastPaths:
    def __init__(
        self,
        rng: Random,
        now: float,
        *,
        policy: Policy,
        mtu_bytes: int,
        port: int = PORT,
        ourself: PeerName,
        underlay_mtu_bytes: int = 1500,
        rekey_s: float = REKEY_S,
        adopted: Sequence[AdoptedTunnel] = (),
    ) -> None:
        """`mtu_bytes` is the overlay's, here. `adopted` is empty unless `policy.enabled`."""
        assert policy.enabled or not adopted
        self._rng = rng
        self._ourself = ourself
        self._rekey_s = rekey_s
        self._choice = Choice(policy, mtu_bytes, port, underlay_mtu_bytes)
        self._enabled = policy.enabled
        self._mtu_bytes = mtu_bytes
        self._port = port
        self._paths: dict[PeerName, Path] = {}
        self._holders: dict[int, PeerName] = {}
        """By short id, who has the tunnel of that name. When a clash of short ids is settled, a
        tunnel may have to wait until another peer's is gone."""
        self._relays: Collection[PeerName] = ()
        self._arranging: tuple[Tunnel, ...] | None = None
        """As last told to the driver; None unless its answer is waited for."""
        self._arranged: tuple[Tunnel, ...] | None = None
        """As the driver last answered for; None before that."""
        self._datapath_is_here = False
        self._generation = 0
        self._told: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None = None
        """Fast peers, relays and tunnels, as the datapath has them; None: that is not known."""
        self._due: dict[PeerName, float] = {}
        """When a path's change goes on by itself."""
        self._tick_at = now
        self._repair_at = now
        for found in adopted:
            self._adopt(found, now)

    # --- inputs: the overlay -------------------------------------------------------------------

    def handle_session(self, peer: PeerName, host: str, now: float) -> list[FastEffect]:
        """Its sleeve session came up, or roamed."""
        path = self._path(peer)
        path.host, path.left = host, False
        return self._settle([path], now)

    def handle_session_lost(self, peer: PeerName, now: float) -> list[FastEffect]:
        path = self._paths.get(peer)
        if path is None:
            return []
        path.host = ""
        return self._settle([path], now)

    def handle_connected(self, peer: PeerName, secret: bytes, now: float) -> list[FastEffect]:
        """`secret` is the connection's, of which nobody else knows; ESP's keys come from it."""
        path = self._path(peer)
        path.connected, path.left = True, False
        path.offered = None
        effects = self._settle([path], now)
        return effects + self._keys(path).handle_connected(secret, now)

    def handle_disconnected(self, peer: PeerName, left: bool, now: float) -> list[FastEffect]:
        """A peer that `left` is gone for good. Another may have a new router in a moment."""
        path = self._paths.get(peer)
        if path is None:
            return []
        path.connected = False
        if path.keys is not None:
            path.keys.handle_disconnected()
        if left:
            path.host, path.theirs, path.left = "", None, True
        return self._settle([path], now)

    def handle_short_ids(
        self,
        ourself: int,
        short_ids: Mapping[PeerName, int],
        direct: Collection[PeerName],
        relays: Collection[PeerName],
        now: float,
    ) -> list[FastEffect]:
        """`direct` are neighbours over established links; those that `relays` names have to pass
        our broadcasts on."""
        self._choice.update(ourself, short_ids, direct)
        self._relays = dict.fromkeys(relays)
        return self._settle(self._paths.values(), now)

    def handle_mtu(self, mtu_bytes: int, underlay_mtu_bytes: int, now: float) -> list[FastEffect]:
        """The overlay has another MTU here from now on, and the underlay perhaps."""
        self._mtu_bytes = mtu_bytes
        self._choice.set_mtu(mtu_bytes, underlay_mtu_bytes)
        self._repair_at = now
        return self._settle(self._paths.values(), now)

    def handle_message(self, peer: PeerName, payload: bytes, now: float) -> list[FastEffect]:
        """From its router. Raises `ProtocolError` if it is nonsense."""
        offer = decode_message(payload)
        path = self._path(peer)
        if not isinstance(offer, Offer):
            return self._keys(path).handle_message(offer, now)
        if path.theirs is not None and path.theirs.token != offer.token and path.arranged:
            path.beat_at = now
        path.theirs = offer
        return [*self._beat(path, now), *self._settle([path], now)]

    # --- inputs: the datapath ------------------------------------------------------------------

    def handle_fast_set(
        self, generation: int, macs: Mapping[int, Sequence[bytes]], now: float
    ) -> list[FastEffect]:
        effects: list[FastEffect] = []
        for path in self._paths.values():
            if not 0 <= path.generation <= generation or path.tunnel is None:
                continue
            path.generation = -1
            if path.phase is Phase.LEARNING:
                effects.append(self._retire(path))
                continue
            if path.phase is Phase.ANNOUNCED:
                path.phase = Phase.TAKING
            path.is_news = False
            behind = macs.get(path.tunnel.short_id, ())
            effects.append(Carry(path.peer, tuple(behind[:MAX_MACS])))
        return effects

    def handle_macs_on_tap(
        self, short_id: int, macs: Sequence[bytes], now: float
    ) -> list[FastEffect]:
        """The bridge sent frames for these MACs to the TAP, though their peer is fast."""
        return [
            Point(path.peer, tuple(macs[:MAX_MACS]))
            for path in self._paths.values()
            if path.phase is Phase.CARRYING
            if path.tunnel is not None
            if path.tunnel.short_id == short_id
        ]

    def handle_datapath_lost(self, now: float) -> list[FastEffect]:
        """Tunnels carry on. No path takes a step that needs the datapath, but those that retire
        go on without it."""
        self._datapath_is_here = False
        self._told = None
        effects: list[FastEffect] = []
        for path in self._paths.values():
            path.generation = -1
            if path.phase is Phase.LEARNING:
                effects.append(self._retire(path))
        return effects

    def handle_datapath_back(self, fast: Collection[int], now: float) -> list[FastEffect]:
        """A datapath, at start or after one was lost, with the fast peers that it knows of."""
        self._datapath_is_here = True
        self._told = None if fast else ((), (), ())
        for path in self._paths.values():
            path.is_news = path.tunnel is not None and path.tunnel.short_id not in fast
        return self._settle(self._paths.values(), now)

    # --- inputs: the driver --------------------------------------------------------------------

    def handle_heartbeat(self, peer: PeerName, payload: bytes, now: float) -> list[FastEffect]:
        path = self._paths.get(peer)
        beat = decode_heartbeat(payload)
        if path is None or path.tunnel is None or beat is None or beat.token != path.token:
            return []
        if not path.health.has_heard:
            path.beat_at = now  # since a restart, perhaps, and the peer waits to be confirmed
        path.health.handle_heartbeat(beat, now)
        return self._beat(path, now)

    def handle_arranged(
        self,
        errors: Mapping[PeerName, str],
        error: str,
        now: float,
        associations: Mapping[PeerName, tuple[frozenset[int], frozenset[int]]] = NOTHING,
        silent: Collection[PeerName] = (),
    ) -> list[FastEffect]:
        """`errors` by tunnel; `error` if nothing at all could be done. `associations` are the
        SPIs, for receiving and for sending, that the kernel has of tunnels in ESP.

        Those that are `silent` carried until others broke them. They may carry again when the
        bridge has been told what lies behind them, which the datapath knows.
        """
        if self._arranging is None:
            return []
        first = self._arranged is None
        self._arranged, self._arranging = self._arranging, None
        for tunnel in self._arranged:
            path = self._paths.get(tunnel.peer)
            if path is None or path.tunnel != tunnel:
                continue
            path.device_error = error or errors.get(tunnel.peer, "")
            if path.device_error or path.arranged:
                continue
            path.arranged = True
            path.beat_at = now
            if path.phase is Phase.IDLE:
                path.since = now
            elif first:
                path.health.adopt(now)
        for peer in silent:
            path = self._paths.get(peer)
            if path is not None and path.phase is Phase.CARRYING:
                path.phase = Phase.ANNOUNCED
                path.generation = -1
        effects: list[FastEffect] = []
        for peer, (receiving, sending) in associations.items():
            path = self._paths.get(peer)
            if path is not None:
                effects += self._keys(path).handle_found(receiving, sending, now)
        return effects + self._settle(self._paths.values(), now)

    def handle_association_added(
        self, peer: PeerName, spi: int, error: str, now: float
    ) -> list[FastEffect]:
        path = self._paths.get(peer)
        if path is None or path.keys is None:
            return []
        return path.keys.handle_added(spi, error, now)

    def handle_ports_changed(self, now: float) -> list[FastEffect]:
        """Others changed the bridge, so perhaps our tunnels: look at once, not at the next time."""
        self._repair_at = now
        return self._settle((), now)

    def handle_carried(self, peer: PeerName, error: str, now: float) -> list[FastEffect]:
        path = self._paths.get(peer)
        if path is None or path.phase is not Phase.TAKING:
            return []
        if error:
            path.failure = f"no VXLAN device: {error}"
            path.health.failed(now)
            return [
                self._retire(path),
                _log("warning", path, f"frames stay on sleeve: {path.failure}"),
            ]
        path.phase = Phase.CARRYING
        path.failure = ""
        path.since = now
        path.health.came_up(now)
        return [_log("info", path, f"frames to {path.remote_host} go by the fast path now")]

    def handle_macs(self, peer: PeerName, macs: Sequence[bytes], now: float) -> list[FastEffect]:
        path = self._paths.get(peer)
        if path is None or path.phase is not Phase.READING:
            return []
        path.macs = tuple(macs[:MAX_MACS])
        if not self._datapath_is_here:
            return [self._retire(path)]
        path.phase = Phase.LEARNING
        self._due[peer] = now + ANSWER_S
        return self._settle([path], now)

    def handle_retired(self, peer: PeerName, error: str, now: float) -> list[FastEffect]:
        path = self._paths.get(peer)
        if path is None or path.phase is not Phase.RETIRING:
            return []
        if error:
            self._due[peer] = now + ANSWER_S
            return [_log("error", path, f"the tunnel still carries frames: {error}")]
        path.phase = Phase.DRAINING
        self._due[peer] = now + DRAIN_S
        path.macs = ()
        return []

    # --- inputs: time --------------------------------------------------------------------------

    def handle_timeout(self, now: float) -> list[FastEffect]:
        effects: list[FastEffect] = []
        reviewed: Collection[Path] = [
            self._paths[peer] for peer, at in self._due.items() if at <= now
        ]
        for path in reviewed:
            effects += self._go_on(path)
        if self._enabled and now >= self._tick_at:
            self._tick_at = now + TICK_S
            reviewed = self._paths.values()
            for path in reviewed:
                effects += self._beat(path, now)
                if path.keys is not None:
                    effects += path.keys.handle_timeout(now)
        return effects + self._settle(reviewed, now)

    def next_deadline(self) -> Deadline:
        due = earliest(
            *(Deadline(at, f"the path to {peer} goes on") for peer, at in self._due.items())
        )
        if not self._enabled:
            return due
        return earliest(due, Deadline(self._tick_at, "see whether tunnels are healthy"))

    # --- queries -------------------------------------------------------------------------------

    def rows(self, now: float) -> list[FastRow]:
        return [
            FastRow(
                peer=path.peer,
                state=_state(path),
                reason=path.reason(self._port, now),
                remote_host=path.remote_host,
                encrypted=path.tunnel is not None and path.tunnel.encrypted,
                mtu_bytes=path.mtu_bytes(self._mtu_bytes),
                since_s=now - path.since,
                failures=path.health.failures,
                heartbeats_sent=path.beats_sent,
                heartbeats_received=path.health.received,
            )
            for path in self._paths.values()
        ]

    # --- one path ------------------------------------------------------------------------------

    def _path(self, peer: PeerName) -> Path:
        path = self._paths.get(peer)
        if path is None:
            path = Path(peer, self._rng.randbytes(TOKEN_BYTES))
            self._paths[peer] = path
        return path

    def _keys(self, path: Path) -> KeyExchange:
        if path.keys is None:
            opens = self._ourself < path.peer
            path.keys = KeyExchange(path.peer, opens=opens, rng=self._rng, rekey_s=self._rekey_s)
        return path.keys

    def _adopt(self, found: AdoptedTunnel, now: float) -> None:
        path = self._path(found.peer)
        path.tunnel = self._choice.adopted_tunnel(found)
        path.since = now
        self._holders[found.short_id] = found.peer
        if found.carrying:
            path.phase = Phase.CARRYING
            path.health.adopt(now)

    def _step(self, path: Path, now: float) -> list[FastEffect]:
        """Compare what could be with what is, and go at most one step from one to the other."""
        wanted = self._choice.tunnel_to(path, len(self._holders))
        if wanted is not None and self._holders.get(wanted.short_id, path.peer) != path.peer:
            wanted = None
            path.refusal = "another peer had its short id, and that tunnel is not gone yet"
        effects: list[FastEffect] = [*self._choice.offer_to(path, now)]
        if path.phase is Phase.IDLE and path.tunnel != wanted:
            self._exchange_tunnel(path, wanted, now)
        elif path.phase is Phase.IDLE and path.arranged and self._datapath_is_here:
            if path.health.is_good(now) and not path.device_error:
                path.phase = Phase.ANNOUNCED
        elif path.phase is Phase.ANNOUNCED and (path.tunnel != wanted or path.health.is_dead(now)):
            path.phase = Phase.IDLE
            path.generation = -1
        elif path.phase is Phase.CARRYING and path.tunnel != wanted:
            path.failure = path.refusal or "the peer has another address or short id now"
            effects += self._go_down(path, "info")
        elif path.phase is Phase.CARRYING and path.health.is_dead(now):
            path.failure = path.trouble(self._port, now)
            path.health.failed(now)
            effects += self._go_down(path, "warning")
        return effects

    def _exchange_tunnel(self, path: Path, tunnel: Tunnel | None, now: float) -> None:
        if path.tunnel is not None:
            del self._holders[path.tunnel.short_id]
        if tunnel is not None:
            self._holders[tunnel.short_id] = path.peer
        path.replace_tunnel(tunnel, now)

    def _go_down(self, path: Path, level: str) -> list[FastEffect]:
        path.phase = Phase.READING
        path.generation = -1
        return [_log(level, path, f"frames go by sleeve: {path.failure}"), ReadMacs(path.peer)]

    def _retire(self, path: Path) -> Retire:
        path.phase = Phase.RETIRING
        path.generation = -1
        self._due.pop(path.peer, None)
        return Retire(path.peer, path.macs)

    def _go_on(self, path: Path) -> list[FastEffect]:
        """What the path waited for did not come, or its time was all it waited for."""
        del self._due[path.peer]
        if path.phase in (Phase.LEARNING, Phase.RETIRING):
            return [self._retire(path)]
        if path.phase is Phase.DRAINING:
            path.phase = Phase.IDLE
        return []

    def _beat(self, path: Path, now: float) -> list[FastEffect]:
        if now < path.beat_at or path.theirs is None or path.tunnel is None:
            return []
        path.beat_at = max(path.beat_at + BEAT_S, now)
        path.beats_sent += 1
        beat = Heartbeat(path.theirs.token, path.beats_sent, path.health.age_ms(now))
        frame_bytes = _ETHERNET_HEADER_BYTES + path.mtu_bytes(self._mtu_bytes)
        return [SendHeartbeat(path.peer, encode_heartbeat(beat), frame_bytes)]

    # --- all paths -----------------------------------------------------------------------------

    def _settle(self, paths: Iterable[Path], now: float) -> list[FastEffect]:
        effects: list[FastEffect] = []
        for path in list(paths):
            effects += self._step(path, now)
            if path.keys is not None:
                effects += path.keys.handle_tunnel(path.ends, now)
            if path.is_unused:
                del self._paths[path.peer]
        return [*effects, *self._arrange(now), *self._set_fast()]

    def _arrange(self, now: float) -> list[FastEffect]:
        """One at a time: the driver's answer must be for what it was told."""
        if not self._enabled or self._arranging is not None:
            return []
        tunnels = tuple(path.tunnel for path in self._paths.values() if path.tunnel is not None)
        if tunnels == self._arranged and now < self._repair_at:
            return []
        self._arranging = tunnels
        self._repair_at = now + REPAIR_S
        return [Arrange(tunnels, self._mtu_bytes)]

    def _set_fast(self) -> list[FastEffect]:
        """Tell the datapath what is not as it knows it."""
        if not self._datapath_is_here:
            return []
        fast: dict[int, None] = {}
        relays: dict[int, None] = {}
        tunnels: dict[int, None] = {}
        learn: dict[int, tuple[bytes, ...]] = {}
        waiting: list[Path] = []
        for path in self._paths.values():
            if path.tunnel is None:
                continue
            current = self._choice.short_id_of(path.peer) or path.tunnel.short_id
            # Until an old tunnel has ended, routes name the peer by its new short id.
            both = dict.fromkeys((path.tunnel.short_id, current))
            tunnels |= both
            if not path.is_fast:
                continue
            fast |= both
            if path.peer in self._relays:
                relays[current] = None
            if path.waits_for_datapath and path.generation < 0:
                waiting.append(path)
                if path.phase is Phase.LEARNING:
                    learn[current] = path.macs
        told = tuple(fast), tuple(relays), tuple(tunnels)
        if told == self._told and not waiting:
            return []
        self._told = told
        self._generation += 1
        for path in waiting:
            path.generation = self._generation
        return [SetFast(self._generation, told[0], told[1], learn, told[2])]


def _state(path: Path) -> str:
    if path.phase is Phase.CARRYING:
        return "fastdp"
    return "sleeve" if path.tunnel is None else "trying"


def _log(level: str, path: Path, text: str) -> LogLine:
    return LogLine(level, text, (("peer", path.peer),))
