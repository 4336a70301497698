"""Performs what the fast path's core asks of the kernel: calls of the driver, and heartbeats.

The driver's calls block, so they go to the router's netlink thread, which takes them in the order
in which the core asked; what comes of each goes back to the core as an input.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from functools import partial

from fastdp.core.effects import (
    AddAssociation,
    Arrange,
    Carry,
    FastEffect,
    KeepAssociations,
    Point,
    ReadMacs,
    Retire,
    SendHeartbeat,
    TunnelEffect,
)
from fastdp.core.paths import FastPaths
from fastdp.shell.driver import Arranged, Counters, Driver
from fastdp.shell.heartbeat import HeartbeatSocket
from weavepy.base.errors import WeavepyError
from weavepy.base.names import PeerName

log = logging.getLogger(__name__)

COUNTERS_S = 1.0
"""Counters shown may be so old: reading them takes some milliseconds, and status is asked for
often."""

MAX_NAMED = 5
"""Repairs of tunnels that one line of the log names."""

Input = Callable[[FastPaths, float], Collection[FastEffect]]
"""Something to tell the core."""


class Tunnels:
    def __init__(self, driver: Driver, thread: Executor, tell: Callable[[Input], None]) -> None:
        """`tell` gives the core an input, on the event loop."""
        self._driver = driver
        self._thread = thread
        self._tell = tell
        self._heartbeats: HeartbeatSocket | None = None
        self._counters = Counters({}, {})
        self._counters_until = 0.0
        self._said = ""
        """What stood in the way of all tunnels last time."""
        self._in_use = False
        """The driver was asked to arrange tunnels, and has its guard there."""
        self._closed = False

    def perform(self, effect: TunnelEffect) -> None:
        if isinstance(effect, SendHeartbeat):
            if self._heartbeats is not None:
                self._heartbeats.send(effect.peer, effect.payload, effect.frame_bytes)
            return
        self._in_use = True
        loop = asyncio.get_running_loop()
        work: asyncio.Future[Input | None] = loop.run_in_executor(
            self._thread, partial(self._drive, effect)
        )
        work.add_done_callback(self._done)

    async def counters(self) -> Counters:
        """Those of the driver; none where it is not used."""
        if not self._in_use:
            return self._counters
        loop = asyncio.get_running_loop()
        if loop.time() >= self._counters_until:
            self._counters_until = loop.time() + COUNTERS_S
            try:
                self._counters = await loop.run_in_executor(self._thread, self._driver.counters)
            except WeavepyError as error:
                log.warning("the fast path's counters cannot be read: %s", error)
        return self._counters

    async def close(self, *, keep: bool) -> None:
        """Without `keep`, nothing of the fast path is left behind."""
        self._closed = True
        if self._heartbeats is not None:
            self._heartbeats.close()
        if not keep:
            loop = asyncio.get_running_loop()
            try:
                await loop.run_in_executor(self._thread, self._driver.remove_all)
            except WeavepyError as error:
                log.error("tunnels may be left: %s", error)

    # --- on the netlink thread -----------------------------------------------------------------

    def _drive(self, effect: TunnelEffect) -> Input | None:
        driver = self._driver
        error = ""
        macs: list[bytes] = []
        try:
            match effect:
                case Arrange(tunnels=tunnels, mtu_bytes=mtu_bytes):
                    return partial(self._arranged, driver.arrange(tunnels, mtu_bytes))
                case ReadMacs(peer=peer):
                    macs = driver.macs(peer)
                case Carry(peer=peer, macs=wanted):
                    driver.carry(peer, wanted)
                case Retire(peer=peer, macs=wanted):
                    driver.retire(peer, wanted)
                case Point(peer=peer, macs=wanted):
                    driver.point(peer, wanted)
                case AddAssociation(short_id=short_id, association=association):
                    driver.add_association(short_id, association)
                case KeepAssociations(short_id=short_id, sending=sending, receiving=receiving):
                    driver.keep_associations(short_id, sending, receiving)
        except (WeavepyError, OSError) as refusal:
            error = str(refusal)
        if isinstance(effect, Arrange):
            return partial(self._not_arranged, error)
        return _answer(effect, error, macs)

    # --- on the event loop ---------------------------------------------------------------------

    def _done(self, work: "asyncio.Future[Input | None]") -> None:
        if self._closed:
            return
        answer = work.result()
        if answer is not None:
            self._tell(answer)

    def _arranged(self, arranged: Arranged, paths: FastPaths, now: float) -> Collection[FastEffect]:
        self._say(next(iter(arranged.errors.values()), "") if not arranged.ports else "")
        if arranged.repairs:
            log.warning("repaired tunnels: %s", _listed(arranged.repairs))
        if self._heartbeats is None and arranged.ports:
            self._heartbeats = HeartbeatSocket(self._heard)
            self._heartbeats.start()
        if self._heartbeats is not None:
            self._heartbeats.set_ports(arranged.ports)
        associations = {
            peer: (found.receiving, found.sending) for peer, found in arranged.associations.items()
        }
        return paths.handle_arranged(arranged.errors, "", now, associations, arranged.silent)

    def _not_arranged(self, error: str, paths: FastPaths, now: float) -> Collection[FastEffect]:
        self._say(error)
        return paths.handle_arranged({}, error, now)

    def _say(self, trouble: str) -> None:
        """Of all tunnels; once for as long as it lasts. What concerns one is in its status."""
        if trouble and trouble != self._said:
            log.warning("tunnels cannot be looked after: %s", trouble)
        self._said = trouble

    def _heard(self, peer: PeerName, payload: bytes) -> None:
        self._tell(lambda paths, now: paths.handle_heartbeat(peer, payload, now))


def _listed(repairs: Sequence[str]) -> str:
    more = f" and {len(repairs) - MAX_NAMED} more" if len(repairs) > MAX_NAMED else ""
    return "; ".join(repairs[:MAX_NAMED]) + more


def _answer(effect: TunnelEffect, error: str, macs: list[bytes]) -> Input | None:
    """What the core wants to hear of a call that went well or not."""
    match effect:
        case ReadMacs(peer=peer):
            return lambda paths, now: paths.handle_macs(peer, macs, now)
        case Carry(peer=peer):
            return lambda paths, now: paths.handle_carried(peer, error, now)
        case Retire(peer=peer):
            return lambda paths, now: paths.handle_retired(peer, error, now)
        case AddAssociation(peer=peer, association=association):
            spi = association.spi
            return lambda paths, now: paths.handle_association_added(peer, spi, error, now)
        case _:
            return None
