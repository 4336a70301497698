"""A lab, for commands and tests: `Lab(name)` and then `up`, `ping`, `link`, `router`, ..., `down`.

    with Lab("demo") as lab:
        lab.up(Wanted(hosts=3, containers=2))
        assert lab.ping().ok

A `Lab` object holds nothing but a name: all state is in the lab's directory, so any process can
go on with what another one began.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec

from weavepy.base.errors import UsageError
from weavepy.base.settings import DEFAULT_PORT
from weavepy.client import schema
from weavepy.client.api import Api
from weavepy.lab import impair, life, nat, routers, wire
from weavepy.lab.echo import Pair, ping_matrix
from weavepy.lab.life import Removed, Report, Wanted
from weavepy.lab.plan import Link, Node, Plan
from weavepy.lab.state import Impairment, State, Store
from weavepy.lab.survey import LabStatus, addresses_on, survey
from weavepy.lab.system import (
    LabError,
    in_namespace,
    in_parallel,
    inside,
    reap,
    wait_until,
)

START_TIMEOUT_S = 90.0
"""For a router that is started again: one or two seconds, but 22 where sixty others want two cores.
One that fails ends, and is not waited for."""

ROUTER_ACTIONS = ("kill", "stop", "start", "pause", "resume")

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class LinkChange:
    """What to change of a link; None leaves as it is, 0 takes away."""

    down: bool | None = None
    loss: float | None = None
    delay_ms: float | None = None
    mtu_bytes: int | None = None
    rate_bits: int | None = None
    duplicate: float | None = None
    reorder: float | None = None

    def applied_to(self, old: Impairment) -> Impairment:
        new = {name: getattr(self, name) for name in self.__slots__}
        return msgspec.structs.replace(old, **{k: v for k, v in new.items() if v is not None})


@dataclass(frozen=True, slots=True)
class PingResult:
    pairs: list[Pair]

    @property
    def ok(self) -> bool:
        return all(pair.ok for pair in self.pairs)


class Lab:
    def __init__(self, name: str = "lab", root: Path | None = None) -> None:
        self.name = name
        self.store = Store(name, root)

    def __enter__(self) -> "Lab":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()

    @property
    def plan(self) -> Plan:
        return self.store.read().plan

    # --- up and down -----------------------------------------------------------------------------

    def up(self, wanted: Wanted | None = None, report: Report = lambda line: None) -> None:
        """See `life.bring_up`; on failure what there is remains until `down`."""
        life.bring_up(self.store, wanted or Wanted(), report)

    def down(self) -> Removed:
        """See `life.take_down`."""
        return life.take_down(self.store)

    # --- what one does with it -------------------------------------------------------------------

    def api(self, host: str, timeout_s: float = 10.0) -> Api:
        """The control API of a host's router."""
        return routers.api(self.store, self.plan.node(host), timeout_s)

    def status(self) -> LabStatus:
        return survey(self.store)

    def addresses(self) -> dict[str, list[str]]:
        """Of each container, "ADDRESS/LENGTH", as its router tells."""
        state = self.store.read()
        per_host = in_parallel(
            lambda host: addresses_on(self.store, state, host), state.plan.host_nodes
        )
        return {name: found for addresses in per_host for name, found in addresses.items()}

    def address(self, container: str) -> str:
        """The first address of a container, without the length."""
        node = self.plan.container(container)
        found = addresses_on(self.store, self.store.read(), Node(node.host)).get(node.name)
        if not found:
            raise LabError(f"{container} has no address; `weavepy lab status` shows the containers")
        return found[0].split("/")[0]

    def ping(self, count: int = 3) -> PingResult:
        """Every container to every other; a pair is tried `count` times at most."""
        plan = self.plan
        addresses = self.addresses()
        names = [node.name for node in plan.container_nodes]
        pairs = [
            Pair(source, destination, addresses[destination][0].split("/")[0])
            for source in names
            for destination in names
            if source != destination and addresses[destination]
        ]
        silent = [
            Pair(source, destination, "")
            for source in names
            for destination in names
            if source != destination and not addresses[destination]
        ]
        namespaces = {node.name: plan.namespace(node) for node in plan.container_nodes}
        ping_matrix(namespaces, pairs, count)
        return PingResult(sorted([*pairs, *silent], key=lambda pair: _order(plan, pair)))

    def link(self, one: str, other: str, change: LinkChange) -> Impairment:
        """Change what is wrong with a link; returns all that is wrong with it now."""
        with self.store.changing() as state:
            plan = state.plan
            link = plan.link(one, other)
            old = state.impairments.get(link.name, Impairment())
            new = change.applied_to(old)
            impair.apply(plan, link, new)
            self._renew_relay(state, link, old, new)
            if new == Impairment():
                state.impairments.pop(link.name, None)
            else:
                state.impairments[link.name] = new
        return new

    def _renew_relay(self, state: State, link: Link, old: Impairment, new: Impairment) -> None:
        role = f"delay {link.name}"
        running = state.process(role)
        if running and impair.needs_relay(new) and new.relay == old.relay:
            return
        impair.stop_relay(running)
        state.processes.pop(role, None)
        if impair.needs_relay(new):
            log = self.store.path / f"delay-{link.name}.log"
            state.processes[role] = impair.start_relay(state.plan, link, new, log)

    def move(self, host: str) -> None:
        """Give a host other underlay addresses, as when a laptop is carried away; then back."""
        with self.store.changing() as state:
            node = state.plan.host(host)
            away = node.name not in state.moved
            wire.move(state.plan, node.host, away=away)
            if away:
                state.moved.append(node.name)
            else:
                state.moved.remove(node.name)

    def rebind(self, host: str) -> None:
        """Let a host's gateway forget its connections and use other ports from now on."""
        with self.store.changing() as state:
            node = self._behind_nat(state.plan, host)
            state.rebound[node.name] = state.rebound.get(node.name, 0) + 1
            nat.masquerade(state.plan, node.host, state.rebound[node.name])

    def open_port(self, host: str, port: int = DEFAULT_PORT) -> None:
        """Make a host behind NAT reachable at its gateway's addresses, until it is rebound."""
        plan = self.plan
        nat.open_port(plan, self._behind_nat(plan, host).host, port)

    def plug_in(self, host: str, other: str) -> None:
        """Give a host behind NAT an interface and an address at which `other` can reach it."""
        plan = self.plan
        nat.plug_in(plan, self._behind_nat(plan, host).host, plan.link(host, other))

    def _behind_nat(self, plan: Plan, host: str) -> Node:
        node = plan.host(host)
        if node.host not in plan.nat:
            raise UsageError(f"{host} is not behind NAT: `weavepy lab up --nat {host}` does that")
        return node

    def router(self, host: str, action: str) -> None:
        """One of `ROUTER_ACTIONS`. "start" returns when the router answers."""
        with self.store.changing() as state:
            plan = state.plan
            node = plan.host(host)
            if action == "kill":
                routers.signal_router(self.store, plan, node, signal.SIGKILL)
            elif action == "pause":
                routers.signal_router(self.store, plan, node, signal.SIGSTOP)
            elif action == "resume":
                routers.signal_router(self.store, plan, node, signal.SIGCONT)
            elif action == "stop":
                routers.stop(self.store, plan, node)
            else:
                assert action == "start"
                self._start_again(state, node)

    def _start_again(self, state: State, host: Node) -> None:
        if routers.router_pid(self.store, state.plan, host) is not None:
            raise LabError(f"the router of {host.name} runs already")
        record = routers.start(self.store, state, host)

        def answers_or_ended() -> bool:
            reap()
            return not record.running or not isinstance(
                routers.status_or_reason(self.store, host), str
            )

        if not wait_until(answers_or_ended, START_TIMEOUT_S) or not record.running:
            words = routers.last_log_lines(self.store, host)[-1:]
            raise LabError(f"the router of {host.name} does not come up: {' '.join(words)}")

    def attach(self, container: str, addresses: Sequence[str] = ()) -> schema.Attachment:
        """As `weavepy attach`; each address is "net:default", "net:CIDR" or "ip:ADDRESS/LENGTH"."""
        plan = self.plan
        return routers.attach(self.store, plan, plan.container(container), list(addresses))

    def detach(self, container: str) -> list[str]:
        """Returns the addresses that were freed."""
        plan = self.plan
        node = plan.container(container)
        request = schema.DetachRequest(namespace=plan.namespace(node))
        return routers.api(self.store, node).detach(request).released

    # --- inside ----------------------------------------------------------------------------------

    def namespace(self, node: str) -> str:
        """The namespace of a host or container, or of the wire ("wire")."""
        plan = self.plan
        return plan.wire if node == "wire" else plan.namespace(plan.node(node))

    def command(self, node: str, argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """The command line and environment that run `argv` in a host or container."""
        where = self.plan.node(node)
        if where.container:
            settings = dict(os.environ)
        else:
            settings = routers.environment(self.store, where.name)
        return inside(self.plan.namespace(where), argv), settings

    def exec(
        self, node: str, argv: Sequence[str], timeout_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end in a host or container and return what it printed."""
        command, settings = self.command(node, argv)
        return subprocess.run(
            command, env=settings, capture_output=True, text=True, timeout=timeout_s
        )

    def inside(self, node: str, make: Callable[[], Made]) -> Made:
        """Make something, typically a socket, that belongs to the namespace of a node."""
        return in_namespace(self.namespace(node), make)

    def last_log_lines(self) -> dict[str, list[str]]:
        """The end of each router's log; what there is, if the lab is not whole."""
        state = self.store.read_if_sound()
        hosts = state.plan.host_nodes if state is not None else []
        return {host.name: routers.last_log_lines(self.store, host) for host in hosts}


def _order(plan: Plan, pair: Pair) -> tuple[Node, Node]:
    return plan.node(pair.source), plan.node(pair.destination)
