"""A host for worlds of a thousand: the real cores, and as little around them as they notice.

Sessions of the datapath come up a moment after both ends have keys and go down after their peer's
datapath has ended; there are no probes and no frames. The checkers of `tests.sim.checkers`, which
look at each host after each input, are replaced by what the run looks at itself. What is counted:
the time that all takes that a host is given, and what it sends, by kind.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from ipam.core.effects import AnswerRequest
from ipam.core.ipam import Ipam
from router.mesh import connection
from router.mesh.connection import Connection
from router.mesh.mesh import Mesh
from router.mesh.messages import ControlMessage
from router.sleeve.messages import (
    SESSION_DEAD_S,
    InstallEpoch,
    InstallRoutes,
    RemoveSession,
    Report,
    SessionDown,
    SessionUp,
    ToDatapath,
)
from tests.sim.checkers import Checkers
from tests.sim.cluster.member import Member
from tests.sim.datapath import Datapath, Session
from tests.sim.network import PORT
from tests.sim.peers import Host, Request

SESSION_UP_S = 0.05


class FewCheckers(Checkers):
    """No address is on two hosts; and requests are answered, well or not, and counted."""

    def router_started(self, host: Host) -> None:
        pass

    def router_ended(self, host: Host) -> None:
        pass

    def watch_channel(self, host: Host, ipam: Ipam) -> Any:
        return ipam

    def watch_mesh(self, host: Host, mesh: Mesh) -> None:
        pass

    def after_input(self, host: Host) -> None:
        pass

    def persisted(self, host: Host) -> None:
        pass

    def answered(self, host: Host, request: Request | None, answer: AnswerRequest) -> None:
        if request is not None:
            name = f"{request.kind} {answer.kind or 'ok'}"
            self.answers[name] = self.answers.get(name, 0) + 1


class LightDatapath(Datapath):
    """Without a tick of its own."""

    def _tick(self) -> None:
        pass

    def handle_message(self, message: ToDatapath) -> None:
        match message:
            case InstallEpoch(peer=peer, endpoint_host=address):
                session = self.sessions.setdefault(peer, Session(peer, address))
                session.address = address
                if not session.up:
                    self._world.later(SESSION_UP_S, self._come_up, session)
            case RemoveSession(peer=peer):
                self.sessions.pop(peer, None)
            case InstallRoutes():
                self.routes = message
                self.changed_at = self._world.now
            case Report():
                self._tell(self.snapshot())

    def _come_up(self, session: Session) -> None:
        if self.alive and self.sessions.get(session.peer) is session and not session.up:
            session.up = True
            session.reason = ""
            self._tell(SessionUp(session.peer, session.address, PORT))

    def lose(self, peer: str) -> None:
        session = self.sessions.get(peer)
        if self.alive and session is not None and session.up:
            session.up = False
            self._tell(SessionDown(peer, f"nothing heard for {SESSION_DEAD_S:g} s"))


class LightMember(Member):
    busy_ns = 0
    """By the wall clock, which is quick to read: on a busy machine, more than processor time."""

    def _start_datapath(self) -> None:
        self._datapaths += 1
        self.datapath = LightDatapath(self, 1000 * (self.number + 1) + self._datapaths, 0)

    def _end_datapath(self) -> None:
        datapath = self.datapath
        super()._end_datapath()
        for session in [] if datapath is None else datapath.sessions.values():
            other = self.network.host_at(session.address)
            if other is not None and isinstance(other.datapath, LightDatapath):
                self.world.later(SESSION_DEAD_S, other.datapath.lose, self.name)

    def start(self) -> None:
        self._timed(super().start)

    def post(self, action: Callable[..., None], *arguments: object) -> None:
        self._timed(super().post, action, *arguments)

    def _fire(self, run: int, wake: int) -> None:
        self._timed(super()._fire, run, wake)

    def _drain(self, run: int) -> None:
        self._timed(super()._drain, run)

    def _timed(self, work: Callable[..., None], *arguments: object) -> None:
        if self._is_timed:
            work(*arguments)
            return
        self._is_timed = True
        begun = time.perf_counter_ns()
        try:
            work(*arguments)
        finally:
            self.busy_ns += time.perf_counter_ns() - begun
            self._is_timed = False

    _is_timed = False


class Traffic:
    """What all hosts have sent over control connections, by kind: messages and bytes."""

    def __init__(self) -> None:
        self.messages: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    @contextmanager
    def counted(self, heartbeats: bool) -> Iterator[None]:
        """Without heartbeats nobody sends them and nobody misses them."""
        seal = Connection._seal

        def counted(link: Connection, message: ControlMessage, now: float) -> bytes:
            data = seal(link, message, now)
            kind = type(message).__name__
            channel = getattr(message, "channel", "")
            name = f"{kind} {channel}".strip()
            self.messages[name] += 1
            self.bytes[name] += len(data)
            return data

        with ExitStack() as stack:
            stack.enter_context(patch.object(Connection, "_seal", counted))
            if not heartbeats:
                stack.enter_context(patch.object(connection, "HEARTBEAT_S", 1e9))
                stack.enter_context(patch.object(connection, "DEAD_S", 1e9))
            yield

    def take(self) -> dict[str, tuple[int, int]]:
        """Messages and bytes of each kind since this was called last."""
        taken = {kind: (self.messages[kind], self.bytes[kind]) for kind in sorted(self.messages)}
        self.messages.clear()
        self.bytes.clear()
        return taken


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
