"""Is the mesh of a lab complete, and if not, what is still missing? Decided from statuses alone."""

from collections.abc import Mapping

from weavepy.client import schema
from weavepy.lab.plan import Plan

MAX_REASONS = 3
"""An operator reads the first few; the others tend to say the same."""


def missing(plan: Plan, statuses: Mapping[str, schema.Status | str]) -> list[str]:
    """Return a line for each thing that is not as it should be; empty: the mesh is complete.

    `statuses` has each host's answer, or the reason why there was none.
    """
    reasons = []
    for host in plan.host_nodes:
        status = statuses.get(host.name, "was not asked yet")
        if isinstance(status, str):
            reasons.append(f"{host.name}: {status}")
        else:
            reasons += _missing_at(plan, host.host, status)
    return reasons


def summary(reasons: list[str]) -> str:
    shown = reasons[:MAX_REASONS]
    more = len(reasons) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def _missing_at(plan: Plan, number: int, status: schema.Status) -> list[str]:
    name = f"h{number}"
    if not status.datapath.running:
        return [f"{name}: its datapath does not run"]
    established = {
        connection.nickname
        for connection in status.connections
        if connection.state == "established"
    }
    reachable = {peer.nickname for peer in status.peers if peer.reachable and peer.route != "none"}
    reasons = []
    for neighbour in (f"h{other}" for other in plan.neighbours(number)):
        if neighbour not in established:
            reasons.append(f"{name}: {_why_not_established(status, neighbour)}")
    far = [host.name for host in plan.host_nodes if host.host != number]
    unknown = [other for other in far if other not in reachable]
    if unknown:
        reasons.append(f"{name}: no route to {', '.join(unknown)}")
    return reasons


def _why_not_established(status: schema.Status, neighbour: str) -> str:
    for connection in status.connections:
        if connection.nickname == neighbour:
            return f"connection to {neighbour} is {connection.state} ({connection.info})"
    failures = [target.last_error for target in status.targets if target.last_error]
    return f"no connection to {neighbour}" + (f" ({failures[0]})" if failures else "")
