"""How a lab comes to be, and how all of it goes.

Going is the more important half. It trusts no file: the state says what may be there, the
namespaces' names say what is, and a process is the lab's if it lives in one of them.
"""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from router.mesh.secret import encode_secret, new_secret
from weavepy.client import schema
from weavepy.lab import readiness, routers, wire
from weavepy.lab.plan import Plan, make_plan
from weavepy.lab.state import State, Store, new_state
from weavepy.lab.system import (
    LabError,
    in_parallel,
    reap,
    require_root,
    require_tool,
    send_signal,
    wait_gone,
    wait_until,
)

READY_TIMEOUT_S = 30.0
READY_TIMEOUT_PER_HOST_S = 3.0
"""A mesh of many hosts on few cores takes longer to start."""

READY_POLL_S = 0.2
"""Asking costs the routers time that they need for getting ready."""

REQUIRED_TOOLS = ("ip",)

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The dimensions of a lab, and what its routers are launched with."""

    hosts: int = 3
    containers: int = 2
    topology: str = "full"
    mtu_bytes: int = 1500
    launch_options: list[str] = field(default_factory=list)
    family: str = "ipv4"
    """Of the underlay: see `plan.FAMILIES`."""
    nat: list[int] = field(default_factory=list)
    """Hosts behind NAT."""
    before_routers: Callable[[Plan], None] = lambda plan: None
    """Called when the wire is there and no router runs: to set up what hosts have besides."""


@dataclass(frozen=True, slots=True)
class Removed:
    namespaces: list[str]
    processes: list[int]


class AlreadyThere(LabError):
    """A lab of this name exists; nothing was done."""


def bring_up(store: Store, wanted: Wanted, report: Report) -> None:
    """Make everything and wait until the mesh is complete and all containers are attached.

    On failure nothing is removed: the caller decides whether to look or to take it down.
    """
    plan = make_plan(
        store.name,
        wanted.hosts,
        wanted.containers,
        wanted.topology,
        wanted.mtu_bytes,
        wanted.family,
        wanted.nat,
    )
    require_root()
    for tool in REQUIRED_TOOLS:
        require_tool(tool)
    with store.lock():
        _refuse_if_there(store)
        state = new_state(plan, wanted.launch_options)
        store.write(state)
        _write_secret(store.secret_file)
        report(f"making {len(plan.namespaces)} namespaces and {len(plan.links)} links")
        wire.build(plan)
        wanted.before_routers(plan)
        report(f"starting {plan.hosts} routers")
        _start_routers(store, state)
        _wait_ready(store, plan, report)
        _attach_all(store, state, report)


def _refuse_if_there(store: Store) -> None:
    left = wire.existing_namespaces(store.name)
    if left or store.file.exists():
        raise AlreadyThere(
            f"there is a lab {store.name!r} already, or what is left of one: end it with"
            f" `weavepy lab down --name {store.name}`, or choose another --name"
        )


def _start_routers(store: Store, state: State) -> None:
    for host in state.plan.host_nodes:
        routers.start(store, state, host)
        store.write(state)


def _wait_ready(store: Store, plan: Plan, report: Report) -> None:
    timeout_s = READY_TIMEOUT_S + plan.hosts * READY_TIMEOUT_PER_HOST_S
    reasons: list[str] = []

    def ready() -> bool:
        _refuse_dead_routers(store, plan)
        found = readiness.missing(plan, _statuses(store, plan))
        if found and found != reasons:
            report(f"waiting: {readiness.summary(found)}")
        reasons[:] = found
        return not found

    if not wait_until(ready, timeout_s, READY_POLL_S):
        raise LabError(
            f"the mesh is not complete after {timeout_s:g} s: {readiness.summary(reasons)}"
        )
    report(f"{plan.hosts} routers see each other")


def _refuse_dead_routers(store: Store, plan: Plan) -> None:
    """A router that ended will never be ready: say so at once, with its last words."""
    reap()
    state = store.read()
    for host in plan.host_nodes:
        record = state.processes.get(f"router {host.name}")
        if record is not None and not record.running:
            words = routers.last_log_lines(store, host)[-1:]
            raise LabError(f"the router of {host.name} ended: {' '.join(words) or 'no word'}")


def _statuses(store: Store, plan: Plan) -> dict[str, schema.Status | str]:
    hosts = plan.host_nodes
    answers = in_parallel(lambda host: routers.status_or_reason(store, host), hosts)
    return {host.name: answer for host, answer in zip(hosts, answers, strict=True)}


def _attach_all(store: Store, state: State, report: Report) -> None:
    nodes = state.plan.container_nodes
    report(f"attaching {len(nodes)} containers")
    attachments = in_parallel(lambda node: routers.attach(store, state.plan, node, []), nodes)
    for node, attachment in zip(nodes, attachments, strict=True):
        state.attached[node.name] = attachment.addresses
    store.write(state)


def _write_secret(file: Path) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as output:
        output.write(encode_secret(new_secret()) + "\n")


def take_down(store: Store) -> Removed:
    """Remove all that is left of the lab, whatever state it is in; never less than all.

    Raises `LabError` if something resists. Without a lab it does nothing.
    """
    require_root()
    with store.lock():
        state = store.read_if_sound()
        recorded = list(state.processes.values()) if state is not None else []
        doomed = [record.pid for record in recorded if record.running]
        for pid in doomed:
            send_signal(pid, signal.SIGKILL)
        namespaces = wire.destroy(store.name)
        stuck = [pid for pid in doomed if not wait_gone(pid, wire.KILL_TIMEOUT_S)]
        if stuck:
            raise LabError(f"processes {stuck} of lab {store.name!r} do not die")
        store.remove()
        store.forget_lock()
    return Removed(namespaces, doomed)
