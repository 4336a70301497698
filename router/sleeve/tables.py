"""What both directions of the hot path share: tables that steering fills, and the TAP to write to.

Steering replaces `forwarders` as a whole and changes `epochs` in place, between turns only.
"""

from collections.abc import Sequence
from typing import Protocol

from router.overlay.strays import Strays
from router.overlay.switch import Switch
from router.sleeve.effects import ReceiveEpoch
from router.sleeve.forwarder import Forwarder
from router.sleeve.layout import Layout


class FrameSink(Protocol):
    """What takes frames for the bridge. With `offloads`, a virtio header comes first."""

    @property
    def offloads(self) -> tuple[str, ...]: ...

    def write(self, parts: Sequence[bytes | memoryview]) -> str:
        """Write one frame; return the name of the error that it met, empty if none."""
        ...


class Tables:
    def __init__(self, switch: Switch, tap: FrameSink) -> None:
        self.switch = switch
        self.drops: dict[str, int] = {}
        """What was dropped and belongs to no session, by reason."""
        self.forwarders: dict[int, Forwarder] = {}
        """By the short id of the neighbour."""
        self.epochs: dict[int, tuple[ReceiveEpoch, Forwarder]] = {}
        """By receiver index."""
        self.waiting: list[Forwarder] = []
        """Forwarders with something to flush; they enter themselves."""
        self.layout = Layout()
        """Where they seal records that span datagrams."""
        self.strays = Strays()
        self.tap_offloads = bool(tap.offloads)
        self._tap = tap

    @property
    def unwanted(self) -> int:
        """Datagrams that strangers sent: under unknown indexes, and replays."""
        forwarders = self.forwarders.values()
        replayed = sum(forwarder.drops.get("replayed", 0) for forwarder in forwarders)
        return replayed + self.drops.get("unknown-index", 0)

    def write(self, parts: Sequence[bytes | memoryview]) -> None:
        """Write one frame to the TAP, behind its virtio header if `tap_offloads`."""
        error = self._tap.write(parts)
        if error:
            self.drop(f"tap-{error}")

    def drop(self, reason: str, count: int = 1) -> None:
        self.drops[reason] = self.drops.get(reason, 0) + count
