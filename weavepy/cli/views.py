"""What there is to see: each function turns a part of the schema into blocks.

Warnings come first. A state is coloured by what it asks of an operator: green for what works,
yellow for what is on its way or second best, red for what needs someone.
"""

from collections import Counter

from weavepy.cli import units
from weavepy.cli.output import OWNER_STYLES, Bar, Block, Cell, Column, Facts, Note, Table
from weavepy.client import schema

_CONNECTION_STYLES = {
    "established": "good",
    "orphaned": "warn",
    "connected": "warn",
    "handshake": "warn",
    "dialling": "warn",
    "retrying": "bad",
    "failed": "bad",
}
_TARGET_STYLES = {"connected": "good", "dialling": "warn", "waiting": "warn", "suspended": "dim"}
_HISTORY_STYLES = {"lost": "bad", "taken-over": "bad", "took-over": "warn"}
_IPAM_STYLES = {"ready": "good", "idle": "good", "waiting": "warn", "none": "dim"}


def overview(status: schema.Status) -> list[Block]:
    router = status.router
    return [
        *warnings(status),
        Facts(
            "",
            [
                ("Router", Cell(f"{router.nickname} ({router.name})", "bold")),
                ("Version", Cell(router.version)),
                ("Running", Cell(f"{units.duration(router.uptime_s)}, pid {router.pid}")),
                ("Port", Cell(f"{router.port} TCP and UDP")),
                ("Encryption", _encryption(router.encrypted)),
                ("Peers", Cell(_peers_line(status))),
                ("Connections", _connections_cell(status.connections)),
                ("Targets", Cell(_targets_line(status))),
                ("Addresses", _ipam_cell(status.ipam)),
                ("Datapath", _datapath_cell(status.datapath)),
                *([("Fast path", _fastdp_cell(status.fastdp))] if status.fastdp else []),
            ],
        ),
    ]


def warnings(status: schema.Status) -> list[Block]:
    lines = [*status.router.warnings, *status.ipam.warnings]
    return [Note(Cell(f"Warning: {line}", "bad")) for line in dict.fromkeys(lines)]


def connections(status: schema.Status) -> list[Block]:
    columns = [
        Column("Peer"),
        Column("Address"),
        Column("State"),
        Column("Overlay"),
        Column("MTU", right=True),
        Column("RTT", right=True),
        Column("Info"),
    ]
    rows = [
        [
            Cell(_peer(row.peer, row.nickname) or "?"),
            Cell(f"{'->' if row.outbound else '<-'} {row.address}"),
            Cell(row.state, _CONNECTION_STYLES.get(row.state, "")),
            Cell(_overlay(row)),
            Cell(str(row.overlay_mtu_bytes or "")),
            Cell(units.milliseconds(row.rtt_ms)),
            Cell(row.info),
        ]
        for row in status.connections
    ]
    return [
        Table(
            "Connections",
            columns,
            rows,
            empty="none; add a peer with `weavepy connect HOST`, or run the line that `weavepy join"
            " --show` prints on another host",
        )
    ]


def peers(status: schema.Status) -> list[Block]:
    columns = [
        Column("Name"),
        Column("Nickname"),
        Column("Route"),
        Column("Short id", right=True),
        Column("MTU", right=True),
        Column("Connections"),
        Column("Can be dialled at"),
    ]
    rows = [
        [
            Cell(peer.name, "bold" if peer.ourself else ""),
            Cell(peer.nickname, "bold" if peer.ourself else ""),
            _route(peer),
            Cell(str(peer.short_id or "")),
            Cell(str(peer.mtu_bytes or "")),
            Cell(", ".join(peer.connections)),
            Cell(" ".join(peer.addresses)),
        ]
        for peer in status.peers
    ]
    return [Table("Peers", columns, rows)]


def targets(status: schema.Status) -> list[Block]:
    columns = [
        Column("Target"),
        Column("Peer"),
        Column("Origin"),
        Column("State"),
        Column("Next attempt", right=True),
        Column("Last error"),
    ]
    rows = [
        [
            Cell(target.target),
            Cell(target.nickname),
            Cell(target.origin),
            Cell(target.state, _TARGET_STYLES.get(target.state, "")),
            Cell("" if target.next_attempt_s is None else units.duration(target.next_attempt_s)),
            Cell(target.last_error, "bad" if target.last_error else ""),
        ]
        for target in status.targets
    ]
    return [Table("Targets", columns, rows, empty="none: other peers dial this one")]


def ipam(ring: schema.IpamStatus) -> list[Block]:
    facts = Facts(
        "",
        [
            ("State", Cell(_ipam_state(ring), _IPAM_STYLES.get(ring.state, ""))),
            ("Universe", Cell(ring.universe)),
            ("Default subnet", Cell(ring.default_subnet)),
            (
                "Ring",
                Cell(f"{ring.ring_id or '-'}, {units.count(ring.entries, 'entry', 'entries')}"),
            ),
            (
                "Here",
                Cell(f"{ring.allocated:,} in use, {ring.cooling:,} cooling, {ring.free:,} free"),
            ),
        ],
    )
    blocks: list[Block] = [Note(Cell(f"Warning: {line}", "bad")) for line in ring.warnings]
    blocks.append(facts)
    if ring.frozen:
        frozen = Cell(f"Frozen (two owners): {', '.join(ring.frozen)}", "bad")
        blocks.append(Note(frozen))
    if ring.picture:
        blocks.append(ring_picture(ring))
    if ring.state != "none":
        blocks.append(ring_owners(ring))
    if ring.waiting:
        blocks.append(_waiting(ring))
    return blocks


def ring_picture(ring: schema.IpamStatus) -> Bar:
    """The universe from its first address to its last, each slice with the key of its owner."""
    cells = []
    for number in ring.picture:
        if not 0 <= number < len(ring.owners):
            cells.append(("!", "bad") if number == -1 else ("?", "dim"))
        elif ring.owners[number].reachable:
            cells.append((_key(number), f"owner {number % OWNER_STYLES}"))
        else:
            cells.append((_key(number).lower(), "dim"))
    return Bar(cells)


def _key(number: int) -> str:
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[number] if number < 26 else "*"


def _owner_key(owner: schema.RangeOwner, number: int) -> Cell:
    key = _key(number)
    if owner.reachable:
        return Cell(key, f"owner {number % OWNER_STYLES}")
    return Cell(key.lower(), "dim")


def addresses(found: schema.AddressList, now: float) -> list[Block]:
    columns = [
        Column("Address"),
        Column("Owner"),
        Column("Interface"),
        Column("Kind"),
        Column("Since", right=True),
    ]
    rows = [
        [
            Cell(one.address),
            Cell(one.owner),
            Cell(one.interface),
            Cell(one.kind),
            Cell(f"{units.duration(max(0.0, now - one.since))} ago" if one.since else "?"),
        ]
        for one in found.addresses
    ]
    return [Table("", columns, rows, empty="no address is in use on this host")]


def history(answer: schema.HistoryAnswer, now: float) -> list[Block]:
    columns = [
        Column("When", right=True),
        Column("What"),
        Column("Addresses", right=True),
        Column("Peer"),
        Column("Ranges"),
        Column("Why"),
    ]
    rows = [
        [
            Cell(f"{units.duration(max(0.0, now - event.at))} ago"),
            Cell(event.kind, _HISTORY_STYLES.get(event.kind, "")),
            Cell(f"{event.addresses:,}"),
            Cell(event.peer),
            Cell(" ".join(event.ranges)),
            Cell(event.reason),
        ]
        for event in answer.events
    ]
    return [Table("", columns, rows, empty="no range of this host has changed hands yet")]


def findings(answer: schema.CheckAnswer) -> list[Block]:
    if not answer.findings:
        checked = units.count(answer.addresses, "address", "addresses")
        return [Note(Cell(f"ring, store and interfaces agree ({checked} in use)", "good"))]
    return [
        Table(
            "",
            [Column("Differs"), Column("How")],
            [[Cell(one.what, "bad"), Cell(one.text)] for one in answer.findings],
        )
    ]


def ring_owners(ring: schema.IpamStatus, *, with_ranges: bool = False) -> Table:
    columns = [
        Column("Owner"),
        Column("Addresses", right=True),
        Column("Share", right=True),
        Column("Free", right=True),
        Column("Reachable"),
    ]
    if with_ranges:
        columns.append(Column("Ranges"))
    if ring.picture:
        columns.insert(0, Column("Key"))
    rows = []
    for number, owner in enumerate(ring.owners):
        row = [
            *([_owner_key(owner, number)] if ring.picture else []),
            Cell(_peer(owner.peer, owner.nickname)),
            Cell(f"{owner.addresses:,}"),
            Cell(units.percent(owner.share)),
            Cell("?" if owner.free is None else f"{owner.free:,}"),
            Cell("yes", "good") if owner.reachable else Cell("no", "bad"),
        ]
        if with_ranges:
            row.append(Cell(" ".join(owner.ranges)))
        rows.append(row)
    return Table("Owners", columns, rows, empty="none: there is no ring yet")


def _waiting(ring: schema.IpamStatus) -> Table:
    columns = [Column("For"), Column("Wants"), Column("Since", right=True), Column("Waits for")]
    rows = [
        [
            Cell(request.owner),
            Cell(request.what),
            Cell(units.duration(request.since_s)),
            Cell(request.reason, "warn"),
        ]
        for request in ring.waiting
    ]
    return Table("Waiting", columns, rows)


def datapath(status: schema.Status) -> list[Block]:
    data = status.datapath
    facts = Facts(
        "",
        [
            ("State", _datapath_cell(data)),
            ("Encryption", _encryption(data.encrypted)),
            ("Bridge", Cell(f"{data.bridge}, with {data.tap or 'no TAP'}, MTU {data.mtu_bytes}")),
            ("Offloads", Cell(" ".join(data.offloads) or "none: frame by frame")),
            ("MACs learnt", Cell(f"{data.macs:,}{_moves(data.mac_moves)}")),
            ("Drops", Cell(_counters(data.drops) or "none")),
            *([("Filtered", Cell(_counters(data.filtered)))] if data.filtered else []),
        ],
    )
    columns = [
        Column("Peer"),
        Column("Up"),
        Column("Endpoint"),
        Column("MTU", right=True),
        Column("RTT", right=True),
        Column("Sent", right=True),
        Column("Received", right=True),
        Column("Keys", right=True),
        Column("Drops"),
        Column("Info"),
    ]
    rows = [
        [
            Cell(_peer(session.peer, session.nickname)),
            Cell("yes", "good") if session.up else Cell("no", "bad"),
            Cell(session.endpoint),
            Cell(str(session.overlay_mtu_bytes or "")),
            Cell(units.milliseconds(session.rtt_ms)),
            Cell(units.size(session.bytes_sent)),
            Cell(units.size(session.bytes_received)),
            Cell(str(session.epoch)),
            Cell(_counters(session.drops)),
            Cell(session.reason),
        ]
        for session in data.sessions
    ]
    return [facts, Table("Sessions", columns, rows)]


def fastdp(status: schema.Status) -> list[Block]:
    fastdp = status.fastdp
    if fastdp is None:
        return [Note(Cell("this router is older than the fast path"))]
    facts: list[tuple[str, Cell]] = [("Fast path", _fastdp_cell(fastdp))]
    if fastdp.driver:
        facts.append(("Driver", Cell(fastdp.driver)))
    if fastdp.better:
        facts.append(("No better", Cell(fastdp.better)))
    if fastdp.trusted_subnets:
        facts.append(("Trusted", Cell(" ".join(fastdp.trusted_subnets))))
    if refused := _counters(fastdp.refused):
        facts.append(("Refused", Cell(refused)))
    columns = [
        Column("Peer"),
        Column("State"),
        Column("Remote"),
        Column("MTU", right=True),
        Column("Sent", right=True),
        Column("Received", right=True),
        Column("Info"),
    ]
    rows = [
        [
            Cell(_peer(tunnel.peer, tunnel.nickname)),
            Cell(
                f"{tunnel.state} (ESP)" if tunnel.encrypted else tunnel.state,
                "good" if tunnel.state == "fastdp" else "warn",
            ),
            Cell(tunnel.remote),
            Cell(str(tunnel.mtu_bytes)),
            Cell(units.size(tunnel.bytes_sent)),
            Cell(units.size(tunnel.bytes_received)),
            Cell(tunnel.reason),
        ]
        for tunnel in fastdp.tunnels
    ]
    return [Facts("", facts), Table("Tunnels", columns, rows)]


def attachments(found: list[schema.Attachment]) -> list[Block]:
    columns = [Column("Id"), Column("Interface"), Column("MAC"), Column("Addresses")]
    has_pods = any(attachment.pod for attachment in found)
    if has_pods:
        columns.insert(0, Column("Pod"))
    rows = [
        [
            *([Cell(attachment.pod)] if has_pods else []),
            Cell(attachment.id),
            Cell(attachment.interface),
            Cell(attachment.mac),
            Cell(" ".join(attachment.addresses)),
        ]
        for attachment in found
    ]
    return [Table("", columns, rows, empty="nothing is attached on this host")]


def report(whole: schema.Report) -> list[Block]:
    status = whole.status
    return [
        *overview(status),
        *connections(status),
        *peers(status),
        *targets(status),
        *(block for block in ipam(status.ipam)),
        *datapath(status),
        Table(
            "Routes",
            [Column("To"), Column("Next hop")],
            [[Cell(peer), Cell(hop)] for peer, hop in whole.routes.items()],
        ),
        Table(
            "Broadcast",
            [Column("From"), Column("Passed on to")],
            [[Cell(peer), Cell(", ".join(hops))] for peer, hops in whole.broadcast.items()],
        ),
        *attachments(whole.attachments),
        Facts("Exposed", [("addresses", Cell(" ".join(whole.exposed) or "none"))]),
        Facts("Options", [(name, Cell(value)) for name, value in whole.options.items()]),
        Facts("Machine", [("kernel", Cell(whole.kernel)), ("python", Cell(whole.python))]),
    ]


def _peer(name: str, nickname: str) -> str:
    return f"{name}({nickname})" if nickname else name


def _encryption(encrypted: bool) -> Cell:
    return Cell("on", "good") if encrypted else Cell("OFF: anyone on the path can read", "bad")


def _overlay(row: schema.ConnectionStatus) -> str:
    if not row.overlay:
        return ""
    if not row.encrypted:
        return f"{row.overlay}, not encrypted"
    return "fastdp (ESP)" if row.overlay == "fastdp" else row.overlay


def _route(peer: schema.PeerStatus) -> Cell:
    if peer.ourself or peer.route == "direct":
        return Cell(peer.route, "good")
    return Cell(peer.route, "warn" if peer.reachable else "bad")


def _peers_line(status: schema.Status) -> str:
    reachable = sum(peer.reachable or peer.ourself for peer in status.peers)
    return f"{status.router.peers} with this one, {reachable} reachable"


def _connections_cell(rows: list[schema.ConnectionStatus]) -> Cell:
    if not rows:
        return Cell("none", "dim")
    counts = Counter(row.state for row in rows)
    text = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
    whole = set(counts) == {"established"}
    return Cell(text, "good" if whole else "warn" if counts["established"] else "bad")


def _targets_line(status: schema.Status) -> str:
    discovery = "discovery on" if status.router.discovery else "discovery off"
    return f"{status.router.targets} ({discovery})"


def _ipam_state(ring: schema.IpamStatus) -> str:
    return f"{ring.state}: {ring.reason}" if ring.reason else ring.state


def _ipam_cell(ring: schema.IpamStatus) -> Cell:
    style = "bad" if ring.frozen else _IPAM_STYLES.get(ring.state, "")
    if ring.state != "ready":
        return Cell(_ipam_state(ring), style)
    waiting = f", {units.count(len(ring.waiting), 'request')} waiting" if ring.waiting else ""
    return Cell(f"{ring.universe}: {ring.allocated:,} in use, {ring.free:,} free{waiting}", style)


def _datapath_cell(data: schema.DatapathStatus) -> Cell:
    if not data.running:
        return Cell("not running", "bad")
    up = sum(session.up for session in data.sessions)
    sessions = f"{up} of {units.count(len(data.sessions), 'session')} up"
    return Cell(
        f"sleeve, MTU {data.mtu_bytes}, {sessions if data.sessions else 'no sessions'},"
        f" running {units.duration(data.uptime_s)}, pid {data.pid}",
        "good" if up == len(data.sessions) else "warn",
    )


def _fastdp_cell(fastdp: schema.FastdpStatus) -> Cell:
    if fastdp.mode == "off" or fastdp.reason:
        return Cell(f"{fastdp.mode}: {fastdp.reason}" if fastdp.mode != "off" else "off", "dim")
    fast = sum(tunnel.state == "fastdp" for tunnel in fastdp.tunnels)
    whole = fast == len(fastdp.tunnels)
    text = f"{fastdp.mode}, to {fast} of {units.count(len(fastdp.tunnels), 'peer')}"
    return Cell(f"{text}, UDP port {fastdp.port}", "good" if whole else "warn")


def _counters(counters: list[schema.CounterStatus]) -> str:
    return ", ".join(f"{counter.name} {counter.value:,}" for counter in counters if counter.value)


def _moves(count: int) -> str:
    return f", {count:,} moved" if count else ""
