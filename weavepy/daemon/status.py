"""What is shown: rows of the cores and reports of the datapath, turned into the API's schema.

The mesh knows connections, the datapath knows sessions, the fast path knows tunnels; an operator
wants one row that has all three.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from fastdp.core.path import FastRow
from fastdp.shell.driver import Counters, Traffic
from ipam.core.status import IpamStatus
from router.mesh.mesh import Mesh
from router.mesh.status import ConnectionRow
from router.sleeve.messages import DropCount, SessionReport, Snapshot
from weavepy.base.names import PeerName
from weavepy.client import schema
from weavepy.daemon.drivers import Chosen

SLEEVE = "sleeve"
FASTDP = "fastdp"


def connections(
    rows: Iterable[ConnectionRow], snapshot: Snapshot | None, fast_rows: Iterable[FastRow]
) -> list[schema.ConnectionStatus]:
    sessions = {session.peer: session for session in snapshot.sessions} if snapshot else {}
    encrypted = snapshot is not None and snapshot.encrypted
    tunnels = {str(row.peer): row for row in fast_rows}
    return [
        _connection(row, sessions.get(row.peer), tunnels.get(row.peer), encrypted) for row in rows
    ]


def _connection(
    row: ConnectionRow, session: SessionReport | None, tunnel: FastRow | None, encrypted: bool
) -> schema.ConnectionStatus:
    info = row.info
    overlay = SLEEVE if session is not None and session.up else ""
    mtu_bytes = session.overlay_mtu_bytes if session is not None else 0
    if tunnel is not None and tunnel.state == FASTDP:
        overlay, encrypted, mtu_bytes = FASTDP, tunnel.encrypted, tunnel.mtu_bytes
    elif row.state == "connected" and session is not None and session.reason:
        info = f"{SLEEVE}: {session.reason}"
    elif row.state == "established" and tunnel is not None and not info:
        info = f"{SLEEVE}: {tunnel.reason}"
    return schema.ConnectionStatus(
        peer=row.peer,
        nickname=row.nickname,
        address=row.address,
        outbound=row.outbound,
        state=row.state,
        overlay=overlay,
        encrypted=encrypted and session is not None,
        overlay_mtu_bytes=mtu_bytes,
        rtt_ms=session.rtt_ms if session is not None and session.up else None,
        info=info,
    )


def peers(mesh: Mesh) -> list[schema.PeerStatus]:
    return [
        schema.PeerStatus(
            **{
                **asdict(row),
                "connections": list(row.connections),
                "addresses": list(row.addresses),
            }
        )
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
        mended=session.mended,
        parity_sent=session.parity_sent,
        drops=_counters(session.drops),
    )


def fastdp(
    chosen: Chosen, port: int, rows: Iterable[FastRow], counters: Counters, mesh: Mesh
) -> schema.FastdpStatus:
    policy = chosen.policy
    return schema.FastdpStatus(
        mode=policy.mode,
        reason=policy.general_refusal,
        port=port,
        trusted_subnets=[str(subnet) for subnet in policy.trusted],
        tunnels=[_tunnel(row, counters.tunnels.get(row.peer), mesh) for row in rows],
        refused=[
            schema.CounterStatus(name=reason, value=count)
            for reason, count in sorted(counters.refused.items())
        ],
        driver=chosen.driver.title if policy.enabled else "",
        better=chosen.better,
    )


def _tunnel(row: FastRow, traffic: Traffic | None, mesh: Mesh) -> schema.TunnelStatus:
    traffic = traffic or Traffic(0, 0, 0, 0)
    return schema.TunnelStatus(
        peer=row.peer,
        nickname=mesh.nickname(row.peer),
        state=row.state,
        reason=row.reason,
        remote=row.remote_host,
        encrypted=row.encrypted,
        mtu_bytes=row.mtu_bytes,
        since_s=row.since_s,
        failures=row.failures,
        heartbeats_sent=row.heartbeats_sent,
        heartbeats_received=row.heartbeats_received,
        frames_sent=traffic.frames_sent,
        frames_received=traffic.frames_received,
        bytes_sent=traffic.bytes_sent,
        bytes_received=traffic.bytes_received,
    )


def _counters(drops: Sequence[DropCount]) -> list[schema.CounterStatus]:
    return [schema.CounterStatus(name=drop.reason, value=drop.count) for drop in drops]
