"""What a router in Kubernetes mode does, one thing after another, as *talks* with its world.

A talk is a generator. It yields an effect, and is sent what came of it: nothing, a look around, or
what the API server answered. So the order in which things are asked and done reads from top to
bottom, and nothing here knows a socket or a clock; the daemon and a simulator hold the same talks.

What goes wrong ends a talk: whoever holds it closes it. The next begins at the top and does what
is not done yet, so a talk may end anywhere, by a crash even. One `work` is held at a time, and
beside it any number of `settle`: a reclaim waits for one.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeAlias, TypeVar

from kube.core import truth
from kube.core.objects import Node
from kube.core.register import RING_KEY, FirstRing, Home, Register, encode, peer_key
from weavepy.base.effects import LogLine
from weavepy.base.errors import WeavepyError
from weavepy.base.names import PeerName

TICK_S = 2.0

REST_S = 1.0
"""Between two times that it works, once all stands: while a thousand nodes join, one changes every
moment."""
"""How often work is looked for, if no node has changed."""

REGISTER_S = 600.0
"""After how long it is read anew, up to half as long again."""

LOOK_AROUND_S = 5.0
"""So long a new router waits for a peer that has a ring, before it has the first one decided."""

STRANGE_S = 5.0
"""Who owns something, is out of reach and not on record may just have joined: news of the ring
travels faster than that of links. So long we wait until we read the register because of it."""

RECLAIM_S = 20.0
PUT_OFF_S = 30.0
"""After a reclaim that came to nothing, if nothing changes."""

MAX_GONE = 64
"""Nodes that are looked up at once; with more there are more rounds."""

RING_ID_BYTES = 8

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Look:
    """Answered by a `Sight`."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What there is at this moment."""

    now: float
    nodes: Mapping[str, Node] | None
    """As far as we have watched; None until the API server has answered once."""
    changes: int | None = None
    """How often they have changed; None if that is not known."""
    outdated: str = ""
    """Why the nodes may be old; "" while the server tells of each change."""
    reachable: Sequence[PeerName] = ()
    """Without ourself."""
    sessions: Sequence[PeerName] = ()
    """With whom anybody's overlay works, even if their routers are down."""
    ring: str = ""
    """Its id in hex; "" if we have none."""
    owners: Sequence[PeerName] = ()
    """Who has a part in it."""
    is_up_to_date: bool = False
    """Whether the ring's check after a restart is over."""


@dataclass(frozen=True, slots=True)
class DialNodes:
    """These targets instead of all that were given before."""

    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReadRegister:
    """Answered by a `Register`."""


@dataclass(frozen=True, slots=True)
class WriteRegister:
    """Answered by what the register is now, or, where a version is given, by None: it is another
    one by now. A value of None removes a key."""

    changes: Mapping[str, str | None]
    version: str | None = None


@dataclass(frozen=True, slots=True)
class GetNode:
    """From the database; answered by a `Node`, or None if there is none of this name."""

    name: str


@dataclass(frozen=True, slots=True)
class TellVerdicts:
    """Give the ring the take-overs that were decided."""

    verdicts: Mapping[PeerName, tuple[int, PeerName]]
    on_record: bool = True
    """Whether the register says where we live, so that we could be reclaimed."""


@dataclass(frozen=True, slots=True)
class Appoint:
    """Give the ring its first entries."""

    ring_id: bytes
    peers: tuple[PeerName, ...]
    new: bool


@dataclass(frozen=True, slots=True)
class BeGateway:
    """Put the host on the network, with an address from the ring."""


@dataclass(frozen=True, slots=True)
class SayNetworkUp:
    """In the node's condition NetworkUnavailable."""

    node: str


@dataclass(frozen=True, slots=True)
class Reclaim:
    """Have the ring take `peer` over, now that all of `gone` are gone for good. Its
    `SettleTakeOver` becomes a talk of its own, for which this one waits."""

    peer: PeerName
    gone: tuple[PeerName, ...]
    timeout_s: float = field(default=RECLAIM_S, kw_only=True)


Effect = (
    Look
    | DialNodes
    | ReadRegister
    | WriteRegister
    | GetNode
    | TellVerdicts
    | Appoint
    | BeGateway
    | SayNetworkUp
    | Reclaim
    | LogLine
)

Talk: TypeAlias = Generator[Effect, Any, Result]


class Membership:
    """One router's part in the cluster. `universe` is the text of its address range."""

    def __init__(
        self,
        *,
        ourself: PeerName,
        node_name: str,
        universe: str,
        connection_limit: int,
        rng: Random,
        now: float,
    ) -> None:
        self._ourself = ourself
        self._node_name = node_name
        self._universe = universe
        self._connection_limit = connection_limit
        self._rng = rng
        self._started_at = now
        self._register: Register | None = None
        self._register_due_at = now
        self._home: Home | None = None
        """As we have put it on record."""
        self._targets: tuple[str, ...] = ()
        self._changes: int | None = None
        """Of the nodes, when our targets were chosen."""
        self._is_gateway = False
        self._absent_since: dict[PeerName, float] = {}
        """Owners that may be gone, and since when."""
        self._reclaim_at = now
        self._problem = ""
        """What went wrong when we last tried."""
        self._disbelief = ""

    @property
    def rest_s(self) -> float:
        return REST_S if self._is_gateway else 0.0

    def warnings(self) -> list[str]:
        found = [self._problem]
        if self._disbelief:
            found.append(f"no addresses are reclaimed on the API server's word: {self._disbelief}")
        return [text for text in found if text]

    def handle_over(self, problem: str) -> list[LogLine]:
        """The work is done, or this ended it."""
        is_news = problem not in ("", self._problem)
        self._problem = problem
        return [LogLine("warning", f"Kubernetes: {problem}")] if is_news else []

    # --- the work --------------------------------------------------------------------------

    def work(self) -> Talk[None]:
        """Whatever there is to do. Hold it every `TICK_S`, and when a node has changed, but with
        a rest of `rest_s` after the last time."""
        sight: Sight = yield Look()
        if sight.nodes is None:
            return
        if sight.changes is None or sight.changes != self._changes:
            self._changes = sight.changes
            yield from self._dial(sight.nodes)
        register = yield from self._keep_register(sight.nodes, sight.now)
        yield from self._see_to_first_ring(register)
        # First: if all addresses are a dead peer's, nobody gets one before that.
        yield from self._take_turn()
        yield from self._be_gateway()

    def _dial(self, nodes: Mapping[str, Node]) -> Talk[None]:
        wanted = truth.targets(nodes, self._node_name, self._connection_limit)
        if wanted == self._targets:
            return
        self._targets = wanted
        yield LogLine("info", f"the cluster has {len(nodes)} nodes, of which we dial {wanted}")
        yield DialNodes(wanted)

    def _keep_register(self, nodes: Mapping[str, Node], now: float) -> Talk[Register]:
        """Stand in it, and know what it says of take-overs: of ours above all."""
        node = nodes.get(self._node_name)
        home = None if node is None else Home(node.name, node.uid)
        if self._register is not None and home == self._home and now < self._register_due_at:
            return self._register
        register: Register
        if home is None:
            register = yield ReadRegister()
        else:
            register = yield WriteRegister({peer_key(self._ourself): encode(home)})
        self._home = home
        yield from self._know(register)
        return register

    def _know(self, register: Register) -> Talk[None]:
        sight: Sight = yield Look()
        self._register = register
        self._register_due_at = sight.now + REGISTER_S * (1 + self._rng.random() / 2)
        yield TellVerdicts(register.verdicts(), self._ourself in register.homes)

    def _see_to_first_ring(self, register: Register) -> Talk[None]:
        sight: Sight = yield Look()
        if sight.ring:
            if register.ring is None:
                yield from self._decide_ring(FirstRing(sight.ring, (), self._universe), register)
            elif register.ring.id != sight.ring:
                raise WeavepyError(
                    f"this host lives with the ring {sight.ring}, and the cluster with"
                    f" {register.ring.id}: if this host is not needed by another cluster, run"
                    " `weavepy reset` on it"
                )
            return
        decided, new = register.ring, False
        if decided is None:
            if sight.now < self._started_at + LOOK_AROUND_S:
                return
            # Who owns something and is not on record could never be reclaimed.
            others = [peer for peer in sight.reachable if peer in register.homes]
            peers = tuple(sorted({self._ourself, *others}))
            ring = FirstRing(self._rng.randbytes(RING_ID_BYTES).hex(), peers, self._universe)
            decided = yield from self._decide_ring(ring, register)
            new = decided == ring
            sight = yield Look()
        if decided is None or not decided.peers or sight.ring:
            return
        if decided.universe != self._universe:
            raise WeavepyError(
                f"the addresses of the cluster are {decided.universe}, and of this host"
                f" {self._universe}: give all hosts the same --ipalloc-range"
            )
        appointed = tuple(PeerName(peer) for peer in decided.peers)
        yield Appoint(bytes.fromhex(decided.id), appointed, new)

    def _decide_ring(self, ring: FirstRing, seen: Register) -> Talk[FirstRing | None]:
        """Return the one that the register has now: this one, or somebody was faster."""
        register: Register | None = yield WriteRegister({RING_KEY: encode(ring)}, seen.version)
        if register is None:
            register = yield ReadRegister()
        assert register is not None
        yield from self._know(register)
        return register.ring

    def _be_gateway(self) -> Talk[None]:
        """Pods leave the network by the address of their host, and nodes reach pods from it."""
        sight: Sight = yield Look()
        if not sight.ring:
            return
        if not self._is_gateway:
            yield BeGateway()
            self._is_gateway = True
            sight = yield Look()
        assert sight.nodes is not None
        node = sight.nodes.get(self._node_name)
        if node is not None and not node.network_is_up:
            yield SayNetworkUp(node.name)

    # --- those who are gone ----------------------------------------------------------------

    def _take_turn(self) -> Talk[None]:
        """Begin with those whose turn is ours; at most one at a time."""
        sight: Sight = yield Look()
        assert sight.nodes is not None
        assert self._register is not None
        if not sight.ring or not sight.is_up_to_date or sight.outdated:
            return
        alive = {self._ourself, *sight.reachable, *sight.sessions}
        owners = [peer for peer in sight.owners if peer not in alive]
        suspects = truth.suspects(owners, alive, self._register, sight.nodes)
        # Of the others the register may say by now where they live, or who lives there instead.
        unknown = [
            peer
            for peer in truth.strangers(owners, self._register, sight.nodes)
            if peer not in suspects
        ]
        absent = [*suspects, *unknown]
        self._absent_since = {peer: self._absent_since.get(peer, sight.now) for peer in absent}
        due = [
            peer
            for peer, since in self._absent_since.items()
            if sight.now >= since + (STRANGE_S if peer in unknown else 0.0)
            and sight.now >= since + truth.turn_s(peer, self._ourself, sight.reachable)
        ]
        if not due or sight.now < self._reclaim_at:
            return
        self._reclaim_at = sight.now + PUT_OFF_S
        register: Register = yield ReadRegister()
        yield from self._know(register)
        sight = yield Look()
        assert sight.nodes is not None
        self._disbelief = truth.why_not_believed(
            sight.nodes, self._node_name, sight.reachable, register
        )
        if self._disbelief:
            yield LogLine("warning", f"the API server is not believed: {self._disbelief}")
            return
        suspects = truth.suspects(owners, alive, register, sight.nodes)
        gone = yield from self._confirmed(register, suspects)
        for peer in due:
            if peer in gone:
                yield Reclaim(peer, gone)
                self._reclaim_at = sight.now

    def _confirmed(
        self, register: Register, suspects: Sequence[PeerName]
    ) -> Talk[tuple[PeerName, ...]]:
        """Have the API server say once more, from its database, of whom the node is gone."""
        gone: list[PeerName] = []
        for peer in suspects[:MAX_GONE]:
            node: Node | None = yield GetNode(register.homes[peer].node)
            if truth.is_gone(peer, register, node):
                gone.append(peer)
        return tuple(gone)

    def settle(self, peer: PeerName, after: int, epoch: int, taker: PeerName) -> Talk[None]:
        """Have the register decide who takes this peer over, and tell the ring what it says."""
        while True:
            register: Register | None = yield ReadRegister()
            assert register is not None
            found = truth.judge(register, peer, after, epoch, taker)
            if isinstance(found, truth.Write):
                register = yield WriteRegister(found.changes, found.version)
                if register is None:
                    continue
            yield TellVerdicts({peer: (found.epoch, found.taker)})
            return
