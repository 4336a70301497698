"""Letting the kernel put small UDP packets of one flow together before the datapath reads them.

A container that sends small UDP packets costs the datapath a read and a decision for each. With
GRO on the host's end of its veth, packets of one flow and size that come within
`FLUSH_TIMEOUT_NS` become one large frame, as TCP's already are; the TAP hands it over in one
read, the far kernel takes it apart again. Measured between two containers, 64 bytes of payload,
two cores: 82,000 packets/s with most lost before, 175,000 to 200,000 without loss after, at a
third of the processor time per packet; TCP and ping are the same within the noise.

The timeout is what makes the difference: a veth's packets arrive one by one, and without it each
is passed on before the next is there. Pure TCP ACKs, ICMP and other protocols never wait.

All this only makes things faster, so a kernel that lacks any of it is not an error.
"""

import fcntl
import socket
import struct
from array import array
from pathlib import Path

FLUSH_TIMEOUT_NS = 50_000

FEATURES = ("rx-gro", "rx-udp-gro-forwarding")
"""GRO itself, and that it takes UDP which is not for a socket of this host (Linux 5.12)."""

_SIOCETHTOOL = 0x8946
_GSTRINGS, _GSSET_INFO, _SFEATURES = 0x1B, 0x37, 0x3B
_FEATURE_NAMES = 4
_NAME_BYTES = 32
"""linux/ethtool.h."""

_all_features: list[str] = []
"""Asked for once, as the kernel stays the same."""


def coalesce(interface: str, index: int) -> bool:
    """Switch it on for what comes in by this interface. False if the kernel lacks something."""
    return _switch_features_on(interface) and _hold(interface, index)


def _switch_features_on(interface: str) -> bool:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
            if not _all_features:
                _all_features.extend(_feature_names(way, interface))
            command = array("I", [_SFEATURES, len(_all_features) + 31 >> 5])
            wanted = sum(1 << _all_features.index(name) for name in FEATURES)
            for block in range(command[1]):
                word = wanted >> 32 * block & 0xFFFFFFFF
                command.extend((word, word))  # those that are meant, and what they shall be
            return _ethtool(way, interface, command) == 0
    except (OSError, ValueError):
        return False


def _feature_names(way: socket.socket, interface: str) -> list[str]:
    """By bit; the same for every interface."""
    question = array("I", [_GSSET_INFO, 0, 1 << _FEATURE_NAMES, 0, 0])
    _ethtool(way, interface, question)
    count = question[4]
    names = array("I", [_GSTRINGS, _FEATURE_NAMES, count, *[0] * (count * _NAME_BYTES // 4)])
    _ethtool(way, interface, names)
    text = names.tobytes()[12:]
    return [
        text[at : at + _NAME_BYTES].partition(b"\0")[0].decode()
        for at in range(0, len(text), _NAME_BYTES)
    ]


def _ethtool(way: socket.socket, interface: str, command: "array[int]") -> int:
    """The kernel reads and writes `command`; returns what it could not do, as bits."""
    address, _ = command.buffer_info()
    request = bytearray(struct.pack("16sP16x", interface.encode(), address))
    return int(fcntl.ioctl(way, _SIOCETHTOOL, request))


def _hold(interface: str, index: int) -> bool:
    directory = Path("/sys/class/net", interface)
    try:
        # /sys shows the namespace in which it was mounted, which need not be this thread's.
        if int((directory / "ifindex").read_text()) != index:
            return False
        (directory / "napi_defer_hard_irqs").write_text("1")
        (directory / "gro_flush_timeout").write_text(str(FLUSH_TIMEOUT_NS))
    except (OSError, ValueError):
        return False
    return True
