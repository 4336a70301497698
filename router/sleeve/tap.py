"""The TAP device: the datapath's port on this host's bridge.

With offloads each read and write begins with a `virtio_net_hdr` of 10 bytes: how large a frame
is to be cut, and which checksum is still to be completed. That is what makes one read bring up
to 64 KiB of one flow. The device is not persistent: it lives and dies with this process, and
with it whatever the bridge had learnt behind it.

It has `QUEUES` queues, each with a descriptor of its own to read from. The kernel chooses by the
bridge port where the frame came in. So a container that floods, with whatever and to whomever,
fills one queue, and the others' frames do not wait, nor get lost, behind its own.
"""

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from router.sleeve import ebpf
from weavepy.base.errors import WeavepyError

MAX_FRAME_BYTES = 65535 + 14 + 2 * 4
"""A large frame: the largest IP packet, an Ethernet header and two VLAN tags."""

QUEUES = 64
"""Of 1,000 frames each. Ports are numbered one by one, so few containers ever share a queue."""

VIRTIO_HEADER = struct.Struct("<BBHHHH")
"""flags, gso_type, hdr_len, gso_size, csum_start, csum_offset (linux/virtio_net.h)."""

NO_OFFLOAD = VIRTIO_HEADER.pack(0, 0, 0, 0, 0, 0)
NEEDS_CHECKSUM = 1

_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_TUNSETVNETHDRSZ = 0x400454D8
_TUNSETVNETLE = 0x400454DC
TUNSETSTEERINGEBPF = 0x800454E0
_SIOCSIFMTU = 0x8922
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
IFF_MULTI_QUEUE = 0x0100
_IFF_UP = 0x1
_PLAIN = _IFF_TAP | _IFF_NO_PI | IFF_MULTI_QUEUE
_WITH_HEADERS = _PLAIN | _IFF_VNET_HDR
_DROPPED_COLUMN = 11
"""In /proc/net/dev, of what was to be sent; what a TAP sends is what we read."""
_OFFLOAD_CHECKSUM = 0x01
_OFFLOAD_TSO = 0x02 | 0x04
_OFFLOAD_ECN = 0x08
_OFFLOAD_USO = 0x20 | 0x40
_OFFLOADS = (
    (_OFFLOAD_CHECKSUM | _OFFLOAD_TSO | _OFFLOAD_ECN | _OFFLOAD_USO, ("tap-tso", "tap-uso")),
    (_OFFLOAD_CHECKSUM | _OFFLOAD_TSO | _OFFLOAD_USO, ("tap-tso", "tap-uso")),
    (_OFFLOAD_CHECKSUM | _OFFLOAD_TSO | _OFFLOAD_ECN, ("tap-tso",)),
    (_OFFLOAD_CHECKSUM | _OFFLOAD_TSO, ("tap-tso",)),
)
"""Best first; the kernel takes a set whole or refuses it. USO came with Linux 6.2."""


class Tap:
    """An open TAP. Reads and writes never block and never raise for a frame's sake."""

    def __init__(self, name: str, mtu_bytes: int, *, offload: bool) -> None:
        """Create and start the device. Raises `WeavepyError` if the kernel refuses."""
        self.name = name
        self.offloads: tuple[str, ...] = ()
        """Those in use; empty if frames come and go without a virtio header."""
        try:
            self._fd = _open()
        except OSError as error:
            raise WeavepyError(
                f"cannot open /dev/net/tun: {error.strerror}; load the module `tun` and run as root"
            ) from error
        self._others: list[int] = []
        """The further queues."""
        try:
            if offload:
                self.offloads = self._create_with_offloads()
            if not self.offloads:
                self._attach(self._fd, _PLAIN)
            self._add_queues(_WITH_HEADERS if self.offloads else _PLAIN)
            if self._choose_queues_by_container() and self.offloads:
                self.offloads += ("tap-fair",)
            self.set_mtu(mtu_bytes)
            self._start()
        except OSError as error:
            self.close()
            raise WeavepyError(f"cannot create the TAP {name}: {error.strerror}") from error
        except BaseException:
            self.close()
            raise

    def queues(self) -> tuple[int, ...]:
        """The descriptors to read from."""
        return self._fd, *self._others

    def set_mtu(self, mtu_bytes: int) -> None:
        """Raises `OSError` for an MTU that the kernel does not take."""
        request = struct.pack("16si20x", self.name.encode(), mtu_bytes)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, _SIOCSIFMTU, request)

    def read_into(self, queue: int, buffer: memoryview) -> int:
        """Read one frame, its virtio header first if there are offloads; 0 when none waits.

        Raises `WeavepyError` if someone deleted the device.
        """
        try:
            return os.readv(queue, (buffer,))
        except OSError as error:
            if error.errno == errno.EBADFD:
                # It would be "readable" for ever; the router starts a datapath that is gone anew.
                raise WeavepyError(f"the TAP {self.name} was deleted under the datapath") from error
            # EIO: the device is down, and may come up again.
            if error.errno in (errno.EAGAIN, errno.EINTR, errno.EIO):
                return 0
            raise

    def write(self, parts: Sequence[bytes | memoryview]) -> str:
        """Write one frame; return the name of the error that it met, empty if none."""
        try:
            os.writev(self._fd, parts)
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, "unknown")
        return ""

    def queue_drops(self) -> int:
        """Frames that the kernel dropped because we did not read fast enough."""
        try:
            # The process's own namespace, whichever one /sys was mounted in.
            lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
        except OSError:
            return 0
        for line in lines:
            name, _, numbers = line.partition(":")
            if name.strip() == self.name:
                return int(numbers.split()[_DROPPED_COLUMN])
        return 0

    def close(self) -> None:
        for descriptor in self.queues():
            os.close(descriptor)

    def _create_with_offloads(self) -> tuple[str, ...]:
        """Return the offloads in use; none if the kernel lacks even the plainest set."""
        try:
            self._attach(self._fd, _WITH_HEADERS)
            fcntl.ioctl(self._fd, _TUNSETVNETHDRSZ, struct.pack("i", VIRTIO_HEADER.size))
            fcntl.ioctl(self._fd, _TUNSETVNETLE, struct.pack("i", 1))
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EBUSY):
                raise
            self._reopen()
            return ()
        for flags, names in _OFFLOADS:
            try:
                fcntl.ioctl(self._fd, _TUNSETOFFLOAD, flags)
            except OSError:
                continue
            return names
        self._reopen()
        return ()

    def _reopen(self) -> None:
        """An attached descriptor cannot be attached otherwise: start anew."""
        os.close(self._fd)
        self._fd = _open()

    def _attach(self, descriptor: int, flags: int) -> None:
        request = struct.pack("16sH22x", self.name.encode(), flags)
        fcntl.ioctl(descriptor, _TUNSETIFF, request)

    def _add_queues(self, flags: int) -> None:
        for _ in range(QUEUES - 1):
            self._others.append(_open())
            self._attach(self._others[-1], flags)

    def _choose_queues_by_container(self) -> bool:
        """Without it the kernel chooses by flow, which also keeps most floods from most others."""
        try:
            with ebpf.loaded_filter(ebpf.INGRESS_INTERFACE) as program:
                fcntl.ioctl(self._fd, TUNSETSTEERINGEBPF, struct.pack("i", program))
        except OSError:
            return False
        return True

    def _start(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            request = bytearray(struct.pack("16sH22x", self.name.encode(), 0))
            fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request)
            (flags,) = struct.unpack_from("H", request, 16)
            struct.pack_into("H", request, 16, flags | _IFF_UP)
            fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)


def _open() -> int:
    return os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
