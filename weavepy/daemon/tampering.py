"""Has network policies repaired as soon as somebody else changes their table.

The look every few seconds finds what this misses. Repairs cost a listing of the table, so who
changes it all the time gets a repair now and then, and not all of our time.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from weavepy.base.errors import WeavepyError
from weavepy.kernel.nftevents import TableWatch

log = logging.getLogger(__name__)

PAUSE_S = 0.1
REST = 9
"""Times as long as the repair took, no other begins."""


class Tampering:
    def __init__(
        self, make_watch: Callable[[], TableWatch], repair: Callable[[], Awaitable[None]]
    ) -> None:
        self._make_watch = make_watch
        self._repair = repair
        self._watch: TableWatch | None = None
        self._changed = asyncio.Event()

    def start(self) -> None:
        try:
            self._watch = self._make_watch()
        except OSError as error:
            log.warning("changes of packet filters by others are not heard of: %s", error)
            return
        asyncio.get_running_loop().add_reader(self._watch.fileno(), self._read)

    def close(self) -> None:
        if self._watch is not None:
            asyncio.get_running_loop().remove_reader(self._watch.fileno())
            self._watch.close()
            self._watch = None

    async def repair_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._changed.wait()
            self._changed.clear()
            began = loop.time()
            try:
                await self._repair()
            except WeavepyError as error:
                log.error("network policies are not as they should be: %s", error)
            await asyncio.sleep(PAUSE_S + REST * (loop.time() - began))

    def _read(self) -> None:
        assert self._watch is not None
        if self._watch.read():
            self._changed.set()
