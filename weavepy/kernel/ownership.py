"""Tables of the packet filter that nobody else can change, not even by `nft flush ruleset`.

A table can be *owned* (Linux 5.12): then only the netlink socket changes it that made it. With the
flag *persist* (6.9) it stays when that socket closes, and whoever comes next may own it. nft
knows only part of this, so the table is made by a message of our own, on the very socket that
libnftables then uses: `Session` keeps one for as long as it lives.

Where the kernel or the library cannot do that, `own` says so, and a session is no more than
`run_transaction`. Use it on one thread, in one network namespace. The numbers are those of
linux/netfilter/nf_tables.h.
"""

import errno
import os
import socket
import stat
import struct
import threading

from weavepy.kernel import nftables
from weavepy.kernel.nflog import NETLINK_NETFILTER, attribute, messages

FAMILIES = {"inet": 1, "bridge": 7}
OWNER, PERSIST = 0x2, 0x4
BATCH_BEGIN, BATCH_END = 0x10, 0x11
NEWTABLE = 0xA00
NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE = 0x1, 0x4, 0x400
NLMSG_ERROR = 2
TABLE_NAME, TABLE_FLAGS = 1, 2
ANSWER_TIMEOUT_S = 2.0
MAX_TRIES = 5
"""To find the library's socket: another thread may open one of its own at the same moment."""

_opening = threading.Lock()


class Session:
    def __init__(self) -> None:
        self._context: nftables.Context | None = None
        self._socket: socket.socket | None = None

    @property
    def port(self) -> int:
        """What the kernel calls our socket, in its reports of changes; 0 if it has none yet."""
        return int(self._socket.getsockname()[0]) if self._socket is not None else 0

    def run(self, script: str) -> None:
        """As `run_transaction`."""
        if self._context is None:
            nftables.run_transaction(script)
            return
        status, _, errors = self._context.run(script)
        if status != 0:
            raise nftables.failure(errors)

    def own(self, family: str, table: str) -> bool:
        """Make the table if there is none, and it ours. False if that cannot be.

        One that somebody made in the usual way stays as it is.
        """
        if self._socket is None and not self._open():
            return False
        assert self._socket is not None
        generation = struct.pack(">BBH", 0, 0, 10)
        wanted = (
            struct.pack(">BBH", FAMILIES[family], 0, 0)
            + attribute(TABLE_NAME, table.encode() + b"\0")
            + attribute(TABLE_FLAGS, struct.pack(">I", OWNER | PERSIST))
        )
        self._socket.send(
            _message(BATCH_BEGIN, NLM_F_REQUEST, generation)
            + _message(NEWTABLE, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE, wanted)
            + _message(BATCH_END, NLM_F_REQUEST, generation)
        )
        return self._answer() == 0

    def close(self) -> None:
        """What was owned is anybody's then."""
        if self._socket is not None:
            self._socket.close()
            self._socket = self._context = None

    def _open(self) -> bool:
        if not nftables.has_library():
            return False
        for _ in range(MAX_TRIES):
            with _opening:
                before = _netfilter_sockets()
                context = nftables.Context()
                new = [one for one in _netfilter_sockets().items() if one not in before.items()]
            if len(new) == 1:
                self._context, self._socket = context, socket.socket(fileno=os.dup(new[0][0]))
                return True
        return False

    def _answer(self) -> int:
        assert self._socket is not None
        self._socket.settimeout(ANSWER_TIMEOUT_S)
        try:
            for kind, body in messages(self._socket.recv(1 << 16)):
                if kind == NLMSG_ERROR:
                    return -int(struct.unpack_from("=i", body)[0])
        except TimeoutError:
            return errno.ETIMEDOUT
        finally:
            # As libnftables has it: it waits by `select`.
            self._socket.setblocking(False)
        return errno.EPROTO


def _netfilter_sockets() -> dict[int, int]:
    """Descriptor to inode."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            status = os.fstat(int(name))
            if not stat.S_ISSOCK(status.st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as one:
                if (one.family, one.proto) == (socket.AF_NETLINK, NETLINK_NETFILTER):
                    found[int(name)] = status.st_ino
        except OSError:
            continue  # closed meanwhile
    return found


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body
