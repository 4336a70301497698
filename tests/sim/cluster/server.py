"""The API server as a cluster's routers see it: nodes, one register, and bad days.

What it does is what a real one does as far as routers can tell: a list comes from a cache, a watch
tells of each change in order and ends after a while, old versions are forgotten (410), a write with
a version is refused if it is not that one any more (409). It can be away, slow, refuse at random,
and carry out a write whose answer is then lost. Everything that is asked is counted.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kube.core.kinds import Expired
from kube.core.register import Register
from tests.sim.world import World
from weavepy.base.errors import WeavepyError

REFUSED_AFTER_S = 0.002
HANGS_S = 15.0
"""As `kube.shell.api.REQUEST_TIMEOUT_S`."""

WATCH_S = 300.0
BOOKMARK_S = 60.0
KEPT_EVENTS = 10_000

Done = Callable[[Any], None]
"""Takes what came of it, which may be an exception."""


class Away(WeavepyError):
    """No answer."""


class Conflict(WeavepyError):
    """409."""


@dataclass(eq=False)
class Watcher:
    seen: int
    line: Callable[[bytes], None]
    ended: Callable[[Exception | None], None]
    open: bool = True
    last_at: float = 0.0


@dataclass
class Counts:
    requests: dict[str, int] = field(default_factory=dict)
    by_second: dict[int, int] = field(default_factory=dict)
    sent_bytes: dict[str, int] = field(default_factory=dict)
    conflicts: int = 0
    failed: int = 0

    def note(self, verb: str, now: float) -> None:
        self.requests[verb] = self.requests.get(verb, 0) + 1
        self.by_second[int(now)] = self.by_second.get(int(now), 0) + 1


class ApiServer:
    def __init__(self, world: World, *, latency_s: float = 0.01, padding_bytes: int = 0) -> None:
        """`padding_bytes`: how much else there is in the object of a node."""
        self.world = world
        self.nodes: dict[str, dict[str, Any]] = {}
        self.data: dict[str, str] = {}
        self.counts = Counts()
        self.is_up = True
        self.hangs = False
        """While it is away: it does not refuse, but never answers."""
        self.slow_s = 0.0
        self.fail_chance = 0.0
        self.lose_answer_chance = 0.0
        self.on_write: Callable[[Mapping[str, str | None]], None] = lambda changes: None
        self._rng = world.random("API server")
        self._latency_s = latency_s
        self._padding = "x" * padding_bytes
        self._version = 100
        self._register_version = 100
        self._events: list[tuple[int, bytes]] = []
        self._forgotten = 100
        self._watchers: dict[int, Watcher] = {}
        world.later(BOOKMARK_S, self._bookmark)

    # --- what is in it -----------------------------------------------------------------------

    def put_node(self, name: str, uid: str, address: str) -> None:
        """As its kubelet registers it, or again after the object was deleted."""
        kind = "MODIFIED" if name in self.nodes else "ADDED"
        self.nodes[name] = {
            "metadata": {"name": name, "uid": uid, "managedFields": self._padding},
            "status": {"addresses": [{"type": "InternalIP", "address": address}], "conditions": []},
        }
        self._happened(kind, name)

    def touch_node(self, name: str) -> None:
        """Its kubelet says that it is well."""
        self._happened("MODIFIED", name)

    def delete_node(self, name: str) -> None:
        if name in self.nodes:
            self._happened("DELETED", name)
            del self.nodes[name]

    def forget(self) -> None:
        """As etcd's compaction."""
        self._events.clear()
        self._forgotten = self._version

    def _happened(self, kind: str, name: str) -> None:
        self._version += 1
        found = self.nodes[name]
        found["metadata"]["resourceVersion"] = str(self._version)
        line = json.dumps({"type": kind, "object": found}).encode()
        self._events.append((self._version, line))
        if len(self._events) > KEPT_EVENTS:
            self._forgotten = self._events[len(self._events) // 2][0]
            self._events = self._events[len(self._events) // 2 + 1 :]
        for watcher in list(self._watchers.values()):
            self._send(watcher, self._version, line)

    # --- life --------------------------------------------------------------------------------

    def stop(self, hangs: bool) -> None:
        """Whoever watches loses the connection, or with `hangs`, only after a time."""
        self.is_up, self.hangs = False, hangs
        watchers, self._watchers = self._watchers, {}
        for watcher in watchers.values():
            watcher.open = False
            delay_s = HANGS_S * 10 if hangs else self._delay_s()
            self.world.later(delay_s, watcher.ended, Away("the API server is away: reset"))

    def start(self) -> None:
        self.is_up = True

    # --- requests ----------------------------------------------------------------------------

    def list_nodes(self, done: Done) -> None:
        """Gives the body of the answer."""

        def listed() -> bytes:
            meta = {"resourceVersion": str(self._version)}
            return json.dumps({"metadata": meta, "items": list(self.nodes.values())}).encode()

        self._ask("list nodes", listed, done)

    def get_node(self, name: str, done: Done) -> None:
        """Gives the body, or None."""
        self._ask("get node", lambda: self._body_of(name), done)

    def say_network_is_up(self, name: str, done: Done) -> None:
        def patched() -> None:
            if name not in self.nodes:
                raise Away("the API server says 404")
            condition = {"type": "NetworkUnavailable", "status": "False"}
            self.nodes[name]["status"]["conditions"] = [condition]
            self._happened("MODIFIED", name)

        self._ask("patch node status", patched, done)

    def read_register(self, done: Done) -> None:
        self._ask("get register", self._register, done)

    def write_register(
        self, changes: Mapping[str, str | None], version: str | None, done: Done
    ) -> None:
        def written() -> Register:
            if version not in (None, str(self._register_version)):
                self.counts.conflicts += 1
                raise Conflict("the API server says 409")
            self.on_write(changes)
            for key, value in changes.items():
                self.data.pop(key, None)
                if value is not None:
                    self.data[key] = value
            self._version += 1
            self._register_version = self._version
            return self._register()

        self._ask("patch register", written, done)

    def watch_nodes(
        self,
        version: str,
        begun: Callable[[], None],
        line: Callable[[bytes], None],
        ended: Callable[[Exception | None], None],
    ) -> Watcher:
        watcher = Watcher(int(version), line, ended)

        def watches(answer: object) -> None:
            if isinstance(answer, Exception):
                if watcher.open:
                    ended(answer)
                return
            begun()

        def begin() -> None:
            if watcher.seen < self._forgotten:
                raise Expired("too old resource version")
            self._watchers[id(watcher)] = watcher
            watcher.last_at = self.world.now + self._delay_s()
            for number, event in self._events:
                if number > watcher.seen:
                    self._send(watcher, number, event)
            self.world.later(WATCH_S, self._end_watch, watcher)

        self._ask("watch nodes", begin, watches)
        return watcher

    def forsake(self, watcher: Watcher) -> None:
        """The client is gone."""
        watcher.open = False
        self._watchers.pop(id(watcher), None)

    # --- how ---------------------------------------------------------------------------------

    def _ask(self, verb: str, work: Callable[[], object], done: Done) -> None:
        self.counts.note(verb, self.world.now)
        self.world.later(self._delay_s() / 2, self._work, verb, work, done)

    def _work(self, verb: str, work: Callable[[], object], done: Done) -> None:
        if not self.is_up:
            self.counts.failed += 1
            delay_s = HANGS_S if self.hangs else REFUSED_AFTER_S
            self.world.later(delay_s, done, Away("the API server is away"))
            return
        if self._rng.random() < self.fail_chance:
            self.world.later(self._delay_s(), done, Away("the API server says 429"))
            return
        answer: object
        try:
            answer = work()
        except WeavepyError as error:
            answer = error
        if verb != "watch nodes" and self._rng.random() < self.lose_answer_chance:
            self.world.later(HANGS_S, done, Away("the API server is away: timeout"))
            return
        size = len(answer) if isinstance(answer, bytes) else 0
        if verb.endswith("register"):
            size = self.register_bytes()
        self.counts.sent_bytes[verb] = self.counts.sent_bytes.get(verb, 0) + size
        self.world.later(self._delay_s() / 2, done, answer)

    def register_bytes(self) -> int:
        return sum(len(key) + len(value) for key, value in self.data.items())

    def _body_of(self, name: str) -> bytes | None:
        found = self.nodes.get(name)
        return None if found is None else json.dumps(found).encode()

    def _register(self) -> Register:
        return Register.parse(str(self._register_version), dict(self.data))

    def _send(self, watcher: Watcher, version: int, line: bytes) -> None:
        watcher.seen = version
        watcher.last_at = max(watcher.last_at, self.world.now + self._delay_s() / 2)
        sent = self.counts.sent_bytes
        sent["watch nodes"] = sent.get("watch nodes", 0) + len(line)
        self.world.at(watcher.last_at, self._deliver, watcher, line)

    def _deliver(self, watcher: Watcher, line: bytes) -> None:
        if watcher.open:
            watcher.line(line)

    def _end_watch(self, watcher: Watcher) -> None:
        if self._watchers.pop(id(watcher), None) is not None:
            watcher.open = False
            self.world.later(self._delay_s(), watcher.ended, None)

    def _bookmark(self) -> None:
        self.world.later(BOOKMARK_S, self._bookmark)
        meta = {"metadata": {"resourceVersion": str(self._version)}}
        line = json.dumps({"type": "BOOKMARK", "object": meta}).encode()
        for watcher in list(self._watchers.values()):
            self._send(watcher, self._version, line)

    def _delay_s(self) -> float:
        return (self._latency_s + self.slow_s) * (0.5 + self._rng.random())
