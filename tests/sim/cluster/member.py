"""A host that is a node of a cluster: it does to the cores what `weavepy.daemon.kubernetes` does.

Talks are held, and a watch is kept, as long as the router's process lives. The host's own address
on the network stands for the daemon's `expose`.
"""

from collections.abc import Callable
from typing import Any

from ipam.core.effects import AnswerRequest, SettleTakeOver
from ipam.core.election import Appointed
from ipam.core.ipam import Ipam
from kube.core import membership
from kube.core.membership import TICK_S, Membership, Sight, Talk
from kube.core.objects import NODES, Node
from kube.core.watch import Follow, List, Step, Wait, Watch
from tests.sim.checkers import Checkers
from tests.sim.cluster.server import ApiServer, Conflict, Watcher
from tests.sim.network import Network
from tests.sim.peers import Host, Settings
from tests.sim.world import World
from weavepy.base.effects import LogLine
from weavepy.base.errors import WeavepyError

GATEWAY = "weave:expose"
GATEWAY_S = 20.0


class Member(Host):
    def __init__(
        self,
        world: World,
        network: Network,
        checkers: Checkers,
        number: int,
        settings: Settings,
        server: ApiServer,
    ) -> None:
        settings.init = Appointed()
        super().__init__(world, network, checkers, number, settings)
        self.server = server
        self.node_name = f"n{number + 1}"
        self.uid = 0
        """Of its node's object; 0 while there is none."""
        self.core: Membership | None = None
        self.problems: dict[str, int] = {}
        self._waiting: dict[int, Callable[[Any], None]] = {}
        self._watcher: Watcher | None = None

    # --- the node's object -------------------------------------------------------------------

    def register_node(self) -> None:
        """Its kubelet does, whatever the router does."""
        self.uid += 1
        self.server.put_node(self.node_name, f"{self.node_name}-{self.uid}", self.address)

    @property
    def has_node(self) -> bool:
        return self.node_name in self.server.nodes

    @property
    def watch_problem(self) -> str:
        return self._watch.problem

    # --- life --------------------------------------------------------------------------------

    def start(self) -> None:
        before = self.run
        super().start()
        if self.node is None or self.run != before + 1:
            return
        rng = self.world.random(f"kubernetes {self.number} {self.run}")
        self._watch: Watch[Node] = Watch(NODES, rng)
        self.core = Membership(
            ourself=self.name,
            node_name=self.node_name,
            universe=str(self.settings.universe),
            connection_limit=self.settings.connection_limit,
            rng=rng,
            now=self.now,
        )
        self._works = self._woken = False
        self._waiting.clear()
        self._follow(self._watch.next_step())
        self._tick(self.run)

    def _end_router(self) -> None:
        super()._end_router()
        if self._watcher is not None:
            self.server.forsake(self._watcher)
            self._watcher = None

    def _mine(self, action: Callable[..., None]) -> Callable[..., None]:
        """What reaches this run of the router only."""
        run = self.run

        def act(*arguments: Any) -> None:
            if run == self.run:
                self.post(action, *arguments)

        return act

    # --- the watch ---------------------------------------------------------------------------

    def _follow(self, step: Step) -> None:
        match step:
            case Wait(seconds=seconds):
                self.world.later(seconds, self._mine(self._waited))
            case List():
                self.server.list_nodes(self._mine(self._listed))
            case Follow(resource_version=version):
                self._watcher = self.server.watch_nodes(
                    version,
                    self._mine(self._watching),
                    self._mine(self._line),
                    self._mine(self._ended),
                )

    def _waited(self) -> None:
        self._follow(self._watch.handle_waited())

    def _listed(self, answer: bytes | Exception) -> None:
        if isinstance(answer, Exception):
            self._ended(answer)
            return
        self._watch.handle_page(NODES.decode_page(answer))
        self._wake()
        self._follow(self._watch.next_step())

    def _watching(self) -> None:
        self._watch.handle_watching(self.now)

    def _line(self, line: bytes) -> None:
        if self._watch.handle_line(line):
            self._wake()

    def _ended(self, error: Exception | None) -> None:
        self._watcher = None
        self._watch.handle_ended(error, self.now)
        self._follow(self._watch.next_step())

    # --- the work ----------------------------------------------------------------------------

    def _tick(self, run: int) -> None:
        if run == self.run:
            self._wake()
            self.world.later(TICK_S, self._tick, run)

    def _wake(self) -> None:
        if self._works:
            self._woken = True
        elif self.running:
            self._works = True
            self.post(self._work)

    def _work(self) -> None:
        assert self.core is not None
        self._hold(self.core.work(), self._over)

    def _over(self, problem: str) -> None:
        assert self.core is not None
        if problem:
            self.problems[problem] = self.problems.get(problem, 0) + 1
            self.trace(f"problem: {problem}")
        self.core.handle_over(problem)
        self.world.later(self.core.rest_s, self._mine(self._rested))

    def _rested(self) -> None:
        self._works = False
        if self._woken:
            self._woken = False
            self._wake()

    def settle(self, effect: SettleTakeOver) -> None:
        assert self.core is not None
        talk = self.core.settle(effect.peer, effect.after, effect.epoch, effect.taker)
        self._hold(talk, lambda problem: None)

    def _hold(self, talk: Talk[None], over: Callable[[str], None], answer: Any = None) -> None:
        """Go on with a talk until something has to be waited for."""
        again = self._mine(lambda answer: self._hold(talk, over, answer))
        run = self.run
        while run == self.run:
            try:
                if isinstance(answer, Exception):
                    raise answer
                effect = talk.send(answer)
            except StopIteration:
                over("")
                return
            except WeavepyError as error:
                talk.close()
                over(str(error))
                return
            if self._ask_server(effect, again):
                return
            answer = self._do(effect)

    def _ask_server(self, effect: membership.Effect, again: Callable[[Any], None]) -> bool:
        match effect:
            case membership.ReadRegister():
                self.server.read_register(again)
            case membership.WriteRegister(changes=changes, version=version):
                self.trace(f"writes {sorted(changes)} into the register")

                def written(answer: object) -> None:
                    lost = isinstance(answer, Conflict) and version is not None
                    again(None if lost else answer)

                self.server.write_register(changes, version, written)
            case membership.GetNode(name=name):

                def got(body: bytes | Exception | None) -> None:
                    again(NODES.decode(body) if isinstance(body, bytes) else body)

                self.server.get_node(name, got)
            case membership.SayNetworkUp(node=name):
                self.server.say_network_is_up(name, again)
            case membership.BeGateway():
                self._when_answered(again)
                self.attach(GATEWAY, None, GATEWAY_S)
            case membership.Reclaim(peer=peer, gone=gone, timeout_s=timeout_s):
                self._when_answered(again)
                self.ask(
                    "reclaim",
                    "",
                    lambda ipam, number, deadline, now: ipam.reclaim(
                        number, peer, gone, deadline, now
                    ),
                    timeout_s,
                )
            case _:
                return False
        return True

    def _when_answered(self, again: Callable[[Any], None]) -> None:
        """What is asked of the ring next has this to go on with."""
        self._waiting[self._next_request + 1] = again

    def _answered(self, answer: AnswerRequest) -> None:
        super()._answered(answer)
        again = self._waiting.pop(answer.request, None)
        if again is not None:
            again(None if answer.error is None else WeavepyError(answer.error))

    def _do(self, effect: membership.Effect) -> Sight | None:
        node = self._node()
        mesh, ipam = node.mesh, node.ipam
        assert ipam is not None
        now = self.now
        match effect:
            case membership.Look():
                return self._sight(ipam)
            case membership.DialNodes(targets=targets):
                self._guarded(lambda: node.run(mesh.connect(targets, True, now), now))
            case membership.TellVerdicts(verdicts=verdicts, on_record=on_record):
                self._guarded(
                    lambda: node.run_ring(ipam.handle_verdicts(verdicts, now, on_record), now)
                )
            case membership.Appoint(ring_id=ring_id, peers=peers, new=new):
                self._guarded(lambda: node.run_ring(ipam.appoint(ring_id, peers, new, now), now))
            case LogLine(message=text):
                self.trace(f"log: {text}")
        return None

    def _sight(self, ipam: Ipam) -> Sight:
        mesh = self._node().mesh
        return Sight(
            now=self.now,
            nodes=self._watch.things if self._watch.listed else None,
            changes=self._watch.changes,
            outdated=self._watch.problem,
            reachable=mesh.reachable_peers,
            sessions=list(mesh.routes.unicast),
            ring="" if ipam.ring is None else ipam.ring.ring_id.hex(),
            owners=[] if ipam.ring is None else list(ipam.ring.owners()),
            is_up_to_date=ipam.is_up_to_date,
        )
