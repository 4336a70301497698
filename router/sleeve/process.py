"""The datapath process: `python -m router.sleeve.process --socket ... --tap ...`.

It outlives the router that started it, so it is in a session of its own, has its own pid file
and ends only by a `Shutdown` message or SIGTERM. Both take the TAP, the socket and the pid file
away.

The loop is epoll and nothing else. What a framework would add per event (handles, callbacks,
futures) is paid per wake-up, and under a stream of frames a wake-up brings one to three dozen
datagrams; here it is one system call. Each turn takes a bounded batch from the TAP and a
bounded batch from each socket, then flushes, so neither direction starves the other; epoll is
level-triggered and brings back what was left. Where the kernel lacks the offloads that make
batches worth it, `portable` runs the same engine on asyncio.
"""

import argparse
import gc
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
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
from router.sleeve.spans import MAX_SPAN
from router.sleeve.steering import Steering
from router.sleeve.tap import Tap
from router.sleeve.udp import RECEIVE_BUFFER_BYTES, UdpSockets
from weavepy.base.errors import WeavepyError
from weavepy.base.settings import DEFAULT_PORT

log = logging.getLogger("weavepy.datapath")

MAX_FRAMES_PER_TURN = 64
MAX_FRAME_BYTES_PER_TURN = 4 * 65_536
"""Read from the TAP before the sockets get their turn: few large frames, or many small ones."""

MAX_RECEIVES_PER_TURN = 8
"""Each brings up to 64 KiB."""

MAX_WAIT_S = 60.0


class Datapath:
    """Everything that both loops share: engine, steering, and the socket to the router."""

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
    ) -> None:
        now = time.monotonic()
        rng = SystemRandom()
        encrypted = not options.insecure
        self.tap = tap
        self.link = link
        self.engine = Engine(
            Switch(MacTable()), tap, rng, encrypted=encrypted, bundling=not portable
        )
        self.captures = Captures(tap.name, self.engine.switch.macs, self.engine.watch, time.time_ns)
        self.shield = shield = Shield(udp_sockets, udp_drops, self.engine.epochs.keys)
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
            offloads=lambda: (*tap.offloads, *udp_offloads()),
            kernel_drops=lambda: {
                "tap-queue-full": tap.queue_drops(),
                # In this order: both may grow between the two looks.
                "unknown-index-filtered": (refused := shield.refused),
                "udp-queue-full": udp_drops() - refused,
            },
            indexes_changed=shield.handle_indexes_changed,
            refused_messages=lambda: link.refused_messages,
        )

    def read_frames(self, now: float) -> None:
        """Take a bounded batch of frames from the TAP."""
        engine = self.engine
        room = engine.buffer[HEADROOM_BYTES:FRAME_BUFFER_BYTES]
        read_into = self.tap.read_into
        left_bytes = MAX_FRAME_BYTES_PER_TURN
        for _ in range(MAX_FRAMES_PER_TURN):
            length = read_into(room)
            if not length:
                return
            engine.handle_frame(length, now)
            left_bytes -= length
            if left_bytes <= 0:
                return

    def end_turn(self, now: float) -> None:
        failed = self.engine.flush(now)
        if failed:
            self.steering.handle_failed(failed, now)
        if self.engine.strays.waiting:
            self.steering.handle_strays()
        if now >= self.steering.next_at:
            self.steering.handle_timeout(now)
        if now >= self.shield.check_at:
            self.shield.check(self.engine.drops.get("unknown-index", 0), now)

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


def run(datapath: Datapath, sockets: UdpSockets) -> None:
    """Move frames until the router or a signal says to end."""
    engine, steering, link = datapath.engine, datapath.steering, datapath.link
    poll = select.epoll()
    tap_fd = datapath.tap.fileno()
    listener_fd = link.listener.fileno()
    udp_of = {udp.fileno(): udp for udp in sockets.sockets.values()}
    wake_fd = _wake_on_signals()
    for fd in (tap_fd, listener_fd, wake_fd, *udp_of):
        poll.register(fd, select.EPOLLIN)
    router: socket.socket | None = None
    buffer = memoryview(bytearray(RECEIVE_BUFFER_BYTES))
    handle_datagrams = engine.handle_datagrams
    while not steering.shutdown_wanted:
        wait_s = max(0.0, min(steering.next_at - time.monotonic(), MAX_WAIT_S))
        events = poll.poll(wait_s)
        now = time.monotonic()
        for fd, _ in events:
            if fd == tap_fd:
                datapath.read_frames(now)
            elif fd in udp_of:
                receive_into = udp_of[fd].receive_into
                for _ in range(MAX_RECEIVES_PER_TURN):
                    received = receive_into(buffer)
                    if received is None:
                        break
                    effects = handle_datagrams(buffer, *received, now)
                    if effects:
                        steering.handle_effects(effects, now)
            elif fd == listener_fd:
                datapath.greet_router(now)
            elif fd == wake_fd:
                return
            elif router is not None and fd == router.fileno():
                datapath.hear_router(now)
        datapath.end_turn(now)
        if router is not link.router:
            # Closing a socket takes it out of the poll by itself.
            router = link.router
            if router is not None:
                poll.register(router.fileno(), select.EPOLLIN)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    _leave_the_router(options.log_file)
    link: RouterLink | None = None
    try:
        link = RouterLink(options.socket)
        options.pid_file.write_text(f"{os.getpid()}\n")
        return _run_with_best_path(options, link)
    except WeavepyError as error:
        log.error("%s", error)
        print(f"weavepy datapath: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        if link is not None:
            link.close()
            options.pid_file.unlink(missing_ok=True)
        log.info("the datapath ended")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m router.sleeve.process",
        description="Carry frames between a TAP device and UDP. Started by the router.",
    )
    parser.add_argument("--socket", type=Path, required=True, help="where the router finds us")
    parser.add_argument("--pid-file", type=Path, required=True)
    parser.add_argument("--tap", default="weavetap", help="name of the TAP device to create")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="UDP port")
    parser.add_argument("--mtu", type=int, default=1400, help="overlay MTU in bytes")
    parser.add_argument("--underlay-mtu", type=int, default=1500, help="in bytes")
    parser.add_argument("--insecure", action="store_true", help="do not encrypt")
    parser.add_argument("--no-offload", action="store_true", help="one frame, one datagram")
    parser.add_argument(
        "--max-span",
        type=int,
        default=os.environ.get("WEAVEPY_MAX_SPAN", str(MAX_SPAN)),
        help="at most this many datagrams per record, in both directions (WEAVEPY_MAX_SPAN;"
        " 1: each datagram is a record of its own)",
    )
    parser.add_argument("--log-file", type=Path, default=None)
    options = parser.parse_args(arguments)
    if not 0 < len(options.tap.encode()) <= 15:
        parser.error("--tap: an interface name has 1 to 15 bytes")
    if not 1 <= options.max_span <= MAX_SPAN:
        parser.error(f"--max-span (or WEAVEPY_MAX_SPAN): 1 to {MAX_SPAN}")
    return options


def _run_with_best_path(options: argparse.Namespace, link: RouterLink) -> int:
    tap = Tap(options.tap, options.mtu, offload=not options.no_offload)
    try:
        if tap.offloads:
            sockets = UdpSockets(options.port, offload=True)
            try:
                if "udp-gso" in sockets.offloads:
                    datapath = Datapath(
                        options,
                        tap,
                        sockets,
                        link,
                        options.port,
                        portable=False,
                        udp_offloads=lambda: sockets.offloads,
                        udp_drops=sockets.queue_drops,
                        udp_sockets=sockets.raw,
                    )
                    log.info("frames flow: %s", ", ".join((*tap.offloads, *sockets.offloads)))
                    _settle()
                    run(datapath, sockets)
                    return 0
            finally:
                sockets.close()
        log.info("frames flow without offloads")
        # Here, not above: asyncio costs 40 ms and 10 MiB that the usual path has no use for.
        from router.sleeve.portable import run_portable

        run_portable(options, tap, link)
        return 0
    finally:
        tap.close()


def _leave_the_router(log_file: Path | None) -> None:
    """Be on our own: what ends the router, or its terminal, must not end us."""
    if os.getsid(0) != os.getpid() and os.getpgrp() != os.getpid():
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # Whoever reads our stderr may be gone by now; that is no reason to say so for ever.
    logging.raiseExceptions = False
    logging.basicConfig(
        filename=log_file,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s datapath: %(message)s",
    )


def _settle() -> None:
    """What exists now stays: the collector need not look at it again, nor often at the rest."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _wake_on_signals() -> int:
    """SIGTERM makes the returned descriptor readable."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    return reading


if __name__ == "__main__":
    sys.exit(main())
