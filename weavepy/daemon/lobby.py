"""The doors of a router that waits for its datapath: there is none, or it is of another version.

Only somebody else can change that, and it may take long. Until then frames go on by what is there,
which must not be disturbed: so the router does not join the mesh. But it lives, and whoever asks is
told what it waits for: `weavepy status`, the CNI plugin, `/readyz`, which stops a rollout.
"""

import asyncio
import logging
import signal
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from weavepy.base.errors import WeavepyError
from weavepy.daemon import api, listener
from weavepy.daemon.options import Options

log = logging.getLogger(__name__)

METRICS = b"weavepy_datapath_running 0\nweavepy_warnings 1\n"
"""Of the router's, those that tell that it waits."""


class Lobby:
    """Open from the first `wait_for` to the end of the `async with`."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._what = ""
        self._undo = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._undo.aclose()
        if self._what and isinstance(error, asyncio.CancelledError):
            raise WeavepyError(f"told to stop while {self._what}") from error

    async def wait_for(self, what: str) -> None:
        log.warning("this router waits: %s", what)
        is_open, self._what = bool(self._what), f"this router waits: {what}"
        if not is_open:
            await self._open()

    async def _open(self) -> None:
        loop, waiting = asyncio.get_running_loop(), asyncio.current_task()
        assert waiting is not None
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, waiting.cancel)
            self._undo.callback(loop.remove_signal_handler, number)
        options, socket = self._options, self._options.directories.api_socket
        self._undo.callback(socket.unlink, missing_ok=True)
        runner = await api.serve(api.waiting_application(lambda: self._what), socket)
        self._undo.push_async_callback(runner.cleanup)
        if options.http_address is not None:
            runner = await listener.serve(self._metrics, self._why_not_ready, *options.http_address)
            self._undo.push_async_callback(runner.cleanup)

    async def _metrics(self) -> bytes:
        return METRICS

    async def _why_not_ready(self) -> str:
        return self._what
