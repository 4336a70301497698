"""What both loops of the datapath share: engine, steering, and the socket to the router.

`process` runs it on epoll, `portable` on asyncio. A loop calls `read_frames` when the TAP has some,
hands datagrams to `engine`, and ends each turn with `end_turn`.
"""

import argparse
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable
from random import SystemRandom

from router.overlay.mac_table import MacTable
from router.overlay.switch import Switch
from router.sleeve.capture import Captures
from router.sleeve.engine import Engine
from router.sleeve.forwarder import DatagramSink
from router.sleeve.link import RouterLink
from router.sleeve.messages import StartCapture, StopCapture
from router.sleeve.outbound import FRAME_BUFFER_BYTES, HEADROOM_BYTES
from router.sleeve.shield import Shield
from router.sleeve.steering import Steering
from router.sleeve.tap import Tap

log = logging.getLogger("weavepy.datapath")

MAX_FRAMES_PER_TURN = 64
MAX_FRAME_BYTES_PER_TURN = 4 * 65_536
"""Read from the TAP before the sockets get their turn: few large frames, or many small ones."""

MAX_WAIT_S = 60.0

PULSE_S = 2.0
"""How often the pid file's time is renewed. Whoever wants to know whether we live looks at that,
without asking: our socket is for one router at a time, and a probe must not cost it."""


class Datapath:
    def __init__(
        self,
        options: argparse.Namespace,
        tap: Tap,
        sink: DatagramSink,
        link: RouterLink,
        udp_port: int,
        *,
        portable: bool,
        udp_offloads: Callable[[], tuple[str, ...]],
        udp_drops: Callable[[], int],
        udp_sockets: Callable[[], Iterable[socket.socket]],
        loop_drops: Callable[[], int] = lambda: 0,
    ) -> None:
        """`loop_drops` counts datagrams that a queue between socket and engine did not take."""
        now = time.monotonic()
        rng = SystemRandom()
        encrypted = not options.insecure
        self.tap = tap
        self.link = link
        self._pid_file = options.pid_file
        self._pulse_at = now
        self.engine = Engine(
            Switch(MacTable()), tap, rng, encrypted=encrypted, bundling=not portable
        )
        self.captures = Captures(tap.name, self.engine.switch.macs, self.engine.watch, time.time_ns)
        self.shield = shield = Shield(udp_sockets, udp_drops, self._peers)
        self.steering = Steering(
            self.engine,
            tap,
            sink,
            rng,
            now,
            link.send,
            encrypted=encrypted,
            udp_port=udp_port,
            mtu_bytes=options.mtu,
            underlay_mtu_bytes=options.underlay_mtu,
            max_span=options.max_span,
            rekey_after_s=options.rekey_after,
            offloads=lambda: (*tap.offloads, *udp_offloads()),
            kernel_drops=lambda: {
                "tap-queue-full": tap.queue_drops(),
                # In this order: both may grow between the two looks.
                "flood-filtered": (refused := shield.refused),
                "udp-queue-full": udp_drops() - refused,
                "loop-queue-full": loop_drops(),
            },
            peers_changed=shield.handle_peers_changed,
            refused_messages=lambda: link.refused_messages,
        )

    def read_frames(self, queue: int, now: float, ready_queues: int = 1) -> None:
        """Take a bounded batch of frames from one of so many queues of the TAP that have some."""
        engine = self.engine
        room = engine.buffer[HEADROOM_BYTES:FRAME_BUFFER_BYTES]
        read_into = self.tap.read_into
        left_bytes = MAX_FRAME_BYTES_PER_TURN // ready_queues
        for _ in range(-(-MAX_FRAMES_PER_TURN // ready_queues)):
            length = read_into(queue, room)
            if not length:
                return
            engine.handle_frame(length, now)
            left_bytes -= length
            if left_bytes <= 0:
                return

    @property
    def next_at(self) -> float:
        """When to end a turn at the latest, though nothing came."""
        return min(self.steering.next_at, self.engine.release_at, self._pulse_at)

    def end_turn(self, now: float) -> None:
        if now >= self.engine.release_at:
            self.steering.handle_effects(self.engine.release(now), now)
        failed = self.engine.flush(now)
        if failed:
            self.steering.handle_failed(failed, now)
        if self.engine.strays.waiting:
            self.steering.handle_strays()
        if now >= self.steering.next_at:
            self.steering.handle_timeout(now)
        if now >= self.shield.check_at:
            self.shield.check(self.engine.unwanted, now)
        if now >= self._pulse_at:
            self._pulse_at = now + PULSE_S
            self._show_life()

    def _show_life(self) -> None:
        try:
            os.utime(self._pid_file)
        except OSError:
            with contextlib.suppress(OSError):  # a disk that takes nothing must not stop frames
                self._pid_file.write_text(f"{os.getpid()}\n")

    def _peers(self) -> list[tuple[int, str]]:
        epochs = self.engine.epochs.items()
        return [(index, forwarder.session.endpoint[0]) for index, (_, forwarder) in epochs]

    def greet_router(self, now: float) -> socket.socket | None:
        """Take a router that connects, in the place of the one before."""
        router = self.link.accept()
        if router is not None:
            log.info("a router connected")
            self.captures.stop_all()
            self.link.send(self.steering.snapshot(now))
        return self.link.router

    def hear_router(self, now: float) -> None:
        for message in self.link.receive():
            match message:
                case StartCapture():
                    self.captures.start(message, self.link.descriptors.popleft())
                case StopCapture(number=number):
                    self.captures.stop(number)
                case _:
                    self.steering.handle_message(message, now)
