"""What the OVS bridge does with frames, as OpenFlow: between each peer's port and the tunnel.

    from the tunnel, peer's address and network id     to the peer's port
    from the tunnel, peer's address, another id        table 1, which drops it: forged_id
    from the tunnel, anything else                     dropped: forged_source
    from a peer's port                                 into the tunnel, with its id and address

No flow leads from tunnel to tunnel or from port to port, so there is no loop. None looks at what
is inside the frame: which MAC lies behind which peer is known to the Linux bridge. So the datapath
holds an entry or two per peer, direction and protocol, with the same few masks, and asks
ovs-vswitchd about a frame once in a while, not once per connection. What no flow matches is dropped
(the bridge's fail mode is "secure").

Ports have fixed numbers, so flows are known before ports are.
"""

from collections.abc import Iterable

from fastdp.core.effects import Tunnel
from fastdp.shell.device import numeric

TUNNEL_PORT = 0xF000
"""OpenFlow's number of the one VXLAN port; that of a peer's port is the peer's short id."""

COOKIE = 0x7765617665
"""Of our flows; the drops have one each, after it."""
FORGED_ID_COOKIE = COOKIE + 1
FORGED_SOURCE_COOKIE = COOKIE + 2

_FORGED_ID_TABLE = 1


def flows(tunnels: Iterable[Tunnel]) -> str:
    """The whole flow table, a line for each flow, as `ovs-ofctl` reads it."""
    lines = [
        f"cookie={FORGED_SOURCE_COOKIE:#x},priority=10,in_port={TUNNEL_PORT} actions=drop",
        f"cookie={FORGED_ID_COOKIE:#x},table={_FORGED_ID_TABLE},priority=10 actions=drop",
    ]
    for tunnel in tunnels:
        source, destination = _fields(tunnel)
        network_id = f"{tunnel.network_id:#x}"
        wrap = f"set_field:{network_id}->tun_id,{destination},output:{TUNNEL_PORT}"
        ours = f"cookie={COOKIE:#x},priority=100"
        from_peer = f"in_port={TUNNEL_PORT},{source}"
        lines += [
            f"{ours},{from_peer},tun_id={network_id} actions=output:{tunnel.short_id}",
            f"cookie={COOKIE:#x},priority=50,{from_peer} actions=goto_table:{_FORGED_ID_TABLE}",
            f"{ours},in_port={tunnel.short_id} actions={wrap}",
        ]
    return "".join(f"{line}\n" for line in dict.fromkeys(lines))


def _fields(tunnel: Tunnel) -> tuple[str, str]:
    """How a flow matches the peer's address, and how it sets it."""
    address = numeric(tunnel.remote_host)
    version = "ipv6_" if address.version == 6 else ""
    return f"tun_{version}src={address}", f"set_field:{address}->tun_{version}dst"
