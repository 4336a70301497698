"""What a datapath tells its router, where only peers and whether they are up matters."""

from router.sleeve.messages import InstallRoutes, SessionReport, Snapshot
from weavepy.base.names import PeerName


def session(peer: PeerName, up: bool = True) -> SessionReport:
    return SessionReport(
        peer=peer,
        up=up,
        reason="",
        endpoint_host="10.0.0.9",
        endpoint_port=6783,
        overlay_mtu_bytes=1400,
        path_mtu_bytes=1500,
        epoch=1,
        rtt_ms=1.0,
        frames_sent=0,
        frames_received=0,
        bytes_sent=0,
        bytes_received=0,
        records_sent=0,
        records_received=0,
        drops=[],
    )


def snapshot(*sessions: SessionReport, pid: int = 1) -> Snapshot:
    return Snapshot(
        pid=pid,
        version="",
        uptime_s=0,
        tap="",
        udp_port=6783,
        mtu_bytes=1400,
        encrypted=True,
        offloads=[],
        ourself=1,
        sessions=list(sessions),
        routes=InstallRoutes(1, {}, {}, {}),
        macs=[],
        mac_count=0,
        drops=[],
    )
