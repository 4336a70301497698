"""The datapath process: `python -m router.sleeve.process --socket ... --tap ...`.

It outlives the router that started it, so it is in a session of its own, has its own pid file
and ends only by a `Shutdown` message or SIGTERM. Both take the TAP, the socket and the pid file
away.

The loop is epoll and nothing else. What a framework would add per event (handles, callbacks,
futures) is paid per wake-up, and under a stream of frames a wake-up brings one to three dozen
datagrams; here it is one system call. Each turn takes a bounded batch from the TAP, in
equal parts from its queues, and a bounded batch from each socket, then flushes, so nobody
starves anybody; epoll is level-triggered and brings back what was left. Where the kernel lacks
the offloads that make batches worth it, `portable` runs the same engine on asyncio.
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
from pathlib import Path

from router.sleeve.datapath import MAX_WAIT_S, Datapath
from router.sleeve.link import RouterLink
from router.sleeve.rekey import REKEY_AFTER_S
from router.sleeve.spans import MAX_SPAN
from router.sleeve.tap import Tap
from router.sleeve.udp import RECEIVE_BUFFER_BYTES, UdpSockets
from weavepy.base.errors import WeavepyError
from weavepy.base.settings import DEFAULT_PORT

log = logging.getLogger("weavepy.datapath")

MAX_RECEIVES_PER_TURN = 8
"""Each brings up to 64 KiB."""


def run(datapath: Datapath, sockets: UdpSockets) -> None:
    """Move frames until the router or a signal says to end."""
    engine, steering, link = datapath.engine, datapath.steering, datapath.link
    poll = select.epoll()
    tap_queues = frozenset(datapath.tap.queues())
    listener_fd = link.listener.fileno()
    udp_of = {udp.fileno(): udp for udp in sockets.sockets.values()}
    wake_fd = _wake_on_signals()
    for fd in (*tap_queues, listener_fd, wake_fd, *udp_of):
        poll.register(fd, select.EPOLLIN)
    router: socket.socket | None = None
    buffer = memoryview(bytearray(RECEIVE_BUFFER_BYTES))
    handle_datagrams = engine.handle_datagrams
    while not steering.shutdown_wanted:
        wait_s = max(0.0, min(datapath.next_at - time.monotonic(), MAX_WAIT_S))
        events = poll.poll(wait_s)
        now = time.monotonic()
        ready_queues = sum(fd in tap_queues for fd, _ in events)
        for fd, _ in events:
            if fd in tap_queues:
                datapath.read_frames(fd, now, ready_queues)
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
    parser.add_argument(
        "--rekey-after", type=float, default=REKEY_AFTER_S, metavar="S", help="0.5 to 3600 s"
    )
    parser.add_argument("--log-file", type=Path, default=None)
    options = parser.parse_args(arguments)
    if not 0 < len(options.tap.encode()) <= 15:
        parser.error("--tap: an interface name has 1 to 15 bytes")
    if not 1 <= options.max_span <= MAX_SPAN:
        parser.error(f"--max-span (or WEAVEPY_MAX_SPAN): 1 to {MAX_SPAN}")
    if not 0.5 <= options.rekey_after <= 3600:
        parser.error("--rekey-after: 0.5 to 3600 seconds")
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
