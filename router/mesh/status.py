"""Rows for `weavepy status`: what the mesh shows of itself. The daemon adds the overlay's part."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from router.mesh.bits import indexes
from router.mesh.connection import Connection, Phase
from router.mesh.handshake import HandshakeRefused
from router.mesh.neighbours import Neighbour
from router.mesh.records import Record, Roster
from router.mesh.targets import Target, Targets
from weavepy.base.names import PeerName


@dataclass(frozen=True, slots=True)
class ConnectionRow:
    peer: str
    """Empty while it is not known who answers."""
    nickname: str
    address: str
    outbound: bool
    state: str
    """One of "dialling", "handshake", "connected", "established", "orphaned", "retrying"."""
    info: str


@dataclass(frozen=True, slots=True)
class PeerRow:
    name: str
    nickname: str
    uid: int
    version: int
    short_id: int
    ourself: bool
    reachable: bool
    route: str
    """One of "direct", "relayed via NICKNAME", "ourself" or "none"."""
    connections: tuple[str, ...]
    addresses: tuple[str, ...]
    mtu_bytes: int = 0
    """Of its overlay; 0 if it has not said."""


@dataclass(frozen=True, slots=True)
class TargetRow:
    target: str
    nickname: str
    """Of who is expected there, or answered last; empty if nobody is known."""
    origin: str
    state: str
    """One of "connected", "dialling", "waiting" or "suspended"."""
    next_attempt_s: float | None
    last_error: str


def peer_row(
    record: Record,
    *,
    ourself: PeerName,
    records: Mapping[PeerName, Record],
    roster: Roster,
    unicast: Mapping[PeerName, PeerName],
) -> PeerRow:
    return PeerRow(
        name=record.name,
        nickname=record.nickname,
        uid=record.uid,
        version=record.version,
        short_id=record.short_id,
        ourself=record.name == ourself,
        reachable=record.name == ourself or record.name in unicast,
        route=_route_text(record.name, ourself, records, unicast),
        connections=tuple(_link_texts(record, records, roster)),
        addresses=record.addresses,
        mtu_bytes=record.mtu_bytes,
    )


def connection_rows(
    connections: Iterable[Connection],
    neighbours: Mapping[PeerName, Neighbour],
    targets: Targets,
    records: Mapping[PeerName, Record],
    now: float,
) -> list[ConnectionRow]:
    """Links first, then orphans, then targets that wait for their next attempt."""
    rows = [_connection_row(connection, neighbours, now) for connection in connections]
    for neighbour in neighbours.values():
        if neighbour.orphaned:
            rows.append(
                ConnectionRow(
                    peer=neighbour.name,
                    nickname=neighbour.nickname or nickname_of(neighbour.name, records),
                    address=neighbour.address,
                    outbound=neighbour.outbound,
                    state="orphaned",
                    info=f"frames flow, but its router is away: {neighbour.overlay_info}",
                )
            )
    for target in targets:
        if target.link is None and not targets.is_connected(target):
            rows.append(_waiting_row(target, targets, records, now))
    return rows


def target_rows(
    targets: Targets, records: Mapping[PeerName, Record], now: float
) -> list[TargetRow]:
    return [
        TargetRow(
            target=str(target.address),
            nickname=nickname_of(target.peer, records) if target.peer else "",
            origin=target.origin.value,
            state=_target_state(target, targets),
            next_attempt_s=(
                max(0.0, target.next_attempt_at - now)
                if _target_state(target, targets) == "waiting"
                else None
            ),
            last_error=target.last_error,
        )
        for target in targets
    ]


def refusal_text(address: str, refused: HandshakeRefused) -> str:
    """For the row of a target: who refused whom."""
    if refused.reason == "closed":
        return f"{address}: {refused}"
    if refused.reason.startswith("told-"):
        return f"{address} refused us: {str(refused).removeprefix('the other side says: ')}"
    return f"we refused {address}: {refused}"


def _connection_row(
    connection: Connection, neighbours: Mapping[PeerName, Neighbour], now: float
) -> ConnectionRow:
    name, nickname, info = "", "", ""
    state = connection.phase.value
    if connection.peer is not None:
        name = connection.peer.remote_name
        nickname = connection.peer.introduction.nickname
        neighbour = neighbours[PeerName(name)]
        state = "established" if neighbour.established else "connected"
        info = "" if neighbour.established else neighbour.overlay_info
    elif connection.phase is Phase.DIALLING:
        info = f"for {max(0.0, now - connection.opened_at):.0f} s"
    if connection.paused:
        info = f"{info}; slow to read".removeprefix("; ")
    return ConnectionRow(name, nickname, connection.address, connection.outbound, state, info)


def _waiting_row(
    target: Target, targets: Targets, records: Mapping[PeerName, Record], now: float
) -> ConnectionRow:
    wait_s = max(0.0, target.next_attempt_at - now)
    info = f"retrying in {wait_s:.0f} s"
    if targets.is_suspended(target):
        info = "not dialled: the connection limit is reached"
    elif not target.last_error:
        info = f"first attempt in {wait_s:.0f} s"
    if target.last_error:
        info = f"{info}: {target.last_error}"
    return ConnectionRow(
        peer=target.peer or "",
        nickname=nickname_of(target.peer, records) if target.peer else "",
        address=str(target.address),
        outbound=True,
        state="retrying",
        info=info,
    )


def _target_state(target: Target, targets: Targets) -> str:
    if targets.is_connected(target):
        return "connected"
    if target.link is not None:
        return "dialling"
    return "suspended" if targets.is_suspended(target) else "waiting"


def _route_text(
    name: PeerName,
    ourself: PeerName,
    records: Mapping[PeerName, Record],
    unicast: Mapping[PeerName, PeerName],
) -> str:
    if name == ourself:
        return "ourself"
    via = unicast.get(name)
    if via is None:
        return "none"
    return "direct" if via == name else f"relayed via {nickname_of(via, records)}"


def _link_texts(record: Record, records: Mapping[PeerName, Record], roster: Roster) -> list[str]:
    texts = []
    for number in sorted(indexes(record.links), key=roster.names.__getitem__):
        bit = 1 << number
        arrow = "->" if record.outbound & bit else "<-"
        flaw = ""
        if not record.established & bit:
            flaw = " (not established)"
        elif not record.control & bit:
            flaw = " (orphaned)"
        texts.append(f"{arrow} {nickname_of(roster.names[number], records)}{flaw}")
    return texts


def nickname_of(name: PeerName, records: Mapping[PeerName, Record]) -> str:
    record = records.get(name)
    return record.nickname if record is not None and record.nickname else name
