"""Who is who: the names and ids by which peers know each other.

A peer's *name* is 48 bits of a hash of its public key, written like a MAC address
("7a:0c:..."), so nobody without the private key can claim it. Its *UID* is drawn at
each start and tells one run from the next. Its *short id* has 12 bits, is agreed by
gossip, and stands for the peer inside data records and bit sets.
"""

import hashlib
import ipaddress
import re
from typing import NewType

from weavepy.base.errors import UsageError

PeerName = NewType("PeerName", str)
"""Text of 17 characters, lower case; compares and sorts as text on every peer alike."""

PeerUid = NewType("PeerUid", int)
"""63 random bits, never 0."""

ShortId = NewType("ShortId", int)
"""1 to 4094 (4095 is the broadcast); 0 means "none assigned yet"."""

MAX_PEERS = 4096
"""Peers of one mesh. Short ids have 12 bits because a VXLAN network id holds two of them."""

MAX_NICKNAME_LENGTH = 63

_NAME_LABEL = b"weavepy peer name v1"
_NAME_PATTERN = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def name_of_public_key(public_key: bytes) -> PeerName:
    """Derive the name that only the holder of this X25519 key (32 bytes) can prove."""
    assert len(public_key) == 32
    digest = hashlib.sha256(_NAME_LABEL + public_key).digest()
    return PeerName(digest[:6].hex(":"))


def is_peer_name(text: str) -> bool:
    return _NAME_PATTERN.fullmatch(text) is not None


def parse_peer_name(text: str) -> PeerName:
    """Accept what an operator typed; raises `UsageError` if it is not a peer name."""
    lowered = text.strip().lower()
    if not is_peer_name(lowered):
        raise UsageError(
            f"{text!r} is not a peer name: expected six pairs of hex digits, as `weavepy status"
            " peers` shows them"
        )
    return PeerName(lowered)


def is_ip_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
