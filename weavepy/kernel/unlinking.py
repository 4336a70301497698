"""Deleting an interface without waiting until nobody in the kernel can be using what it was.

The kernel takes an interface out of everything and tells those who listen, within a millisecond.
Then it waits for all processors to have passed a quiet point, twice, and answers: 16 ms. What it
waits for is its own memory; the name is free, and no packet goes in or out any more. So the answer
is awaited behind the caller, who goes on when the end is told.
"""

import errno
import os
import select
import socket
import struct
from contextlib import suppress

from weavepy.kernel.behind import do_behind
from weavepy.kernel.messages import messages
from weavepy.kernel.rtnetlink import DELLINK, Rtnetlink

_GROUP_LINK = 1
_LINK_START = struct.Struct("=BxHi")
"""ifinfomsg: family (a bridge tells of lost ports in its own), device type, index."""

_ANSWER_BYTES = 1 << 16


def unlink(index: int) -> bool:
    """False if it was not there; else it is gone. Raises `OSError`."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as listener:
        listener.bind((0, _GROUP_LINK))
        ours, theirs = socket.socketpair()
        with ours:
            do_behind(_delete, Rtnetlink(), index, theirs)
            if _is_told(index, listener, ours):
                return True
            code = ours.recv(1)[0]
    if code not in (0, errno.ENODEV):
        raise OSError(code, os.strerror(code))
    return code == 0


def _delete(route: Rtnetlink, index: int, asker: socket.socket) -> None:
    with route, asker:
        try:
            code = 0 if route.delete_link(index) else errno.ENODEV
        except OSError as error:
            code = error.errno or errno.EIO
        with suppress(OSError):  # whoever asked has gone on
            asker.send(bytes([code]))


def _is_told(index: int, listener: socket.socket, answer: socket.socket) -> bool:
    """False if the answer came first."""
    ready = select.poll()
    for each in (listener, answer):
        ready.register(each, select.POLLIN)
    while True:
        if any(number == answer.fileno() for number, _ in ready.poll()):
            return False
        try:
            told = messages(listener.recv(_ANSWER_BYTES))
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # too much was told at a time: the answer will do
                raise
            continue
        for kind, _, content in told:
            family, _, at = _LINK_START.unpack_from(content)
            if (kind, family, at) == (DELLINK, socket.AF_UNSPEC, index):
                return True
