"""Which nodes there are: a list, and a watch that goes on from it, as long as there is a server.

A watch ends for many reasons, and each says what to do next. The server ends it every few
minutes: on from the last version that was heard of, which bookmarks keep young. The server has
forgotten that version (410 Gone): list anew, and what is not in the list has gone meanwhile. The
server is away: try again, less and less often, with jitter, so that a thousand routers do not come
back in one second; until then what was known last stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from kube.core.objects import Expired, Node, decode_event

FIRST_RETRY_S = 1.0
MAX_RETRY_S = 60.0

MIN_WATCH_S = 5.0
"""A watch that ends sooner counts as a failure: a server that is just going away."""


@dataclass(frozen=True, slots=True)
class ListNodes:
    """Then call `handle_listed`, or `handle_ended`."""


@dataclass(frozen=True, slots=True)
class WatchNodes:
    """Pass on each line to `handle_line`, until `handle_ended`."""

    resource_version: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask `next_step` again after this time."""

    seconds: float


Step = ListNodes | WatchNodes | Wait


class NodeWatch:
    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._nodes: dict[str, Node] = {}
        self._version = ""
        self._since = 0.0
        self._retry_s = 0.0
        self.problem = "not asked yet"
        """Why what is known may be old; "" while the server tells of each change."""

    @property
    def nodes(self) -> Mapping[str, Node]:
        return self._nodes

    @property
    def listed(self) -> bool:
        """Whether the server has ever answered."""
        return bool(self._version)

    def next_step(self) -> Step:
        """Return what to do now that nothing is under way."""
        if self._retry_s:
            return Wait(self._retry_s * (0.5 + self._rng.random()))
        return WatchNodes(self._version) if self._version else ListNodes()

    def handle_waited(self) -> Step:
        return WatchNodes(self._version) if self._version else ListNodes()

    def handle_listed(self, nodes: Mapping[str, Node], version: str) -> None:
        self._nodes = dict(sorted(nodes.items()))
        self._version = version
        self._retry_s = 0.0
        self.problem = ""

    def handle_watching(self, now: float) -> None:
        """The server has accepted the watch."""
        self._since = now
        self.problem = ""

    def handle_line(self, line: bytes) -> bool:
        """Return whether a node has changed. Raises what `handle_ended` is to be told of."""
        change = decode_event(line)
        self._version = change.resource_version or self._version
        if change.node is None:
            return False
        before = self._nodes.get(change.node.name)
        if change.deleted:
            self._nodes.pop(change.node.name, None)
        else:
            self._nodes[change.node.name] = change.node
        return before != self._nodes.get(change.node.name)

    def handle_ended(self, error: Exception | None, now: float) -> None:
        """A list failed, or a watch ended, with an error or just so."""
        if isinstance(error, Expired):
            self._version = ""
            self._retry_s = 0.0
            return
        if error is None and now - self._since >= MIN_WATCH_S:
            self._retry_s = 0.0
            return
        self._retry_s = min(MAX_RETRY_S, max(FIRST_RETRY_S, 2 * self._retry_s))
        if error is not None:
            self.problem = str(error)
