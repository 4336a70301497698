"""The portable path: the same engine on asyncio, one frame per datagram, no offloads.

For kernels without virtio headers on TAPs or without UDP_SEGMENT, and for `--no-offload`. The
records are the same, so a portable peer and an offloading one talk to each other: pieces that
an offloading peer sends become ordinary frames here, checksums and all.

Datagrams go through asyncio-dgram. The queues that it makes have no bounds, so it is given ours,
which drop what does not fit and count it. The receiving task never awaits anything else and
empties its queue each time it runs.
"""

import argparse
import asyncio
import signal
import socket
import time
from collections.abc import Sequence
from typing import Any, cast

from asyncio_dgram.aio import DatagramServer, Protocol

from router.sleeve.datapath import MAX_WAIT_S, Datapath
from router.sleeve.link import RouterLink
from router.sleeve.tap import Tap
from router.sleeve.udp import Endpoint, open_socket, queue_drops
from weavepy.base.errors import WeavepyError

MAX_WAITING_DATAGRAMS = 2_048
"""Of each address family, in each direction. More than that come faster than they go on."""

MAX_WAITING_ERRORS = 16


class DroppingQueue(asyncio.Queue[Any]):
    """Takes what fits and counts the rest: asyncio-dgram knows no other answer than that."""

    dropped = 0

    def put_nowait(self, item: Any) -> None:
        if self.full():
            self.dropped += 1
        else:
            super().put_nowait(item)


class QueueSink:
    """Takes datagrams from the engine and hands them to the sending tasks."""

    def __init__(self) -> None:
        self.queues: dict[bool, asyncio.Queue[tuple[bytes, Endpoint]]] = {}
        """By whether it is for IPv6."""

    def send(
        self, parts: Sequence[bytes | memoryview], size: int, count: int, endpoint: Endpoint
    ) -> str:
        queue = self.queues.get(":" in endpoint[0])
        if queue is None:
            return "EAFNOSUPPORT"
        if queue.qsize() + count > queue.maxsize:
            return "ENOBUFS"  # all of them, which is what the caller counts
        for at in range(0, len(parts), 2):
            queue.put_nowait((b"".join(parts[at : at + 2]), endpoint))
        return ""


def run_portable(options: argparse.Namespace, tap: Tap, link: RouterLink) -> None:
    """Move frames until the router or a signal says to end."""
    asyncio.run(_Portable(options, tap, link).run())


class _Portable:
    def __init__(self, options: argparse.Namespace, tap: Tap, link: RouterLink) -> None:
        self._sink = QueueSink()
        self._tap = tap
        self._link = link
        self._port: int = options.port
        self._sockets: list[socket.socket] = []
        self._received: list[DroppingQueue] = []
        self._datapath = Datapath(
            options,
            tap,
            self._sink,
            link,
            options.port,
            portable=True,
            udp_offloads=tuple,
            udp_drops=lambda: sum(map(queue_drops, self._sockets)),
            loop_drops=lambda: sum(queue.dropped for queue in self._received),
            udp_sockets=lambda: self._sockets,
        )
        self._ending = asyncio.Event()
        self._failure: WeavepyError | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._router: socket.socket | None = None
        self._router_fd = -1

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._ending.set)
        streams = await self._open_streams()
        tasks = []
        for is_ipv6, stream in streams.items():
            self._sink.queues[is_ipv6] = asyncio.Queue(MAX_WAITING_DATAGRAMS)
            tasks.append(asyncio.create_task(self._receive(stream), name="datapath receive"))
            tasks.append(
                asyncio.create_task(
                    self._send(stream, self._sink.queues[is_ipv6]), name="datapath send"
                )
            )
        for queue in self._tap.queues():
            loop.add_reader(queue, self._read_tap, queue)
        loop.add_reader(self._link.listener.fileno(), self._greet_router)
        self._end_turn()
        ending = asyncio.create_task(self._ending.wait(), name="datapath end")
        try:
            # A task that ends by itself has failed, and its error should be seen.
            done, _ = await asyncio.wait((ending, *tasks), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if self._failure is not None:
                raise self._failure
        finally:
            for queue in self._tap.queues():
                loop.remove_reader(queue)
            loop.remove_reader(self._link.listener.fileno())
            for task in (ending, *tasks):
                task.cancel()
            await asyncio.gather(ending, *tasks, return_exceptions=True)
            for stream in streams.values():
                stream.close()

    async def _open_streams(self) -> dict[bool, DatagramServer]:
        streams = {}
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                udp = open_socket(family, self._port)
            except OSError:
                continue
            self._sockets.append(udp)
            streams[family == socket.AF_INET6] = await self._open_stream(udp)
        if not streams:
            raise WeavepyError("this host has neither IPv4 nor IPv6")
        return streams

    async def _open_stream(self, udp: socket.socket) -> DatagramServer:
        """What `asyncio_dgram.from_socket` does, but with bounds."""
        received = DroppingQueue(MAX_WAITING_DATAGRAMS)
        errors = DroppingQueue(MAX_WAITING_ERRORS)
        drained = asyncio.Event()
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: Protocol(received, errors, drained), sock=udp
        )
        self._received.append(received)
        # Its annotation says that it takes a protocol; it is a transport that it uses.
        return DatagramServer(cast(Any, transport), received, errors, drained)

    async def _receive(self, stream: DatagramServer) -> None:
        datapath = self._datapath
        while True:
            try:
                datagram, address = await stream.recv()
            except OSError:
                # An earlier send met it; UDP goes on.
                continue
            now = time.monotonic()
            length = len(datagram)
            host, port = cast(tuple[Any, ...], address)[:2]
            effects = datapath.engine.handle_datagrams(
                memoryview(datagram), length, length, (host, port), now
            )
            datapath.steering.handle_effects(effects, now)
            self._end_turn()

    async def _send(
        self,
        stream: DatagramServer,
        queue: asyncio.Queue[tuple[bytes, Endpoint]],
    ) -> None:
        while True:
            datagram, endpoint = await queue.get()
            try:
                await stream.send(datagram, endpoint)
            except OSError as error:
                # It belongs to an earlier datagram, whose it was is not known; this one, which
                # the error came instead of, has not been sent.
                self._datapath.engine.drop(f"send-{type(error).__name__}")

    def _read_tap(self, queue: int) -> None:
        try:
            self._datapath.read_frames(queue, time.monotonic())
        except WeavepyError as error:
            self._failure = error
            self._ending.set()
        self._end_turn()

    def _greet_router(self) -> None:
        self._datapath.greet_router(time.monotonic())
        self._watch_router()

    def _hear_router(self) -> None:
        self._datapath.hear_router(time.monotonic())
        self._end_turn()

    def _end_turn(self) -> None:
        self._datapath.end_turn(time.monotonic())
        self._watch_router()
        steering = self._datapath.steering
        if steering.shutdown_wanted:
            self._ending.set()
        if self._datapath.next_at != self._timer_at or self._timer is None:
            self._set_timer(self._datapath.next_at)

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        wait_s = max(0.0, min(at - time.monotonic(), MAX_WAIT_S))
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._handle_timer)

    def _handle_timer(self) -> None:
        self._timer = None
        self._end_turn()

    def _watch_router(self) -> None:
        """Follow the connection of the router, which any message to it may have ended."""
        router = self._link.router
        if router is self._router:
            return
        loop = asyncio.get_running_loop()
        if self._router_fd >= 0:
            loop.remove_reader(self._router_fd)
        self._router = router
        self._router_fd = -1 if router is None else router.fileno()
        if router is not None:
            loop.add_reader(self._router_fd, self._hear_router)
