"""Deleting an interface without waiting until nobody in the kernel can be using what it was.

The kernel takes an interface out of everything and tells those who listen, within a millisecond.
Then it waits for all processors to have passed a quiet point, twice, and answers: 16 ms. What it
waits for is its own memory; the name is free, and no packet goes in or out any more. So the answer
is awaited on a thread of its own, and the caller goes on when the end is told.
"""

import errno
import os
import select
import socket
import struct
import threading
from contextlib import suppress

from weavepy.kernel.messages import messages
from weavepy.kernel.rtnetlink import DELLINK, Rtnetlink

MAX_WAITING = 64
"""Threads that await answers; who would be the next one waits for one of them."""

_GROUP_LINK = 1
_LINK_START = struct.Struct("=BxHi")
"""ifinfomsg: family (a bridge tells of lost ports in its own), device type, index."""

_ANSWER_BYTES = 1 << 16
_waiting = threading.BoundedSemaphore(MAX_WAITING)


def unlink(index: int) -> bool:
    """False if it was not there; else it is gone. Raises `OSError`."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as listener:
        listener.bind((0, _GROUP_LINK))
        ours, theirs = socket.socketpair()
        with ours:
            request = (Rtnetlink(), index, theirs)
            thread = threading.Thread(target=_delete, args=request, name="unlink", daemon=True)
            _waiting.acquire()
            thread.start()
            if _is_told(index, listener, ours):
                return True
            code = ours.recv(1)[0]
    if code not in (0, errno.ENODEV):
        raise OSError(code, os.strerror(code))
    return code == 0


def _delete(route: Rtnetlink, index: int, asker: socket.socket) -> None:
    try:
        with route, asker:
            try:
                code = 0 if route.delete_link(index) else errno.ENODEV
            except OSError as error:
                code = error.errno or errno.EIO
            with suppress(OSError):  # whoever asked has gone on
                asker.send(bytes([code]))
    finally:
        _waiting.release()


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
