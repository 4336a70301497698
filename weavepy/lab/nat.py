"""A gateway in front of a host: it masquerades, and lets nothing in that was not asked for.

It gives the connections of its host source ports of one range. To *rebind* is what a home router
does when it is restarted, or has been bored: it forgets its connections, and the next packets of
each get a port of another range. What the others then send to the old port ends in the gateway.
"""

from pathlib import Path

from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

from weavepy.lab.plan import INSIDES, Link, Plan
from weavepy.lab.system import in_namespace, inside, ip_batch, run

FIRST_PORT = 20_000
PORTS = 500
"""In one range."""
RANGES = 80

_HOST_INTERFACE = "u0"
_INSIDE_INTERFACE = "inside"
_SETTINGS = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")


def build(plan: Plan, host: int) -> None:
    """Connect a host to its gateway, whose links are there already."""
    gateway = plan.gateway(host)
    inner = plan.namespace(plan.node(f"h{host}"))
    mtu = plan.mtu_bytes
    peer = f"name {_HOST_INTERFACE} mtu {mtu} netns {inner}"
    ip_batch(
        gateway,
        [
            f"link add {_INSIDE_INTERFACE} mtu {mtu} type veth peer {peer}",
            *_address_commands(host, 1, _INSIDE_INTERFACE),
        ],
    )
    ip_batch(inner, _address_commands(host, 2, _HOST_INTERFACE))
    ip_batch(
        inner,
        [f"route add default via {_address(family, host, 1)}" for family in INSIDES],
    )
    in_namespace(gateway, _forward)
    masquerade(plan, host, 0)


def masquerade(plan: Plan, host: int, times: int) -> None:
    """Use the range of ports of the `times`-th rebinding, and forget all connections."""
    first = FIRST_PORT + times % RANGES * PORTS
    ports = f"{first}-{first + PORTS - 1}"
    rules = f"""
        add table inet weavepy_lab
        delete table inet weavepy_lab
        table inet weavepy_lab {{
            chain outwards {{
                type nat hook postrouting priority srcnat;
                oifname "u*" meta l4proto {{ tcp, udp }} masquerade to :{ports}
                oifname "u*" masquerade
            }}
            chain inwards {{
                type filter hook forward priority filter;
                iifname "u*" ct state != {{ established, related }} ct status ! dnat drop
            }}
        }}
    """
    gateway = plan.gateway(host)
    run(inside(gateway, ["nft", "-f", "-"]), rules)
    if times:
        in_namespace(gateway, _forget_connections)


def open_port(plan: Plan, host: int, port: int) -> None:
    """Let the gateway pass what comes for this port, TCP and UDP, on to its host.

    The host is then reachable at the gateway's addresses; rebinding ends that.
    """
    rules = f"""
        table inet weavepy_lab {{
            chain forwarded {{
                type nat hook prerouting priority dstnat;
                iifname "u*" meta nfproto ipv4 meta l4proto {{ tcp, udp }} th dport {port} \
                    dnat ip to {_address("ipv4", host, 2)}
                iifname "u*" meta nfproto ipv6 meta l4proto {{ tcp, udp }} th dport {port} \
                    dnat ip6 to {_address("ipv6", host, 2)}
            }}
        }}
    """
    run(inside(plan.gateway(host), ["nft", "-f", "-"]), rules)


def plug_in(plan: Plan, host: int, link: Link) -> None:
    """Give a host behind NAT an interface of its own on one of its gateway's links.

    Its address there is the one that the link's other end knows for after a move.
    """
    end = link.end_at(host)
    other = link.end_at(link.low + link.high - host)
    inner = plan.namespace(plan.node(f"h{host}"))
    interface, port, mac = (
        f"x{other.host}",
        f"x{end.port}",
        f"02:98:00:00:{host:02x}:{other.host:02x}",
    )
    peer = f"name {interface} address {mac} mtu {plan.mtu_bytes} netns {inner}"
    ip_batch(
        plan.wire,
        [
            f"link add {port} mtu {plan.mtu_bytes} type veth peer {peer}",
            f"link set {port} master {link.bridge}",
            f"link set {port} up",
        ],
    )
    ip_batch(
        plan.outside(other.host),
        [f"neighbour replace {end.moved_address} lladdr {mac} nud permanent dev {other.interface}"],
    )
    ip_batch(
        inner,
        [
            f"link set {interface} up",
            f"route add {other.address} dev {interface}",
            f"neighbour add {other.address} lladdr {other.mac} nud permanent dev {interface}",
            f"address add {end.moved_address}/{link.prefix_length} dev {interface}",
        ],
    )


def _address_commands(host: int, offset: int, interface: str) -> list[str]:
    return [
        f"address add {_address('ipv4', host, offset)}/30 dev {interface}",
        f"address add {_address('ipv6', host, offset)}/126 dev {interface} nodad",
        f"link set {interface} up",
    ]


def _address(family: str, host: int, offset: int) -> str:
    return str(INSIDES[family].network_address + (4 * host + offset))


def _forward() -> None:
    for setting in _SETTINGS:
        path = Path("/proc/sys") / setting
        if path.exists():
            path.write_text("1")


def _forget_connections() -> None:
    with NFCTSocket() as conntrack:  # type: ignore[no-untyped-call]  # as pyroute2 has it
        conntrack.flush()
