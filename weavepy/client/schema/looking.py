"""Frames as they pass, and what a pair of hosts can carry."""

from weavepy.client.schema.base import Struct


class CaptureRequest(Struct):
    """Copy the frames that pass the overlay's port on this host's bridge, from now on."""

    peer: str = ""
    """Name or nickname: only frames from and to its host; empty: all."""
    count: int = 0
    """End after so many frames; 0: when the time is over or the caller closes the connection."""
    seconds: float = 0.0
    """0: an hour."""
    snap_bytes: int = 262144
    """As much is kept of each frame."""


class Pcapng(Struct):
    """Not JSON but a pcapng file, as it grows; the answer ends where the connection ends."""


class BenchRequest(Struct):
    """Measure between this host and another, each with a container that exists meanwhile."""

    peer: str
    """Name or nickname."""
    seconds: float = 2.0
    """For each of the TCP runs."""


class BenchAnswer(Struct):
    peer: str
    nickname: str
    route: str
    """As in `PeerStatus`."""
    seconds: float
    tcp_gbps: float
    """One stream to the peer, in 10^9 bits per second, as received."""
    tcp_reverse_gbps: float
    """The same from the peer to us."""
    small_sent_pps: float
    """Datagrams of 64 bytes, per second, as many as one process sends."""
    small_received_pps: float
    """Those that arrived."""
    rtt_ms_p50: float
    """Round trips of 64 bytes between two processes."""
    rtt_ms_p99: float
    rtt_lost: int
    """Of 200."""
