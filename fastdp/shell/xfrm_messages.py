"""What the kernel is told of IPsec, in bytes (linux/xfrm.h): policies and associations of ESP.

A *policy* says which datagrams must be in ESP: those to UDP's port at one address, or from one
address to that port. A *state*, which is an association, has a key. They find each other by the
`reqid` that both have, which is also how ours are told from those of others.
"""

import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from fastdp.core.effects import Association
from fastdp.shell.device import numeric
from weavepy.kernel.messages import attribute, attributes

NEW_STATE = 0x10
DELETE_STATE = 0x11
GET_STATES = 0x12
NEW_POLICY = 0x13
DELETE_POLICY = 0x14
GET_POLICIES = 0x15

IN, OUT = 0, 1

REPLAY_WINDOW = 256
"""Datagrams that may be so much later than others."""

_TEMPLATE = 5
_REPLAY_ESN = 23
_AEAD = 18

_AES_GCM = b"rfc4106(gcm(aes))"
_ICV_BITS = 128
_TRANSPORT = 0
_STATE_ESN = 128
_PRIORITY = 100
_FOREVER = struct.pack("=8Q", *[0xFFFFFFFFFFFFFFFF] * 4, *[0] * 4)
_ALL_ALGORITHMS = 0xFFFFFFFF

_SELECTOR = struct.Struct("=16s16s2s2s2s2sHBBB3xiI")
"""Destination, source, ports with masks (destination, source), family, prefix lengths
(destination, source), protocol, interface, user."""
_IDENTIFIER = struct.Struct("=16s4sB3x")
"""Destination, SPI, protocol."""
_STATE_REST = struct.Struct("=16s64s32x12x4xIHBBB7x")
"""Source, lifetimes, used so far, statistics, sequence; reqid, family, mode, window, flags."""
_STATE_NAME = struct.Struct("=16s4sHBx")
"""Destination, SPI, family, protocol."""
_POLICY_REST = struct.Struct("=64s32xII4B4x")
"""Lifetimes, used so far; priority, index, direction, action, flags, share."""
_POLICY_NAME = struct.Struct("=IB3x")
"""Index, direction."""
_TEMPLATE_REST = struct.Struct("=H2x16sI3Bx3I")
"""Family, source, reqid, mode, share, optional, algorithms."""

_STATE_BYTES = _SELECTOR.size + _IDENTIFIER.size + _STATE_REST.size

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class State:
    """As the kernel has it."""

    reqid: int
    spi: int
    destination: str
    receiving: bool
    """It has a source; ours for sending have none."""


@dataclass(frozen=True, slots=True)
class Policy:
    direction: int
    remote_host: str
    reqid: int
    """0 if it does not ask for ESP."""


def encode_state(association: Association, reqid: int, port: int) -> bytes:
    remote = numeric(association.remote_host)
    direction = IN if association.local_host else OUT
    destination = numeric(association.local_host) if association.local_host else remote
    source = _packed(remote) if association.local_host else bytes(16)
    algorithm = struct.pack("=64sII", _AES_GCM, len(association.key) * 8, _ICV_BITS)
    words = REPLAY_WINDOW // 32
    replay = struct.pack(f"=6I{words}I", words, 0, 0, 0, 0, REPLAY_WINDOW, *[0] * words)
    return (
        _selector(direction, remote, port)
        + _IDENTIFIER.pack(
            _packed(destination), association.spi.to_bytes(4, "big"), socket.IPPROTO_ESP
        )
        + _STATE_REST.pack(source, _FOREVER, reqid, _family(remote), _TRANSPORT, 0, _STATE_ESN)
        + attribute(_AEAD, algorithm + association.key)
        + attribute(_REPLAY_ESN, replay)
    )


def encode_state_name(state: State) -> bytes:
    address = numeric(state.destination)
    spi = state.spi.to_bytes(4, "big")
    return _STATE_NAME.pack(_packed(address), spi, _family(address), socket.IPPROTO_ESP)


def decode_state(body: bytes) -> State:
    destination, spi, _ = _IDENTIFIER.unpack_from(body, _SELECTOR.size)
    rest = _STATE_REST.unpack_from(body, _SELECTOR.size + _IDENTIFIER.size)
    source, _, reqid, family, *_ = rest
    return State(reqid, int.from_bytes(spi, "big"), _text(destination, family), any(source))


def encode_policy(policy: Policy, port: int) -> bytes:
    remote = numeric(policy.remote_host)
    template = _IDENTIFIER.pack(bytes(16), bytes(4), socket.IPPROTO_ESP) + _TEMPLATE_REST.pack(
        *(_family(remote), bytes(16), policy.reqid, _TRANSPORT, 0, 0), *[_ALL_ALGORITHMS] * 3
    )
    return (
        _selector(policy.direction, remote, port)
        + _POLICY_REST.pack(_FOREVER, _PRIORITY, 0, policy.direction, 0, 0, 0)
        + attribute(_TEMPLATE, template)
    )


def encode_policy_name(policy: Policy, port: int) -> bytes:
    selector = _selector(policy.direction, numeric(policy.remote_host), port)
    return selector + _POLICY_NAME.pack(0, policy.direction)


def decode_policy(body: bytes, port: int) -> Policy | None:
    """None if it is for something else than this port's datagrams between us and one address."""
    fields = _SELECTOR.unpack_from(body)
    to, source, family = fields[0], fields[1], fields[6]
    direction = _POLICY_REST.unpack_from(body, _SELECTOR.size)[3]
    remote = _text(source if direction == IN else to, family)
    if not remote or body[: _SELECTOR.size] != _selector(direction, numeric(remote), port):
        return None
    template = attributes(body[_SELECTOR.size + _POLICY_REST.size :]).get(_TEMPLATE, b"")
    reqid = 0
    if len(template) >= _IDENTIFIER.size + _TEMPLATE_REST.size:
        reqid = _TEMPLATE_REST.unpack_from(template, _IDENTIFIER.size)[2]
    return Policy(direction, remote, reqid)


def _selector(direction: int, remote: Address, port: int) -> bytes:
    """Datagrams to the port, to the remote address or from it."""
    prefix = remote.max_prefixlen
    addresses = (_packed(remote), bytes(16)) if direction == OUT else (bytes(16), _packed(remote))
    return _SELECTOR.pack(
        *addresses,
        *(port.to_bytes(2, "big"), b"\xff\xff", bytes(2), bytes(2)),
        _family(remote),
        *((prefix, 0) if direction == OUT else (0, prefix)),
        *(socket.IPPROTO_UDP, 0, 0),
    )


def _packed(address: Address) -> bytes:
    return address.packed.ljust(16, b"\0")


def _family(address: Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def _text(packed: bytes, family: int) -> str:
    if family == socket.AF_INET:
        return str(IPv4Address(packed[:4]))
    return str(IPv6Address(packed)) if family == socket.AF_INET6 else ""
