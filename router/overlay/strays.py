"""Addresses whose frames still come to us although a tunnel of the kernel leads to them.

The bridge points an address to where it was seen last, so one late frame over sleeve turns it back
to us. Nothing is lost: the frame goes on by sleeve. The router is told, and turns the bridge again.
It is told of an address once a second or so, and never of many at once.
"""

MAX_WAITING = 64
"""Addresses in one message; the others come up again with their next frame."""

QUIET_S = 1.0


class Strays:
    def __init__(self) -> None:
        self.waiting: dict[bytes, int] = {}
        """Addresses that the router does not know of yet, with their peers."""
        self._told: set[bytes] = set()
        self._forget_at = 0.0

    def note(self, mac: bytes, short_id: int, now: float) -> None:
        if now >= self._forget_at:
            self._forget_at = now + QUIET_S
            self._told.clear()
        if mac not in self._told and len(self.waiting) < MAX_WAITING:
            self._told.add(mac)
            self.waiting[mac] = short_id

    def take(self) -> dict[int, list[bytes]]:
        """Those that wait, by peer; they wait no more."""
        taken: dict[int, list[bytes]] = {}
        for mac, short_id in self.waiting.items():
            taken.setdefault(short_id, []).append(mac)
        self.waiting.clear()
        return taken
