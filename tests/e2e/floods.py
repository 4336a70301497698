"""Containers and strangers that send as much as they can."""

import os
import subprocess
import sys
from types import TracebackType

from weavepy.lab.lab import Lab

SUBNET_BROADCAST = "10.47.255.255"
"""Of the default universe."""

BROADCAST = """
import socket, sys
flood = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
flood.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
flood.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
flood.connect((sys.argv[1], 9))
data = bytes(int(sys.argv[2]))
print("ready", flush=True)
while True:
    try:
        flood.send(data)
    except OSError:
        pass
"""
"""Datagrams to a broadcast address, of a size."""

DATAGRAMS = """
import pickle, socket, sys, time
flood = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
flood.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
flood.connect((sys.argv[1], 6783))
with open(sys.argv[2], "rb") as recorded:
    many = pickle.load(recorded)
per_s = float(sys.argv[3])
print("ready", flush=True)
began, sent = time.monotonic(), 0
while True:
    if sent > per_s * (time.monotonic() - began):
        time.sleep(0.0005)
        continue
    for data in many[sent % len(many) :][:50]:
        try:
            flood.send(data)
        except OSError:
            pass
        sent += 1
"""
"""To the sleeve port of the address given, datagrams of a file, over and over, so many a second."""

UNKNOWN = """
import itertools, socket, struct, sys
flood = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
flood.bind(("ethwe", 0))
mac = flood.getsockname()[4]
own = socket.inet_aton(sys.argv[1])
packet = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 46, 0, 0, 64, 17, 0, own, bytes((10, 1, 2, 3)))
total = sum(struct.unpack("!10H", packet))
total = (total >> 16) + (total & 0xFFFF)
packet = packet[:10] + struct.pack("!H", ~total & 0xFFFF) + packet[12:]
rest = mac + b"\\x08\\x00" + packet.ljust(46, b"x")
print("ready", flush=True)
for number in itertools.count():
    try:
        flood.send(b"\\x02" + (number % 2**39).to_bytes(5, "big") + rest)
    except OSError:
        pass
"""
"""From the address given, which is the container's own, to MAC addresses that nobody has."""


def garbage(count: int = 4096) -> list[bytes]:
    """Some of it looks like ours."""
    sizes = (20, 60, 200, 700, 1472)
    return [bytes([1 + n % 4]) + os.urandom(sizes[n % 5]) for n in range(count)]


class Flood:
    """A process in a node of the lab that does nothing but send."""

    def __init__(self, lab: Lab, node: str, program: str, *arguments: str) -> None:
        argv = [sys.executable, "-c", program, *arguments]
        self._command, self._environment = lab.command(node, argv)

    def __enter__(self) -> "Flood":
        self._process = subprocess.Popen(
            self._command, env=self._environment, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()
