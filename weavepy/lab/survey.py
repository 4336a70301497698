"""What a lab looks like now: its hosts, and the addresses of its containers."""

from dataclasses import dataclass
from pathlib import Path

from weavepy.base.errors import WeavepyError
from weavepy.client import schema
from weavepy.lab import routers
from weavepy.lab.plan import Node
from weavepy.lab.state import State, Store
from weavepy.lab.system import in_parallel


@dataclass(frozen=True, slots=True)
class HostStatus:
    name: str
    namespace: str
    router_pid: int | None
    datapath_pid: int | None
    containers: dict[str, list[str]]
    """Addresses by container, as the router tells now, or as they were attached if it is away."""
    status: schema.Status | None
    reason: str
    """Why there is no status."""


@dataclass(frozen=True, slots=True)
class LabStatus:
    state: State
    hosts: list[HostStatus]


def survey(store: Store) -> LabStatus:
    state = store.read()
    hosts = in_parallel(lambda host: _host_status(store, state, host), state.plan.host_nodes)
    return LabStatus(state, hosts)


def _host_status(store: Store, state: State, host: Node) -> HostStatus:
    plan = state.plan
    answer = routers.status_or_reason(store, host)
    return HostStatus(
        name=host.name,
        namespace=plan.namespace(host),
        router_pid=routers.router_pid(store, plan, host),
        datapath_pid=routers.datapath_pid(store, plan, host),
        containers=addresses_on(store, state, host),
        status=None if isinstance(answer, str) else answer,
        reason=answer if isinstance(answer, str) else "",
    )


def addresses_on(store: Store, state: State, host: Node) -> dict[str, list[str]]:
    """Of the containers of one host: as its router tells, or as remembered if it is away."""
    plan = state.plan
    own = [node for node in plan.container_nodes if node.host == host.host]
    remembered = {node.name: state.attached.get(node.name, []) for node in own}
    try:
        attachments = routers.api(store, host).attachments().attachments
    except WeavepyError:
        return remembered
    by_namespace = {Path(entry.namespace).name: entry.addresses for entry in attachments}
    return {node.name: by_namespace.get(plan.namespace(node), []) for node in own}
