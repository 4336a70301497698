"""Mistakes in connections, routes and sessions, as patches of the real cores."""

from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

from ipam.core.ring import Entry
from router.mesh import links, routes
from router.mesh.clones import CloneWatch
from router.mesh.links import Links
from router.mesh.neighbours import Neighbour, Verdict
from router.mesh.topology import Topology
from router.overlay.broadcast import BroadcastFilter
from router.sleeve.negotiation import Negotiator
from tests.router.mesh import test_connection


def broadcast_without_choosing_parents() -> Sequence[Any]:
    """Every neighbour that is nearer to the source passes a broadcast on."""

    def children(ourself: int, graph: Sequence[int], *_: object) -> dict[int, list[int]]:
        distance = _distances(graph)
        mine = [at for at in range(len(graph)) if graph[ourself] >> at & 1]
        return {
            source: [at for at in mine if distance[source][at] == distance[source][ourself] + 1]
            for source in range(len(graph))
            if ourself in distance[source]
        }

    return [patch.object(routes, "broadcast_children", children)]


def broadcasts_not_filtered() -> Sequence[Any]:
    """A loop while routes change delivers a frame again."""
    everything = patch.object(BroadcastFilter, "accept", lambda *_: True)
    return [everything, *broadcast_without_choosing_parents()]


def orphans_dropped_at_once() -> Sequence[Any]:
    disconnect = Links._disconnect

    def dropped(me: Links, connection: Any, reason: str, now: float, left: bool = False) -> None:
        disconnect(me, connection, reason, now, True)

    return [patch.object(Links, "_disconnect", dropped)]


def one_way_links_taken_for_routes() -> Sequence[Any]:
    return [patch.object(routes, "is_mutual", lambda links, one, other: links[one] >> other & 1)]


def duplicates_kept_by_who_dialled() -> Sequence[Any]:
    """Each end keeps the connection that it dialled itself, and so neither is kept."""

    def judge(neighbour: Neighbour | None, *, outbound: bool, **_: Any) -> Verdict:
        if neighbour is None or not neighbour.connected or neighbour.outbound == outbound:
            return (
                Verdict.KEEP
                if neighbour is None or not neighbour.connected
                else (Verdict.DUPLICATE)
            )
        return Verdict.REPLACE if outbound else Verdict.DUPLICATE

    return [patch.object(links, "judge", judge), patch.object(test_connection, "judge", judge)]


def both_ends_of_duplicates() -> None:
    for low_dialled_first in (True, False):
        test_connection.test_of_two_connections_both_ends_keep_the_one_that_the_lower_name_dialled(
            low_dialled_first
        )


def any_sign_of_our_key_is_ourself() -> Sequence[Any]:
    """A clone that dials us is taken for the echo of our own dialling."""

    def heard(watch: CloneWatch, mark: bytes) -> str | None:
        return watch._meetings.popleft()[1] if watch._meetings else None

    return [patch.object(CloneWatch, "heard_our_key", heard)]


def tie_not_broken() -> Sequence[Any]:
    """Of two contents of one version each keeps the one that it had."""

    def join(mine: Entry, other: Entry) -> Entry:
        return mine if mine.version >= other.version else other

    return [patch.object(Entry, "join", join)]


def dead_peers_never_collected() -> Sequence[Any]:
    return [patch.object(Topology, "collect", lambda topology, alive, now: [])]


def session_never_opened_again() -> Sequence[Any]:
    """What the two ends remember differently is never mended."""

    def nothing(negotiator: Negotiator, now: float) -> list[Any]:
        for control in negotiator._controls.values():
            control.reopen_at = float("inf")
        return []

    lost = Negotiator._compare

    def compare(negotiator: Negotiator, snapshot: Any, now: float) -> list[Any]:
        negotiator._datapath_pid = snapshot.pid
        return lost(negotiator, snapshot, now)

    return [
        patch.object(Negotiator, "handle_timeout", nothing),
        patch.object(Negotiator, "_compare", compare),
    ]


def _distances(graph: Sequence[int]) -> list[dict[int, int]]:
    found = []
    for source in range(len(graph)):
        at = {source: 0}
        layer = [source]
        while layer:
            following = []
            for one in layer:
                for other in range(len(graph)):
                    if graph[one] >> other & 1 and other not in at:
                        at[other] = at[one] + 1
                        following.append(other)
            layer = following
        found.append(at)
    return found
