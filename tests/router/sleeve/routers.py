"""Two routers above the two sessions of a `Network`: what mends what sessions alone cannot.

Real negotiators over a control connection that can break, and that comes back a second later if
both routers live. Routers and datapaths can be restarted; a datapath that was removed a session
or restarted has none until its router installs an epoch.
"""

from random import Random

from router.sleeve.effects import CameUp, WentDown
from router.sleeve.messages import (
    InstallEpoch,
    RemoveSession,
    SessionDown,
    SessionReport,
    SessionUp,
    Snapshot,
)
from router.sleeve.negotiation import NegotiationEffect, Negotiator, TellDatapath, TellPeer
from tests.router.sleeve.reports import session, snapshot
from tests.router.sleeve.virtual import Network, Side
from weavepy.base.names import PeerName

CONTROL_DELAY_S = 0.02
RECONNECT_S = 1.0


class Router:
    def __init__(self, side: Side, seed: int) -> None:
        self.side = side
        self.peer = PeerName(side.session.peer)
        self.negotiator: Negotiator | None = None
        self.datapath_pid = 1
        self.has_session = False
        self.events_read = 0
        self.rng = Random(f"{seed} {side.name}")

    def reports(self) -> list[SessionReport]:
        return [session(self.peer, self.side.session.up)] if self.has_session else []

    def snapshot(self) -> Snapshot:
        return snapshot(*self.reports(), pid=self.datapath_pid)


class Routers:
    def __init__(self, network: Network, seed: int) -> None:
        self._network = network
        self.a, self.b = Router(network.a, seed), Router(network.b, seed)
        self.connected = False
        self.control_works = True
        self._connect_at = network.now
        self._secrets = Random(seed)
        self._in_flight: list[tuple[float, Router, bytes]] = []
        for router in (self.a, self.b):
            self.start(router)

    def other(self, router: Router) -> Router:
        return self.b if router is self.a else self.a

    def of(self, side: Side) -> Router:
        return self.a if side is self.a.side else self.b

    # --- what befalls them -------------------------------------------------------------------

    def start(self, router: Router) -> None:
        router.negotiator = Negotiator(router.reports(), router.rng)
        router.events_read = len(router.side.log)
        self._tell(router, router.snapshot())

    def kill(self, router: Router) -> None:
        router.negotiator = None
        self.disconnect()

    def restart_datapath(self, router: Router) -> None:
        self._network.restart(router.side)
        router.has_session = False
        router.datapath_pid += 1
        router.events_read = len(router.side.log)
        if router.negotiator is not None:
            now = self._network.clock(router.side)
            self._perform(router, router.negotiator.handle_datapath_lost("it died", now))
            self._tell(router, router.snapshot())

    def disconnect(self) -> None:
        self._in_flight.clear()
        self._connect_at = self._network.now + RECONNECT_S
        if not self.connected:
            return
        self.connected = False
        for router in (self.a, self.b):
            if router.negotiator is not None:
                self._perform(router, router.negotiator.handle_disconnected(router.peer, False))

    # --- time passes -------------------------------------------------------------------------

    def step(self) -> None:
        """Call often: everything that is due happens."""
        network = self._network
        self._connect_if_due()
        for router in (self.a, self.b):
            self._pass_events(router)
        due = [message for message in self._in_flight if message[0] <= network.now]
        self._in_flight = [message for message in self._in_flight if message[0] > network.now]
        for _, router, payload in due:
            if router.negotiator is not None:
                now = network.clock(router.side)
                self._perform(router, router.negotiator.handle_message(router.peer, payload, now))
        for router in (self.a, self.b):
            now = network.clock(router.side)
            if router.negotiator is not None and router.negotiator.next_deadline().at <= now:
                self._perform(router, router.negotiator.handle_timeout(now))

    def _connect_if_due(self) -> None:
        network = self._network
        one, other = self.a.negotiator, self.b.negotiator
        if self.connected or not self.control_works or network.now < self._connect_at:
            return
        if one is None or other is None:
            return
        self.connected = True
        secret = self._secrets.randbytes(32)
        for router in (self.a, self.b):
            host, port = self.other(router).side.address
            assert router.negotiator is not None
            effects = router.negotiator.handle_connected(
                router.peer, host, port, secret, router is self.a, network.clock(router.side)
            )
            self._perform(router, effects)

    def _pass_events(self, router: Router) -> None:
        log = router.side.log
        while router.events_read < len(log):
            _, event = log[router.events_read]
            router.events_read += 1
            if isinstance(event, CameUp):
                self._tell(router, SessionUp(router.peer, *event.endpoint))
            elif isinstance(event, WentDown):
                self._tell(router, SessionDown(router.peer, event.reason))

    def _tell(self, router: Router, message: Snapshot | SessionUp | SessionDown) -> None:
        if router.negotiator is not None:
            now = self._network.clock(router.side)
            self._perform(router, router.negotiator.handle_datapath(message, now))

    def _perform(self, router: Router, effects: list[NegotiationEffect]) -> None:
        network, side = self._network, router.side
        for effect in effects:
            match effect:
                case TellPeer(payload=payload) if self.connected:
                    at = network.now + CONTROL_DELAY_S
                    self._in_flight.append((at, self.other(router), payload))
                case TellDatapath(InstallEpoch() as message):
                    router.has_session = True
                    endpoint = message.endpoint_host, message.endpoint_port
                    now = network.clock(side)
                    network.perform(side, side.session.install(message.epoch, endpoint, now))
                case TellDatapath(RemoveSession()):
                    router.has_session = False
                    network.perform(side, side.session.close())
                    network.restart(side)
                case _:
                    pass
