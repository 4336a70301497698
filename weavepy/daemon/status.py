"""What is shown: rows of the cores and reports of the datapath, turned into the API's schema.

The mesh knows connections, the datapath knows sessions; an operator wants one row that has both.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from ipam.core.status import IpamStatus
from router.mesh.mesh import Mesh
from router.mesh.status import ConnectionRow
from router.sleeve.messages import DropCount, SessionReport, Snapshot
from weavepy.base.names import PeerName
from weavepy.client import schema

OVERLAY = "sleeve"


def connections(
    rows: Iterable[ConnectionRow], snapshot: Snapshot | None
) -> list[schema.ConnectionStatus]:
    sessions = {session.peer: session for session in snapshot.sessions} if snapshot else {}
    encrypted = snapshot is not None and snapshot.encrypted
    return [_connection(row, sessions.get(row.peer), encrypted) for row in rows]


def _connection(
    row: ConnectionRow, session: SessionReport | None, encrypted: bool
) -> schema.ConnectionStatus:
    info = row.info
    if row.state == "connected" and session is not None and session.reason:
        info = f"{OVERLAY}: {session.reason}"
    return schema.ConnectionStatus(
        peer=row.peer,
        nickname=row.nickname,
        address=row.address,
        outbound=row.outbound,
        state=row.state,
        overlay=OVERLAY if session is not None and session.up else "",
        encrypted=encrypted and session is not None,
        overlay_mtu_bytes=session.overlay_mtu_bytes if session is not None else 0,
        rtt_ms=session.rtt_ms if session is not None and session.up else None,
        info=info,
    )


def peers(mesh: Mesh) -> list[schema.PeerStatus]:
    return [
        schema.PeerStatus(**{**asdict(row), "connections": list(row.connections)})
        for row in mesh.peer_rows()
    ]


def targets(mesh: Mesh, now: float) -> list[schema.TargetStatus]:
    return [schema.TargetStatus(**asdict(row)) for row in mesh.target_rows(now)]


def ipam(status: IpamStatus | None) -> schema.IpamStatus:
    if status is None:
        return schema.IpamStatus(
            state="none",
            reason="this router was started with --no-ipam",
            universe="",
            default_subnet="",
            ring_id="",
            entries=0,
            allocated=0,
            cooling=0,
            free=0,
            owners=[],
            frozen=[],
            waiting=[],
            warnings=[],
        )
    fields = asdict(status)
    fields["owners"] = [
        schema.RangeOwner(**{**owner, "ranges": list(owner["ranges"])})
        for owner in fields["owners"]
    ]
    fields["waiting"] = [schema.IpamWaiting(**waiting) for waiting in fields["waiting"]]
    for name in ("frozen", "warnings", "picture"):
        fields[name] = list(fields[name])
    return schema.IpamStatus(**fields)


def datapath(
    snapshot: Snapshot | None, bridge: str, mesh: Mesh, filtered: Mapping[str, int]
) -> schema.DatapathStatus:
    if snapshot is None:
        return schema.DatapathStatus(
            running=False,
            pid=0,
            uptime_s=0,
            tap="",
            bridge=bridge,
            mtu_bytes=0,
            encrypted=False,
            offloads=[],
            macs=0,
            sessions=[],
            drops=[],
        )
    return schema.DatapathStatus(
        running=True,
        pid=snapshot.pid,
        uptime_s=snapshot.uptime_s,
        tap=snapshot.tap,
        bridge=bridge,
        mtu_bytes=snapshot.mtu_bytes,
        encrypted=snapshot.encrypted,
        offloads=snapshot.offloads,
        macs=snapshot.mac_count,
        mac_moves=snapshot.mac_moves,
        refused_messages=snapshot.refused_messages,
        filtered=[
            schema.CounterStatus(name=reason, value=count)
            for reason, count in sorted(filtered.items())
            if count
        ],
        sessions=[_session(session, mesh) for session in snapshot.sessions],
        drops=_counters(snapshot.drops),
    )


def _session(session: SessionReport, mesh: Mesh) -> schema.SessionStatus:
    host = session.endpoint_host
    return schema.SessionStatus(
        peer=session.peer,
        nickname=mesh.nickname(PeerName(session.peer)),
        up=session.up,
        reason=session.reason,
        endpoint=f"[{host}]:{session.endpoint_port}"
        if ":" in host
        else f"{host}:{session.endpoint_port}",
        overlay_mtu_bytes=session.overlay_mtu_bytes,
        path_mtu_bytes=session.path_mtu_bytes,
        epoch=session.epoch,
        rtt_ms=session.rtt_ms,
        frames_sent=session.frames_sent,
        frames_received=session.frames_received,
        bytes_sent=session.bytes_sent,
        bytes_received=session.bytes_received,
        records_sent=session.records_sent,
        records_received=session.records_received,
        drops=_counters(session.drops),
    )


def _counters(drops: Sequence[DropCount]) -> list[schema.CounterStatus]:
    return [schema.CounterStatus(name=drop.reason, value=drop.count) for drop in drops]
