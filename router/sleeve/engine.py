"""The hot path: frames from the TAP become records to peers, and records become frames.

Everything here is synchronous and does no I/O of its own: a loop hands in what it read
(`handle_frame`, `handle_datagrams`), the engine writes frames to a `FrameSink` and datagrams to
a `DatagramSink`, and at the end of each turn the loop calls `flush`. Small frames for one peer
wait until then to share a record, and so do datagrams to share a system call; nothing waits
longer than one turn.

A frame that cannot go on is dropped and counted by reason, with its session if it has one.
"""

from collections.abc import Sequence
from random import Random

from router.overlay.switch import Switch
from router.sleeve.capture import Watcher
from router.sleeve.effects import SessionEffect
from router.sleeve.forwarder import Forwarder
from router.sleeve.inbound import Inbound
from router.sleeve.outbound import HEADROOM_BYTES, Outbound
from router.sleeve.tables import FrameSink, Tables
from router.sleeve.tap import VIRTIO_HEADER


class Engine(Tables):
    def __init__(
        self,
        switch: Switch,
        tap: FrameSink,
        rng: Random,
        *,
        encrypted: bool,
        bundling: bool = True,
    ) -> None:
        super().__init__(switch, tap)
        self._unwatched_tap = tap
        self._outbound = Outbound(self, rng, bundling=bundling)
        self._inbound = Inbound(self, encrypted=encrypted)
        self.buffer = self._outbound.buffer
        self.handle_frame = self._outbound.handle_frame
        self.handle_datagrams = self._inbound.handle_datagrams

    def watch(self, watcher: Watcher | None) -> None:
        """Show each frame that comes from the TAP or goes there; None: show none any more."""
        outbound = self._outbound
        self.handle_frame = outbound.handle_frame
        self._tap = self._unwatched_tap
        if watcher is None:
            return
        frame_at = HEADROOM_BYTES + (VIRTIO_HEADER.size if self.tap_offloads else 0)

        def handle_frame(length: int, now: float) -> None:
            watcher.handle_outbound(self.buffer[frame_at : HEADROOM_BYTES + length])
            outbound.handle_frame(length, now)

        self.handle_frame = handle_frame
        self._tap = _WatchedTap(self._unwatched_tap, watcher)

    @property
    def release_at(self) -> float:
        """When `release` has something to do, if no datagram changes that."""
        return self._inbound.release_at

    def release(self, now: float) -> list[tuple[Forwarder, list[SessionEffect]]]:
        """Let go on what has waited long enough for lost datagrams before it."""
        return self._inbound.release(now)

    def flush(self, now: float) -> list[Forwarder]:
        """End a turn: nothing waits any longer. Return those whose sends failed."""
        self._inbound.finish_run()
        self._outbound.send_bundles()
        failed: list[Forwarder] = []
        if self.waiting:
            for forwarder in self.waiting:
                forwarder.flush(now)
                if forwarder.send_error:
                    failed.append(forwarder)
            self.waiting.clear()
        return failed

    def forget(self, forwarder: Forwarder) -> None:
        """A session is gone: remember nothing that holds on to it."""
        self._outbound.forget(forwarder)
        self._inbound.forget(forwarder)


class _WatchedTap:
    def __init__(self, tap: FrameSink, watcher: Watcher) -> None:
        self.offloads = tap.offloads
        self._tap = tap
        self._watcher = watcher

    def write(self, parts: Sequence[bytes | memoryview]) -> str:
        # The virtio header, if there is one, is the first part.
        self._watcher.handle_inbound(b"".join(parts[1:] if self.offloads else parts))
        return self._tap.write(parts)
