"""What passes between a session and the hot path: what it seals and opens records with, what the
session is told of them, what it asks for, and what it tells the rest of the datapath.
"""

from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from router.sleeve.window import ReplayWindow

Endpoint = tuple[str, int]


class Hearer(Protocol):
    """Whose epoch it is: the session, as far as a `ReceiveEpoch` knows it."""

    def handle_authentic(
        self, epoch: "ReceiveEpoch", highest_counter: int, endpoint: Endpoint, now: float
    ) -> "list[SessionEffect]": ...


@dataclass(slots=True, eq=False)
class SendEpoch:
    """What the hot path needs to send on an epoch. It alone advances the counter."""

    remote_index: int
    aead: AESGCM | None
    """None in an insecure mesh."""
    counter: int
    """Of the next record, data and control alike."""
    index_bytes: bytes
    """`remote_index` as it stands in the header."""


@dataclass(slots=True, eq=False)
class ReceiveEpoch:
    """What the hot path needs to receive on an epoch."""

    local_index: int
    aead: AESGCM | None
    window: ReplayWindow
    session: Hearer
    number: int
    """1 for the session's first epoch, and one more for each that follows."""
    missing_noted: int = -1
    """Of the records that the window misses, how many have been dealt with; -1: never looked."""
    mended: int = 0
    """Records that were lost on the way and made good by parity."""


@dataclass(frozen=True, slots=True)
class SendControl:
    """Seal this as a control record of the epoch (counter and all) and send it there."""

    epoch: SendEpoch
    payload: bytes
    datagram_bytes: int
    """How long the UDP payload shall be, by zero bytes after the payload; 0: no padding."""
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class Listen:
    """From now on datagrams may come in under this epoch's index."""

    epoch: ReceiveEpoch


@dataclass(frozen=True, slots=True)
class Unlisten:
    local_index: int


@dataclass(frozen=True, slots=True)
class CameUp:
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class WentDown:
    reason: str


@dataclass(frozen=True, slots=True)
class Roamed:
    """The peer was heard at another address than before."""

    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class PathMtuFound:
    path_mtu_bytes: int
    overlay_mtu_bytes: int


SessionEffect = SendControl | Listen | Unlisten | CameUp | WentDown | Roamed | PathMtuFound
