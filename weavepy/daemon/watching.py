"""Following kinds of objects of the API server: what carries out the steps of `kube.core.watch`.

All watches of a router lose the server at the same time, and each then waits by itself. The first
that gets through wakes the others: what is known of one kind should not be minutes older than
what is known of another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Generic

from kube.core.kinds import Kind, Thing
from kube.core.watch import Change, Follow, List, Wait, Watch
from kube.shell.api import Api
from weavepy.base.errors import WeavepyError

log = logging.getLogger(__name__)

WAKE_S = 0.5
"""Within which the others follow the one that got through."""


class ServerSeen:
    """Where those wait who found the server away."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._seen = asyncio.Event()

    def say(self) -> None:
        """The server has answered."""
        self._seen.set()
        self._seen = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._seen.wait()
                await asyncio.sleep(WAKE_S * self._rng.random())


class Follower(Generic[Thing]):
    """`tell` gets what changes, a whole list at once; also an empty one, when a list said so."""

    def __init__(
        self,
        api: Api,
        watch: Watch[Thing],
        seen: ServerSeen,
        tell: Callable[[list[Change[Thing]]], None],
    ) -> None:
        self.watch = watch
        self._api = api
        self._seen = seen
        self._tell = tell

    @property
    def kind(self) -> Kind[Thing]:
        return self.watch.kind

    async def follow_for_ever(self) -> None:
        watch = self.watch
        step = watch.next_step()
        while True:
            error: Exception | None = None
            try:
                match step:
                    case Wait(seconds=seconds):
                        await self._seen.wait(seconds)
                        step = watch.handle_waited()
                        continue
                    case List(rest=rest):
                        changes = watch.handle_page(await self._api.list(self.kind, rest))
                        step = watch.next_step()
                        if isinstance(step, Follow):
                            self._tell(changes)
                        continue
                    case Follow(resource_version=version):
                        await self._follow(version)
            except WeavepyError as failure:
                error = failure
            if error is not None and str(error) != watch.problem:
                log.warning("the %s of the cluster: %s", self.kind.resource, error)
            watch.handle_ended(error, asyncio.get_running_loop().time())
            step = watch.next_step()

    async def _follow(self, version: str) -> None:
        async with self._api.watch(self.kind, version) as lines:
            was_away = bool(self.watch.problem)
            self.watch.handle_watching(asyncio.get_running_loop().time())
            if was_away:
                self._seen.say()
            async for line in lines:
                changes = self.watch.handle_line(line)
                if changes:
                    self._tell(changes)
