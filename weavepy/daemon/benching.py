"""`weavepy bench`: two routers, a container on each, and what passes between them.

    our router                                their router
      Ask(number, seconds)         ->          starts an end, attaches it, lets it serve
      starts an end, attaches it   <-          Ready(number, address, port), or Refused
      lets it measure
      Done(number)                 ->          ends it, which takes the container away

The messages travel as unicasts of a gossip channel that has no state, so relays carry them too.
They may get lost, so `Ask` is repeated, and an end that was forgotten ends by itself. One
measurement at a time, either way: two would measure each other.
"""

import asyncio
import contextlib
import json
import logging
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_interface
from random import SystemRandom
from typing import Any

import msgspec

from router.mesh.mesh import Mesh
from weavepy.base.errors import ProtocolError, UsageError, WeavepyError
from weavepy.base.names import PeerName
from weavepy.base.wire import Decoder, encode
from weavepy.client import schema
from weavepy.daemon.api import NotReady, TimedOut
from weavepy.daemon.attachments import Attachments
from weavepy.daemon.capture import find_peer
from weavepy.daemon.measure import READY

log = logging.getLogger(__name__)

CHANNEL = "bench"

MAX_SECONDS = 30.0
ASK_AGAIN_S = 2.0
READY_TIMEOUT_S = 20.0
"""For the other side to start and attach its end."""
SETUP_S = 30.0
"""What a measurement takes beside the TCP runs, at most."""

Tell = Callable[[PeerName, bytes], None]


class Ask(msgspec.Struct, frozen=True, tag=True):
    number: int
    seconds: float


class Ready(msgspec.Struct, frozen=True, tag=True):
    number: int
    address: str
    port: int


class Refused(msgspec.Struct, frozen=True, tag=True):
    number: int
    reason: str


class Done(msgspec.Struct, frozen=True, tag=True):
    number: int


_decoder = Decoder(Ask | Ready | Refused | Done, "bench message")


class Stateless:
    """The channel: it only carries unicasts."""

    def digest(self) -> bytes:
        return b""

    def answer(self, digest: bytes) -> bytes | None:
        return None

    def combine(self, first: bytes, second: bytes) -> bytes:
        return second


class Benching:
    def __init__(self, mesh: Mesh, attachments: Attachments, tell: Tell) -> None:
        self._mesh = mesh
        self._attachments = attachments
        self._tell = tell
        self._rng = SystemRandom()
        self._measuring = asyncio.Lock()
        self._asked: tuple[PeerName, int, asyncio.Future[Ready]] | None = None
        self._serving: tuple[PeerName, int, asyncio.Event, asyncio.Task[None]] | None = None
        self._ready: Ready | None = None
        """What we told whom we serve; None while we are not ready."""

    async def bench(self, request: schema.BenchRequest) -> schema.BenchAnswer:
        if not 0 < request.seconds <= MAX_SECONDS:
            raise UsageError(f"a TCP run takes up to {MAX_SECONDS:g} s, not {request.seconds:g}")
        peer = find_peer(self._mesh, request.peer)
        row = next(row for row in self._mesh.peer_rows() if row.name == peer)
        if row.ourself:
            raise UsageError(f"{request.peer} is this host: name another")
        if not row.reachable or row.route == "none":
            raise NotReady(f"there is no route to {request.peer}: see `weavepy status peers`")
        if self._measuring.locked() or self._serving is not None:
            raise NotReady("a measurement is under way here: try again when it is over")
        async with self._measuring, self._end() as (end, _):
            number = self._rng.getrandbits(62)
            try:
                ready = await self._ask(peer, number, request.seconds)
                result = await end.ask(
                    {
                        "do": "measure",
                        "address": ready.address,
                        "port": ready.port,
                        "seconds": request.seconds,
                    },
                    SETUP_S + 3 * request.seconds,
                )
            finally:
                self._say(peer, Done(number))
        return schema.BenchAnswer(
            peer=peer, nickname=row.nickname, route=row.route, seconds=request.seconds, **result
        )

    async def _ask(self, peer: PeerName, number: int, seconds: float) -> Ready:
        answer: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._asked = (peer, number, answer)
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                while True:
                    self._say(peer, Ask(number, seconds))
                    with contextlib.suppress(TimeoutError):
                        return await asyncio.wait_for(asyncio.shield(answer), ASK_AGAIN_S)
        except TimeoutError as error:
            raise TimedOut(
                f"{self._mesh.nickname(peer)} did not answer within {READY_TIMEOUT_S:g} s: does it"
                " run an older version?"
            ) from error
        finally:
            self._asked = None

    def handle(self, source: PeerName, payload: bytes) -> None:
        """A message of another router's."""
        try:
            message = _decoder.decode(payload)
        except ProtocolError as error:
            log.warning("%s peer=%s", error, source)
            return
        match message:
            case Ask():
                self._handle_ask(source, message)
            case Ready(number=number) | Refused(number=number):
                if self._asked is None or self._asked[:2] != (source, number):
                    return
                answer = self._asked[2]
                if answer.done():
                    return
                if isinstance(message, Ready):
                    answer.set_result(message)
                else:
                    nickname = self._mesh.nickname(source)
                    answer.set_exception(NotReady(f"{nickname} refuses: {message.reason}"))
            case Done(number=number):
                if self._serving is not None and self._serving[:2] == (source, number):
                    self._serving[2].set()

    def _handle_ask(self, source: PeerName, ask: Ask) -> None:
        if self._serving is not None and self._serving[:2] == (source, ask.number):
            if self._ready is not None:
                self._say(source, self._ready)  # the first one got lost
            return
        if self._serving is not None or self._measuring.locked():
            self._say(source, Refused(ask.number, "a measurement is under way there"))
            return
        if not 0 < ask.seconds <= MAX_SECONDS:
            self._say(source, Refused(ask.number, f"{ask.seconds:g} s is too long"))
            return
        done = asyncio.Event()
        task = asyncio.create_task(self._serve(source, ask, done), name="bench")
        self._serving = (source, ask.number, done, task)

    async def _serve(self, source: PeerName, ask: Ask, done: asyncio.Event) -> None:
        try:
            async with self._end() as (end, address):
                port = (await end.ask({"do": "serve"}, SETUP_S))["port"]
                self._ready = Ready(ask.number, address, port)
                self._say(source, self._ready)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(SETUP_S + 3 * ask.seconds):
                        await done.wait()
        except WeavepyError as error:
            self._say(source, Refused(ask.number, str(error)))
        finally:
            self._ready = self._serving = None

    async def close(self) -> None:
        """End what we serve; what we measure ends with its request."""
        if self._serving is not None:
            task = self._serving[3]
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @asynccontextmanager
    async def _end(self) -> AsyncIterator[tuple["End", str]]:
        """A process that is attached, and its address."""
        end = await End.start()
        try:
            attached = await self._attachments.attach(schema.AttachRequest(pid=end.pid))
            try:
                yield end, str(ip_interface(attached.addresses[0]).ip)
            finally:
                with contextlib.suppress(WeavepyError):
                    await self._attachments.detach(schema.DetachRequest(pid=end.pid))
        finally:
            await end.stop()

    def _say(self, peer: PeerName, message: Ask | Ready | Refused | Done) -> None:
        self._tell(peer, encode(message))


class End:
    """A `measure` process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._input, self._output = process.stdin, process.stdout

    @property
    def pid(self) -> int:
        return self._process.pid

    @classmethod
    async def start(cls) -> "End":
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "weavepy.daemon.measure",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        end = cls(process)
        line = await end._read_line(SETUP_S)
        if line != READY:
            await end.stop()
            raise NotReady(f"cannot measure here: {line.decode(errors='replace').strip()}")
        return end

    async def ask(self, wanted: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """What it answers; raises `WeavepyError` for what went wrong there."""
        self._input.write(json.dumps(wanted).encode() + b"\n")
        try:
            answer = json.loads(await self._read_line(timeout_s))
        except ValueError as error:
            raise WeavepyError("the measuring process ended: see the router's log") from error
        if "error" in answer:
            raise WeavepyError(answer["error"])
        assert isinstance(answer, dict)
        return answer

    async def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        self._input.close()
        with contextlib.suppress(ConnectionError):
            await self._input.wait_closed()

    async def _read_line(self, timeout_s: float) -> bytes:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._output.readline()
        except TimeoutError as error:
            raise TimedOut(f"no result within {timeout_s:g} s") from error
