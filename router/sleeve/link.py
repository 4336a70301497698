"""The datapath's end of the socket between it and the router.

The datapath listens, because it outlives routers. There is one router at a time: a newer
connection replaces the older one, and is told first which version we are. SEQPACKET keeps messages
whole, so one packet is one message. Nothing here blocks: a router that does not read loses its
connection, and finds all it missed in the `Snapshot` of the next one.
"""

import errno
import logging
import os
import socket
import stat
from collections import deque
from pathlib import Path

from router.sleeve.hello import PROTOCOL, Hello
from router.sleeve.messages import (
    MAX_MESSAGE_BYTES,
    FromDatapath,
    StartCapture,
    ToDatapath,
    to_datapath_decoder,
)
from router.sleeve.parts import Joiner, packets
from weavepy import __version__
from weavepy.base.errors import ProtocolError, WeavepyError
from weavepy.base.wire import encode

log = logging.getLogger("weavepy.datapath")

SEND_BUFFER_BYTES = 8 * 1024 * 1024
"""Room for the largest snapshot, in parts, as the kernel counts it: twice."""

_SO_SNDBUFFORCE = 32

MAX_MESSAGES_PER_TURN = 64
"""Then frames get their turn again."""


class RouterLink:
    """Listens at a path, and holds the connection of at most one router."""

    def __init__(self, path: Path) -> None:
        """Raises `WeavepyError` if another datapath lives at this path."""
        self.path = path
        self.refused_messages = 0
        self.descriptors: deque[int] = deque()
        """Those that came with the `StartCapture` messages that `receive` returned, in order."""
        self._router: socket.socket | None = None
        self._joiner = Joiner(to_datapath_decoder)
        self._is_understood = True
        """Nothing of this router's was refused so far."""
        self._listener = _listen(path)

    @property
    def listener(self) -> socket.socket:
        return self._listener

    @property
    def router(self) -> socket.socket | None:
        """The connection of the router that is in charge, if there is one."""
        return self._router

    def accept(self) -> socket.socket | None:
        """Take a waiting router in the place of the one we have; None if none waits."""
        try:
            router, _ = self._listener.accept()
        except OSError:
            return None
        self.drop_router()
        router.setblocking(False)
        _enlarge(router)
        self._router = router
        self._joiner = Joiner(to_datapath_decoder)
        self._is_understood = True
        self._send([encode(Hello(PROTOCOL, __version__, os.getpid()))])
        return self._router

    def receive(self) -> list[ToDatapath]:
        """Read what waits. A router that is gone is dropped; `router` is None then."""
        messages: list[ToDatapath] = []
        for _ in range(MAX_MESSAGES_PER_TURN):
            if self._router is None:
                break
            try:
                data, descriptors, _, _ = socket.recv_fds(
                    self._router, MAX_MESSAGE_BYTES, 1, socket.MSG_CMSG_CLOEXEC
                )
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                data, descriptors = b"", []
            if not data:
                self.drop_router()
                break
            try:
                message = self._joiner.take(data)
                if isinstance(message, StartCapture) != bool(descriptors):
                    raise ProtocolError("a descriptor too many or too few")
            except ProtocolError as error:
                self.refused_messages += 1
                if self._is_understood:
                    log.warning("messages of this router are refused, the first for: %s", error)
                self._is_understood = False
                _close(descriptors)
                continue
            if message is not None:
                messages.append(message)
                self.descriptors += descriptors
        return messages

    def send(self, message: FromDatapath) -> None:
        """Send, or drop the connection if its router has stopped reading or is gone."""
        if self._router is None:
            return
        try:
            self._send(packets(message))
        except ProtocolError:
            self.drop_router()

    def _send(self, ready: list[bytes]) -> None:
        assert self._router is not None
        try:
            for packet in ready:
                self._router.send(packet)
        except OSError:
            self.drop_router()

    def drop_router(self) -> None:
        if self._router is not None:
            self._router.close()
            self._router = None

    def close(self) -> None:
        self.drop_router()
        self._listener.close()
        self.path.unlink(missing_ok=True)


def _enlarge(router: socket.socket) -> None:
    for option in (_SO_SNDBUFFORCE, socket.SO_SNDBUF):
        try:
            router.setsockopt(socket.SOL_SOCKET, option, SEND_BUFFER_BYTES)
        except OSError:
            continue  # beyond net.core.wmem_max only with rights that tests may lack
        return


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(
        socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    )
    try:
        _remove_stale(path)
        # Nobody but us may connect, from the first moment on.
        mask = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
        listener.listen(8)
    except OSError as error:
        listener.close()
        raise WeavepyError(f"cannot listen at {path}: {error.strerror or error}") from error
    except WeavepyError:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise WeavepyError(f"{path} is in the way: it is not a socket; remove it")
    # A socket of another type is told EPROTOTYPE if someone listens, and is not let in: asking
    # must not cost the running datapath its router.
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        outcome = probe.connect_ex(str(path))
    if outcome != errno.ECONNREFUSED:
        raise WeavepyError(f"another datapath is running at {path}; `weavepy stop` ends it")
    path.unlink(missing_ok=True)
