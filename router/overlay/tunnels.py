"""Fast peers: those whose tunnels, in the kernel, take the frames that our bridge floods.

Our own broadcasts go to such a peer over sleeve until its tunnel carries, and again when it is not
named any more. The router names the fast peers, and a marker in the TAP's queue
(`weavepy.base.marker`) tells from when on a tunnel carries. A queue that overflows loses markers
too: a peer that was named and got no marker for `AWAITED_S` counts as carried, since a frame too
few is better than one twice. For the same reason there is no marker for the end: each container
has a queue to itself, and what waits in the others has long gone through the tunnel when one has
been read. The router stops naming the peer when all have been drained.
"""

from collections.abc import Iterable

AWAITED_S = 1.0


class FastPeers:
    def __init__(self) -> None:
        self.named: frozenset[int] = frozenset()
        self.next_at = float("inf")
        """When `handle_timeout` wants to be called."""
        self._relays: frozenset[int] = frozenset()
        self._carried: set[int] = set()
        self._awaited: dict[int, float] = {}
        """Named peers without a marker yet, and until when it may come."""

    def name(self, named: Iterable[int], relays: Iterable[int], now: float) -> None:
        """These and no others, and those of them that have to pass our broadcasts on."""
        before, self.named, self._relays = self.named, frozenset(named), frozenset(relays)
        self._carried &= self.named
        self._awaited = {peer: at for peer, at in self._awaited.items() if peer in self.named}
        for peer in sorted(self.named - before):
            self._awaited[peer] = now + AWAITED_S
        self._set_next()

    def mark(self, peer: int) -> None:
        """From the next frame on, its tunnel carries."""
        if peer not in self.named:
            return
        self._awaited.pop(peer, None)
        self._carried.add(peer)
        self._set_next()

    def handle_timeout(self, now: float) -> None:
        for peer in [peer for peer, at in self._awaited.items() if at <= now]:
            self.mark(peer)

    def plan(self, neighbours: Iterable[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of these: whom our broadcasts go to, and whom only so that they are passed on."""
        known = tuple(neighbours)
        return (
            tuple(to for to in known if to not in self._carried),
            tuple(to for to in known if to in self._carried and to in self._relays),
        )

    def _set_next(self) -> None:
        self.next_at = min(self._awaited.values(), default=float("inf"))
