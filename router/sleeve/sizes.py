"""What fits a datagram to one peer, and what containers behind it may be told.

`pathmtu` finds out what the path carries; here that becomes probes to send and sizes to keep
within.
"""

from router.sleeve.effects import Endpoint, PathMtuFound, SessionEffect
from router.sleeve.epochs import Generation
from router.sleeve.format import ip_overhead_of, overlay_mtu_of
from router.sleeve.keying import probe
from router.sleeve.pathmtu import SMALL, PathMtu


class Sizes:
    def __init__(self, underlay_mtu_bytes: int) -> None:
        self.path = PathMtu(underlay_mtu_bytes)
        self.path_mtu_bytes = 0
        """The largest underlay packet known to pass; 0 while that is not known."""
        self.overlay_mtu_bytes = overlay_mtu_of(underlay_mtu_bytes)
        """As probed; while that is not known, what the underlay's MTU promises."""

    def set_underlay_mtu(self, underlay_mtu_bytes: int) -> None:
        """Begin anew with what this host's interface takes now."""
        self.path = PathMtu(underlay_mtu_bytes)

    def payload_bytes(self, endpoint: Endpoint) -> int:
        """The UDP payload to keep within. Small at first: until a size is known to pass, frames
        are better fragmented than lost."""
        return self.path.usable_bytes - ip_overhead_of(endpoint[0])

    def probes(
        self, generation: Generation, endpoint: Endpoint, frames_flow: bool, now: float
    ) -> list[SessionEffect]:
        overhead_bytes = ip_overhead_of(endpoint[0])
        return [
            probe(generation, SMALL if size == SMALL else size - overhead_bytes, endpoint, now)
            for size in self.path.handle_timeout(now, frames_flow)
        ]

    def handle_answer(
        self, datagram_bytes: int, endpoint: Endpoint, rtt_s: float, now: float
    ) -> None:
        self.path.handle_answer(datagram_bytes + ip_overhead_of(endpoint[0]), rtt_s, now)

    def note(self) -> list[SessionEffect]:
        """What is news about the path."""
        path_mtu_bytes = self.path.usable_bytes
        overlay_mtu_bytes = overlay_mtu_of(path_mtu_bytes)
        overlay_mtu_is_old = self.path.found and self.overlay_mtu_bytes != overlay_mtu_bytes
        if path_mtu_bytes == self.path_mtu_bytes and not overlay_mtu_is_old:
            return []
        shrank = 0 < path_mtu_bytes < self.path_mtu_bytes
        if not self.path.found and not shrank:
            return []
        self.path_mtu_bytes = path_mtu_bytes
        if self.path.found:
            # Not before: containers are told this, and remember the least of it for minutes.
            # What they send until then is fragmented.
            self.overlay_mtu_bytes = overlay_mtu_bytes
        return [PathMtuFound(self.path_mtu_bytes, self.overlay_mtu_bytes)]
