"""One timer for a node: it sleeps until the earliest deadline of all cores, and no longer."""

import asyncio
import math
from collections.abc import Callable

from weavepy.base.deadline import Deadline

MIN_SLEEP_S = 0.001
"""A core that asks for the past is served on the next turn of the loop, never in a busy loop."""


class Timer:
    def __init__(self, next_deadline: Callable[[], Deadline], fire: Callable[[], None]) -> None:
        self._next_deadline = next_deadline
        self._fire = fire
        self._handle: asyncio.Handle | None = None
        self._at = math.inf
        """What the handle waits for. uvloop's handle of a time in the past does not know."""

    def arm(self) -> None:
        """Call after every input: what the cores wait for may have changed."""
        loop = asyncio.get_running_loop()
        at = self._next_deadline().at
        if self._handle is not None:
            if self._at == at:
                return
            self._handle.cancel()
            self._handle = None
        self._at = at
        if at != math.inf:
            self._handle = loop.call_at(max(at, loop.time() + MIN_SLEEP_S), self._due)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _due(self) -> None:
        self._handle = None
        self._fire()
