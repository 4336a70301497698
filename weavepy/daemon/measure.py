"""One end of `weavepy bench`: `python -m weavepy.daemon.measure`, in a network of its own.

It leaves the host's network namespace for a new one that nothing else holds, so all of it is
gone when this process is, and this process dies with the router that started it. The router
attaches it like any container and then tells it by a line of JSON on standard input to *serve*,
or to *measure* against an end that serves. It answers with a line on standard output.

Everything is measured from process to process, by plain sockets: what a container would get.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import struct
import sys
import threading
import time
from typing import Any

READY = b"ready\n"

SMALL_BYTES = 64
RTT_ROUNDS = 200
RTT_TIMEOUT_S = 0.5
SMALL_S = 1.0
CONNECT_TIMEOUT_S = 5.0

SINK, SOURCE, COUNT, SERVING = b"s", b"r", b"c", b"?"
"""The first byte of a TCP connection: take all, send until told, how many datagrams came."""
ECHO, COUNTED = b"e", b"n"
"""The first byte of a datagram."""

_CHUNK = bytes(256 * 1024)
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER_BYTES = 8 * 1024 * 1024
_SETTLE_S = 0.3
_number = struct.Struct("!Q")


# --- the end that serves -------------------------------------------------------------------------


class Server:
    def __init__(self) -> None:
        self._tcp = socket.create_server(("", 0))
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
        self.port: int = self._tcp.getsockname()[1]
        self._udp.bind(("", self.port))
        self._counted = 0

    def start(self) -> None:
        for work in (self._accept, self._take_datagrams):
            threading.Thread(target=work, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._tcp.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            kind = connection.recv(1)
            if kind == SINK:
                connection.sendall(_number.pack(take_all(connection)))
            elif kind == SOURCE:
                while True:
                    connection.sendall(_CHUNK)
            elif kind == COUNT:
                connection.sendall(_number.pack(self._counted))
            elif kind == SERVING:
                connection.sendall(SERVING)

    def _take_datagrams(self) -> None:
        while True:
            data, source = self._udp.recvfrom(2048)
            if data[:1] == ECHO:
                self._udp.sendto(data, source)
            else:
                self._counted += 1


def take_all(connection: socket.socket) -> int:
    """Read until the other side has no more; how much it was."""
    room = bytearray(len(_CHUNK))
    total = 0
    while count := connection.recv_into(room):
        total += count
    return total


# --- the end that measures -----------------------------------------------------------------------


def measure(address: str, port: int, seconds: float) -> dict[str, float]:
    where = (address, port)
    _wait_for_server(where)
    p50, p99, lost = round_trips(where)
    sent_pps, received_pps = small_datagrams(where)
    return {
        "rtt_ms_p50": p50,
        "rtt_ms_p99": p99,
        "rtt_lost": lost,
        "small_sent_pps": sent_pps,
        "small_received_pps": received_pps,
        "tcp_gbps": send_for(where, seconds),
        "tcp_reverse_gbps": receive_for(where, seconds),
    }


def _wait_for_server(where: tuple[str, int]) -> None:
    """The first packets may go lost until both hosts know the new addresses."""
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    while True:
        try:
            with socket.create_connection(where, 1.0) as connection:
                connection.sendall(SERVING)
                if connection.recv(1) == SERVING:
                    return
        except OSError:
            if time.monotonic() > deadline:
                raise


def round_trips(where: tuple[str, int]) -> tuple[float, float, int]:
    """In ms, the median and the 99th percentile, and how many were not answered."""
    times = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.connect(where)
        udp.settimeout(RTT_TIMEOUT_S)
        deadline = time.monotonic() + 10 * RTT_TIMEOUT_S
        for number in range(RTT_ROUNDS):
            question = (ECHO + _number.pack(number)).ljust(SMALL_BYTES, b"\0")
            began = time.perf_counter()
            udp.send(question)
            with contextlib.suppress(TimeoutError):
                while udp.recv(2048) != question:
                    pass
                times.append((time.perf_counter() - began) * 1000)
            if time.monotonic() > deadline:
                break
    if not times:
        raise OSError("no datagram came back")
    times.sort()
    return times[len(times) // 2], times[len(times) * 99 // 100], RTT_ROUNDS - len(times)


def small_datagrams(where: tuple[str, int]) -> tuple[float, float]:
    """Sent and received for each second, at the rate at which this process can send."""
    before = _counted(where)
    datagram = COUNTED.ljust(SMALL_BYTES, b"\0")
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.connect(where)
        send = udp.send
        began = time.perf_counter()
        while (spent := time.perf_counter() - began) < SMALL_S:
            for _ in range(32):
                send(datagram)
            sent += 32
    time.sleep(_SETTLE_S)
    return sent / spent, (_counted(where) - before) / spent


def _counted(where: tuple[str, int]) -> int:
    with socket.create_connection(where, CONNECT_TIMEOUT_S) as connection:
        connection.sendall(COUNT)
        return int(_number.unpack(_exactly(connection, _number.size))[0])


def send_for(where: tuple[str, int], seconds: float) -> float:
    """In Gbit/s, until the other end had all of it."""
    with socket.create_connection(where, CONNECT_TIMEOUT_S) as connection:
        connection.settimeout(seconds + CONNECT_TIMEOUT_S)
        connection.sendall(SINK)
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            connection.sendall(_CHUNK)
        connection.shutdown(socket.SHUT_WR)
        (received,) = _number.unpack(_exactly(connection, _number.size))
        return float(received * 8 / 1e9 / (time.perf_counter() - began))


def receive_for(where: tuple[str, int], seconds: float) -> float:
    room = bytearray(len(_CHUNK))
    received = 0
    with socket.create_connection(where, CONNECT_TIMEOUT_S) as connection:
        connection.settimeout(CONNECT_TIMEOUT_S)
        connection.sendall(SOURCE)
        began = time.perf_counter()
        while (spent := time.perf_counter() - began) < seconds:
            received += connection.recv_into(room)
    return received * 8 / 1e9 / spent


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise ConnectionError("the other end went away")
        data += part
    return data


# --- the process ---------------------------------------------------------------------------------


def obey(line: bytes) -> dict[str, Any]:
    """Do what a line asks for; what went wrong is an answer too."""
    try:
        wanted = json.loads(line)
        if wanted["do"] == "serve":
            server = Server()
            server.start()
            return {"port": server.port}
        return measure(wanted["address"], wanted["port"], wanted["seconds"])
    except OSError as error:
        return {"error": f"measuring: {error.strerror or error}"}


def main() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if libc.unshare(_CLONE_NEWNET) != 0:
        print(f"no network namespace: {os.strerror(ctypes.get_errno())}", flush=True)
        return 1
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    for line in sys.stdin.buffer:
        print(json.dumps(obey(line)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
