"""A frame from the fast path's driver to the datapath, through the queue of the TAP.

Broadcasts to a peer go either through its tunnel or over sleeve. Which of those that wait in the
TAP's queue the tunnel has got, only the queue itself can tell. So the driver puts a marker into it
immediately before a tunnel begins to carry: what comes after it, the tunnel gets as well.

    to 01:80:c2:00:00:0e | from 0 | type 0x88b5 | short id 2

No bridge forwards frames to that link-local group, so none but the host itself can send one.
"""

GROUP = bytes.fromhex("0180c200000e")
ETHERTYPE = 0x88B5
"""IEEE 802's first for local experiments."""

_HEAD = GROUP + bytes(6) + ETHERTYPE.to_bytes(2, "big")
_FRAME_BYTES = 60
"""The least that Ethernet has."""


def pack_marker(short_id: int) -> bytes:
    frame = _HEAD + short_id.to_bytes(2, "big")
    return frame.ljust(_FRAME_BYTES, b"\0")


def unpack_marker(frame: bytes) -> int | None:
    """Short id of the peer whose tunnel carries from here on; None for another frame."""
    at = len(_HEAD)
    if len(frame) != _FRAME_BYTES or not frame.startswith(_HEAD):
        return None
    return int.from_bytes(frame[at : at + 2], "big")
