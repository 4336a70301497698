"""Two sessions and a network between them, on a clock that only moves when it is told to.

Records are really sealed and opened, so keys that do not fit are noticed. Every nonce that is
used is noted, and using one twice fails the test at once.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from cryptography.exceptions import InvalidTag

from router.sleeve.effects import (
    Endpoint,
    Listen,
    ReceiveEpoch,
    SendControl,
    SendEpoch,
    SessionEffect,
    Unlisten,
)
from router.sleeve.format import HEADER, HEADER_BYTES, TYPE_CONTROL, TYPE_DATA
from router.sleeve.keys import NONCE
from router.sleeve.messages import Epoch
from router.sleeve.session import Session

UDP_IP_BYTES = 28

LATE_S = 60.0
"""A datagram that the network held back comes up to so much later."""


@dataclass
class Side:
    """One host: a session, and the little of the hot path that it needs."""

    name: str
    address: Endpoint
    session: Session
    listening: dict[int, ReceiveEpoch] = field(default_factory=dict)
    log: list[tuple[float, SessionEffect]] = field(default_factory=list)
    delivered: list[int] = field(default_factory=list)
    frozen: bool = False
    skew_s: float = 0.0
    """By how much this host's clock is ahead; it may jump, though never back."""
    unknown_index: int = 0
    not_authentic: int = 0
    replayed: int = 0
    backlog: list[tuple[bytes, Endpoint]] = field(default_factory=list)

    @property
    def deadline_at(self) -> float:
        """By the network's clock."""
        return self.session.next_deadline().at - self.skew_s

    def logged(self, kind: type) -> list[SessionEffect]:
        return [effect for _, effect in self.log if isinstance(effect, kind)]


@dataclass(frozen=True)
class Sent:
    """What a rule of the network may look at."""

    source: str
    is_control: bool
    packet_bytes: int
    endpoint: Endpoint
    index: int


class Network:
    def __init__(
        self,
        *,
        seed: int = 1,
        encrypted: bool = True,
        mtu_bytes: int = 1500,
        delay_s: float = 0.01,
        jitter_s: float = 0.0,
        loss: float = 0.0,
        duplicates: float = 0.0,
        late: float = 0.0,
        receipts: bool = True,
    ) -> None:
        """With `receipts`, sessions are told of the data that came, and tell each other.

        `late` is the share of datagrams that are held back for up to `LATE_S`.
        """
        self.rng = Random(seed)
        self.now = 1000.0
        self.delay_s, self.jitter_s = delay_s, jitter_s
        self.loss, self.duplicates, self.late = loss, duplicates, late
        self.path_mtu_bytes = mtu_bytes
        self.drop: Callable[[Sent], bool] = lambda sent: False
        self.encrypted = encrypted
        self.receipts = receipts
        self._queue: list[tuple[float, int, str, bytes, Endpoint]] = []
        self._sequence = 0
        self._nonces: set[tuple[str, int, bytes, int]] = set()
        self._next_index = 100
        self.sent: list[tuple[float, Sent]] = []
        self.a = self._side("a", "b", mtu_bytes)
        self.b = self._side("b", "a", mtu_bytes)

    def _side(self, name: str, peer: str, mtu_bytes: int) -> Side:
        session = Session(
            peer=peer,
            short_id=1,
            endpoint=(f"10.0.0.{1 + (name == 'a')}", 6783),
            encrypted=self.encrypted,
            underlay_mtu_bytes=mtu_bytes,
            rng=Random(f"{name}{self.rng.random()}"),
            now=self.now,
            new_index=self.new_index,
        )
        return Side(name, (f"10.0.0.{1 + (name == 'b')}", 6783), session)

    def new_index(self) -> int:
        self._next_index += 1
        return self._next_index

    def restart(self, side: Side) -> None:
        """The datapath of this side died and came back with nothing."""
        fresh = self._side(side.name, side.session.peer, 1500)
        side.session = fresh.session
        side.listening.clear()

    def epochs(self) -> tuple[Epoch, Epoch]:
        """What the two routers would agree on: for a and for b."""
        secret = self.rng.randbytes(32)
        mine, yours = self.new_index(), self.new_index()
        return Epoch(secret, True, mine, yours), Epoch(secret, False, yours, mine)

    def install(self, only: str = "ab") -> None:
        for_a, for_b = self.epochs()
        if "a" in only:
            self.perform(self.a, self.a.session.install(for_a, self.b.address, self.clock(self.a)))
        if "b" in only:
            self.perform(self.b, self.b.session.install(for_b, self.a.address, self.clock(self.b)))

    def clock(self, side: Side) -> float:
        return self.now + side.skew_s

    def perform(self, side: Side, effects: list[SessionEffect]) -> None:
        for effect in effects:
            side.log.append((self.now, effect))
            match effect:
                case SendControl(epoch, payload, datagram_bytes, endpoint):
                    room = datagram_bytes - HEADER_BYTES - (16 if self.encrypted else 0)
                    payload += bytes(max(0, room - len(payload)))
                    self._send(side, epoch, TYPE_CONTROL, payload, endpoint)
                case Listen(epoch):
                    assert epoch.local_index not in side.listening
                    side.listening[epoch.local_index] = epoch
                case Unlisten(local_index):
                    del side.listening[local_index]
                case _:
                    pass

    def send_frame(self, side: Side, number: int, size: int = 100) -> bool:
        """As the hot path would: False if there is no epoch to send on."""
        session = side.session
        if session.sending is None:
            return False
        session.last_sent_at = self.clock(side)
        payload = number.to_bytes(8, "big") + bytes(size)
        self._send(side, session.sending, TYPE_DATA, payload, session.endpoint)
        return True

    def _send(
        self, side: Side, epoch: SendEpoch, kind: int, payload: bytes, endpoint: Endpoint
    ) -> None:
        key = b"" if epoch.aead is None else epoch.aead.encrypt(bytes(12 * [255]), b"", b"")
        nonce = (side.name, epoch.remote_index, key, epoch.counter)
        if key:
            nonce = ("", 0, key, epoch.counter)
        assert nonce not in self._nonces, "a nonce was used twice"
        self._nonces.add(nonce)
        header = HEADER.pack(kind, epoch.remote_index, epoch.counter, 0, 1)
        if epoch.aead is not None:
            payload = epoch.aead.encrypt(NONCE.pack(epoch.counter), payload, header)
        epoch.counter += 1
        data = header + payload
        sent = Sent(
            side.name,
            kind == TYPE_CONTROL,
            len(data) + UDP_IP_BYTES,
            endpoint,
            epoch.remote_index,
        )
        self.sent.append((self.now, sent))
        for _ in range(1 + (self.rng.random() < self.duplicates)):
            if self.rng.random() < self.loss or sent.packet_bytes > self.path_mtu_bytes:
                continue
            if self.drop(sent):
                continue
            target = next((x for x in (self.a, self.b) if x.address == endpoint), None)
            if target is None:
                continue
            at = self.now + self.delay_s + self.rng.uniform(0, self.jitter_s)
            if self.late and self.rng.random() < self.late:
                at += self.rng.uniform(0, LATE_S)
            self._sequence += 1
            heapq.heappush(self._queue, (at, self._sequence, target.name, data, side.address))

    def run(
        self, seconds: float, every: Callable[[], None] | None = None, step_s: float = 0.05
    ) -> None:
        """Let time pass; `every` is called each `step_s`."""
        end = self.now + seconds
        next_step = self.now
        while True:
            at = [next_step if every else end]
            if self._queue:
                at.append(self._queue[0][0])
            at += [x.deadline_at for x in (self.a, self.b) if not x.frozen]
            if min(at) >= end:
                self.now = end
                return
            self.now = max(self.now, min(at))
            if every and self.now >= next_step:
                every()
                next_step = self.now + step_s
            while self._queue and self._queue[0][0] <= self.now:
                _, _, name, data, source = heapq.heappop(self._queue)
                self._arrive(self.a if name == "a" else self.b, data, source)
            for side in (self.a, self.b):
                if not side.frozen and side.deadline_at <= self.now:
                    # The maximum, because adding and subtracting the skew rounds.
                    now = max(self.clock(side), side.session.next_deadline().at)
                    self.perform(side, side.session.handle_timeout(now))
                    assert side.session.next_deadline().at > now, "spins"

    def _arrive(self, side: Side, data: bytes, source: Endpoint) -> None:
        if side.frozen:
            side.backlog.append((data, source))
            return
        kind, index, counter, _, _ = HEADER.unpack_from(data)
        epoch = side.listening.get(index)
        if epoch is None:
            side.unknown_index += 1
            return
        if not epoch.window.check(counter):
            side.replayed += 1
            return
        payload = data[HEADER_BYTES:]
        if epoch.aead is not None:
            try:
                payload = epoch.aead.decrypt(NONCE.pack(counter), payload, data[:HEADER_BYTES])
            except InvalidTag:
                side.not_authentic += 1
                return
        epoch.window.accept(counter)
        session, now = side.session, self.clock(side)
        self.perform(side, session.handle_authentic(epoch, counter, source, now))
        if kind == TYPE_CONTROL:
            self.perform(side, session.handle_control(payload, epoch, source, len(data), now))
        else:
            side.delivered.append(int.from_bytes(payload[:8], "big"))
            if self.receipts:
                self.perform(side, session.handle_data(epoch, 1, now))

    def freeze(self, side: Side) -> None:
        side.frozen = True

    def thaw(self, side: Side, timers_first: bool) -> None:
        """The process goes on: with its timers, or with what waits in its socket."""
        side.frozen = False
        if timers_first and side.deadline_at <= self.now:
            self.perform(side, side.session.handle_timeout(self.clock(side)))
        waiting, side.backlog = side.backlog, []
        for data, source in waiting:
            self._arrive(side, data, source)

    def thaw_all(self) -> None:
        for side in (self.a, self.b):
            if side.frozen:
                self.thaw(side, timers_first=self.rng.random() < 0.5)
