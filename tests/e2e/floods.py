"""Containers and strangers that send as much as they can."""

import subprocess
import sys
from types import TracebackType

from weavepy.lab.lab import Lab

_BROADCAST = """
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

_GARBAGE = """
import os, socket, sys
flood = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
flood.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
flood.connect((sys.argv[1], 6783))
sizes = (20, 60, 200, 700, 1472)
many = [bytes([1 + n % 4]) + os.urandom(sizes[n % 5]) for n in range(4096)]
print("ready", flush=True)
while True:
    for data in many:
        try:
            flood.send(data)
        except OSError:
            pass
"""


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


def broadcasts(lab: Lab, container: str, size: int = 64) -> Flood:
    """UDP to the subnet's broadcast address, as fast as one process can."""
    return Flood(lab, container, _BROADCAST, "10.47.255.255", str(size))


def garbage(lab: Lab, host: str, to: str) -> Flood:
    """Datagrams to another host's sleeve port; some look like ours."""
    return Flood(lab, host, _GARBAGE, to)
