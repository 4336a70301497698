"""Which objects of a kind there are: a list, and a watch that goes on from it, as long as it goes.

A watch ends for many reasons, and each says what to do next. The server ends it every few
minutes: on from the last version that was heard of, which bookmarks keep young. The server has
forgotten that version (410 Gone): list anew, and what is not in the list has gone meanwhile. The
server is away: try again, less and less often, with jitter, and the later the more there is to be
told of, so that a thousand routers do not come back in one second; until then what was known last
stays.

A list comes in pages, and is one change: nobody sees half of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Generic

from kube.core.kinds import Expired, Kind, Page, Thing

FIRST_RETRY_S = 1.0
MAX_RETRY_S = 60.0

SPREAD_S = 0.01
"""For each thing that is known: a server that has come back is asked by a thousand routers within
ten seconds, and not at once."""

MAX_SPREAD_S = 10.0

MIN_WATCH_S = 5.0
"""A watch that ends sooner counts as a failure: a server that is just going away."""


@dataclass(frozen=True, slots=True)
class List:
    """One page of them. Then call `handle_page`, or `handle_ended`."""

    rest: str = ""
    """By which the page before asks for this one."""


@dataclass(frozen=True, slots=True)
class Follow:
    """Pass on each line to `handle_line`, until `handle_ended`."""

    resource_version: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask `next_step` again after this time."""

    seconds: float


Step = List | Follow | Wait


@dataclass(frozen=True, slots=True)
class Change(Generic[Thing]):
    """It is new or another than before, or `gone`: then it is as it was last."""

    thing: Thing
    gone: bool = False


class Watch(Generic[Thing]):
    def __init__(self, kind: Kind[Thing], rng: Random, known: Iterable[Thing] = ()) -> None:
        self.kind = kind
        self._rng = rng
        self._things = {thing.key: thing for thing in known}
        self._listing: dict[str, Thing] = {}
        """Pages that came of a list that is not whole yet."""
        self._rest = ""
        self._version = ""
        self._since = 0.0
        self._retry_s = 0.0
        self.changes = 0
        """How often anything has changed."""
        self.listed = False
        """Whether the server has ever answered."""
        self.has_failed = False
        """Whether it was asked last in vain."""
        self.problem = "not asked yet"
        """Why what is known may be old; "" while the server tells of each change."""

    @property
    def things(self) -> Mapping[str, Thing]:
        """By key. Until the server has answered: what was `known` at the beginning."""
        return self._things

    def next_step(self) -> Step:
        """Return what to do now that nothing is under way."""
        if self._retry_s:
            spread_s = min(MAX_SPREAD_S, SPREAD_S * len(self._things))
            jitter = self._rng.random()
            return Wait(self._retry_s * (0.5 + jitter) + spread_s * self._rng.random())
        return self.handle_waited()

    def handle_waited(self) -> Step:
        return Follow(self._version) if self._version else List(self._rest)

    def handle_page(self, page: Page[Thing]) -> list[Change[Thing]]:
        """Return what is other than before, if this was the last page of the list."""
        self._retry_s = 0.0
        self.has_failed = False
        self._listing.update((thing.key, thing) for thing in page.things)
        self._rest = page.rest
        if page.rest:
            return []
        before, self._things = self._things, self._listing
        self._listing = {}
        self._version = page.version
        self.listed = True
        self.problem = ""
        self.changes += 1
        gone = [Change(one, gone=True) for key, one in before.items() if key not in self._things]
        return gone + [Change(one) for key, one in self._things.items() if before.get(key) != one]

    def handle_watching(self, now: float) -> None:
        """The server has accepted the watch."""
        self._since = now
        self.problem = ""

    def handle_line(self, line: bytes) -> list[Change[Thing]]:
        """Return what has changed, if anything. Raises what `handle_ended` is to be told of."""
        event = self.kind.decode_event(line)
        self._version = event.version or self._version
        if event.thing is None:
            return []
        key = event.thing.key
        if event.deleted:
            known = self._things.pop(key, None)
            self.changes += 1
            return [] if known is None else [Change(event.thing, gone=True)]
        if self._things.get(key) == event.thing:
            return []
        self._things[key] = event.thing
        self.changes += 1
        return [Change(event.thing)]

    def handle_ended(self, error: Exception | None, now: float) -> None:
        """A list failed, or a watch ended, with an error or just so."""
        self._listing, self._rest = {}, ""
        if isinstance(error, Expired):
            # Others are told the same at this moment, so all wait a little.
            self._version = ""
            self._retry_s = FIRST_RETRY_S
            return
        if error is None and now - self._since >= MIN_WATCH_S:
            self._retry_s = 0.0
            return
        self.has_failed = True
        self._retry_s = min(MAX_RETRY_S, max(FIRST_RETRY_S, 2 * self._retry_s))
        if error is not None:
            self.problem = str(error)
