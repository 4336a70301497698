"""Requests to the ring that wait: a number for the core, a future for whoever asked."""

import asyncio
import itertools
from collections.abc import Callable

from ipam.core.effects import AnswerRequest, ErrorKind
from weavepy.base.errors import UsageError, WeavepyError
from weavepy.daemon.api import Conflict, NotFound, NotReady, TimedOut

MAX_REQUESTS = 4096
"""Waiting at the same time; a caller in a loop must not fill the memory."""

ANSWER_MARGIN_S = 1.0
"""The core answers at its deadline; if even that fails (the disk refuses), we do, a bit later."""


class OutsideUniverse(UsageError):
    """The address is nobody's in the ring; it can be attached, and nobody keeps it unique."""


class Requests:
    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[AnswerRequest]] = {}

    async def ask(
        self,
        start: Callable[[int], None],
        cancel: Callable[[int], None],
        timeout_s: float,
        why_late: Callable[[], str],
    ) -> AnswerRequest:
        """Start a request under a new number and wait for its answer.

        Raises what the core said is wrong as a `WeavepyError`, and `TimedOut` if it said
        nothing at all. Whoever stops waiting cancels the request.
        """
        if len(self._waiting) >= MAX_REQUESTS:
            raise NotReady(f"{MAX_REQUESTS} requests wait for addresses already: try again later")
        number = next(self._numbers)
        future: asyncio.Future[AnswerRequest] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            start(number)
            async with asyncio.timeout(timeout_s + ANSWER_MARGIN_S):
                return await future
        except TimeoutError as error:
            raise TimedOut(f"no answer within {timeout_s:g} s: {why_late()}") from error
        finally:
            del self._waiting[number]
            if not future.done() or future.cancelled():
                cancel(number)

    def answer(self, effect: AnswerRequest) -> None:
        future = self._waiting.get(effect.request)
        if future is None or future.done():
            return
        if effect.error is None:
            future.set_result(effect)
        else:
            future.set_exception(answer_error(effect.error, effect.kind))


def answer_error(text: str, kind: ErrorKind) -> WeavepyError:
    """The ring's refusal as the error that tells whose fault it is."""
    return _ERRORS.get(kind, WeavepyError)(text)


_ERRORS: dict[ErrorKind, type[WeavepyError]] = {
    "usage": UsageError,
    "outside-universe": OutsideUniverse,
    "reserved": UsageError,
    "in-use": Conflict,
    "no-space": NotReady,
    "frozen": NotReady,
    "timeout": TimedOut,
    "disk": NotReady,
    "leaving": NotReady,
    "too-many": NotReady,
    "unknown": NotFound,
    "alive": Conflict,
    "no-majority": NotReady,
}
