"""The hot path: frames from the TAP become records to peers, and records become frames.

Everything here is synchronous and does no I/O of its own: a loop hands in what it read
(`handle_frame`, `handle_datagrams`), the engine writes frames to a `FrameSink` and datagrams to
a `DatagramSink`, and at the end of each turn the loop calls `flush`. Small frames for one peer
wait until then to share a record, and so do datagrams to share a system call; nothing waits
longer than one turn.

A frame that cannot go on is dropped and counted by reason, with its session if it has one.
"""

from random import Random

from router.overlay.switch import Switch
from router.sleeve.forwarder import Forwarder
from router.sleeve.inbound import Inbound
from router.sleeve.outbound import Outbound
from router.sleeve.tables import FrameSink, Tables


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
        self._outbound = Outbound(self, rng, bundling=bundling)
        self._inbound = Inbound(self, encrypted=encrypted)
        self.buffer = self._outbound.buffer
        self.handle_frame = self._outbound.handle_frame
        self.handle_datagrams = self._inbound.handle_datagrams

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
