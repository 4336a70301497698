"""The TAP device: the datapath's port on this host's bridge.

With offloads each read and write begins with a `virtio_net_hdr` of 10 bytes: how large a frame
is to be cut, and which checksum is still to be completed. That is what makes one read bring up
to 64 KiB of one flow. The device is not persistent: it lives and dies with this process, and
with it whatever the bridge had learnt behind it.
"""

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from weavepy.base.errors import WeavepyError

MAX_FRAME_BYTES = 65535 + 14 + 2 * 4
"""A large frame: the largest IP packet, an Ethernet header and two VLAN tags."""

VIRTIO_HEADER = struct.Struct("<BBHHHH")
"""flags, gso_type, hdr_len, gso_size, csum_start, csum_offset (linux/virtio_net.h)."""

NO_OFFLOAD = VIRTIO_HEADER.pack(0, 0, 0, 0, 0, 0)
NEEDS_CHECKSUM = 1

_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_TUNSETVNETHDRSZ = 0x400454D8
_TUNSETVNETLE = 0x400454DC
_SIOCSIFMTU = 0x8922
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_IFF_UP = 0x1
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
            self._fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise WeavepyError(
                f"cannot open /dev/net/tun: {error.strerror}; load the module `tun` and run as root"
            ) from error
        try:
            if offload:
                self.offloads = self._create_with_offloads()
            if not self.offloads:
                self._attach(_IFF_TAP | _IFF_NO_PI)
            self.set_mtu(mtu_bytes)
            self._start()
        except OSError as error:
            os.close(self._fd)
            raise WeavepyError(f"cannot create the TAP {name}: {error.strerror}") from error
        except BaseException:
            os.close(self._fd)
            raise

    def fileno(self) -> int:
        return self._fd

    def set_mtu(self, mtu_bytes: int) -> None:
        """Raises `OSError` for an MTU that the kernel does not take."""
        request = struct.pack("16si20x", self.name.encode(), mtu_bytes)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, _SIOCSIFMTU, request)

    def read_into(self, buffer: memoryview) -> int:
        """Read one frame, its virtio header first if there are offloads; 0 when none waits.

        Raises `WeavepyError` if someone deleted the device.
        """
        try:
            return os.readv(self._fd, (buffer,))
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
        os.close(self._fd)

    def _create_with_offloads(self) -> tuple[str, ...]:
        """Return the offloads in use; none if the kernel lacks even the plainest set."""
        try:
            self._attach(_IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
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
        self._fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def _attach(self, flags: int) -> None:
        fcntl.ioctl(self._fd, _TUNSETIFF, struct.pack("16sH22x", self.name.encode(), flags))

    def _start(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            request = bytearray(struct.pack("16sH22x", self.name.encode(), 0))
            fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request)
            (flags,) = struct.unpack_from("H", request, 16)
            struct.pack_into("H", request, 16, flags | _IFF_UP)
            fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)
