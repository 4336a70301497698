"""What a session asks of the hot path, and what it tells the rest of the datapath."""

from dataclasses import dataclass

from router.sleeve.epochs import Endpoint, ReceiveEpoch, SendEpoch


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
