"""Tunnels of the kernel's VXLAN device: one per peer, each a port of the overlay's bridge.

The device is point to point (one remote address, nothing to learn), so the bridge itself knows
which MAC lies behind which peer, and no frame costs anything in user space. All tunnels and the
TAP are *isolated* ports: they pass frames to and from containers and never to each other, so
there is no loop, whatever pairs of hosts have tunnels.

A device that is not carrying neither floods nor learns. It is told so before it first comes up:
a new port would do both. Its alias says whose it is: "weavepy BRIDGE PEER". That is how a later
router finds it, and how the devices of others, which are left alone, are told apart.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from fastdp.core.effects import AdoptedTunnel, Association, Tunnel
from fastdp.shell import fdb
from fastdp.shell.device import (
    CARRYING,
    ISOLATED,
    QUIET,
    Device,
    alias_of,
    device_name,
    devices,
    flush,
    group_of,
    is_isolated,
    make,
    not_ours,
    set_flags,
)
from fastdp.shell.driver import Arranged, Associations, Counters, Port
from fastdp.shell.guard import Guard
from fastdp.shell.xfrm import Xfrm
from weavepy.base.names import PeerName
from weavepy.kernel.netlink import HostError, Link, explained, find_link, netlink, refusal

DEFAULT_PORT = 6784

OVERHEAD_BYTES = {4: 50, 6: 70}
"""By the underlay's IP version: how much a packet grows (Ethernet, VXLAN, UDP and IP headers)."""

MAX_MACS = 4096
"""Of one tunnel, told to others."""

_PROBE = "wvxprobe"
_PROBE_NETWORK_ID = 0xFFFFFF
"""No tunnel has it: no peer has the short id 0xfff."""


class VxlanDriver:
    name = "vxlan"

    def __init__(
        self, bridge: str, tap: str, port: int = DEFAULT_PORT, *, esp: bool = False
    ) -> None:
        """Without `esp`, no tunnel is encrypted."""
        self._bridge = bridge
        self._tap = tap
        self._port = port
        self._guard = Guard(bridge, port, esp)
        self._xfrm = Xfrm(bridge, port)
        self._tunnels: dict[PeerName, Tunnel] = {}
        self._carrying: dict[PeerName, bool] = {}
        """What each tunnel's flags should say."""

    # --- all tunnels -------------------------------------------------------------------------

    def available(self) -> str:
        try:
            self._guard.refused()
            with explained("making a VXLAN device"), netlink() as route:
                if find_link(route, _PROBE) is None:  # else we were killed between these two
                    route.link(
                        "add",
                        ifname=_PROBE,
                        kind="vxlan",
                        vxlan_id=_PROBE_NETWORK_ID,
                        vxlan_port=self._port,
                    )
                route.link("del", ifname=_PROBE)
        except HostError as error:
            return str(error)
        return ""

    def adopt(self) -> list[AdoptedTunnel]:
        with explained("looking for tunnels"):
            found = self._ours()
            in_esp = self._xfrm.remote_hosts()
        self._carrying = {peer: device.carrying for peer, device in found.items()}
        adopted = [
            AdoptedTunnel(
                peer,
                device.short_id,
                device.network_id,
                device.remote_host,
                device.carrying,
                encrypted=in_esp.get(device.short_id) == device.remote_host,
            )
            for peer, device in found.items()
        ]
        self._tunnels = {
            it.peer: Tunnel(it.peer, it.short_id, it.network_id, it.remote_host, it.encrypted)
            for it in adopted
        }
        return adopted

    def left(self) -> bool:
        with explained("looking for tunnels"):
            return (
                bool(self._ours()) or self._guard.is_installed() or bool(self._xfrm.remote_hosts())
            )

    def arrange(self, tunnels: Sequence[Tunnel], mtu_bytes: int) -> Arranged:
        # Before the devices: what they take in has passed the guard from the first datagram on,
        # and what they send is encrypted from the first one on, where it has to be.
        self._guard.install(tunnels)
        in_esp = [tunnel for tunnel in tunnels if tunnel.encrypted]
        ports: dict[PeerName, Port] = {}
        silent: list[PeerName] = []
        with explained("demanding IPsec"):
            demanded, errors = self._xfrm.demand(in_esp)
        with explained("arranging tunnels"), netlink() as route:
            bridge = self._required_bridge(route)
            repairs = self._ensure_tap(route, bridge)
            known = {tunnel.remote_host for tunnel in self._tunnels.values() if tunnel.encrypted}
            repairs += [f"IPsec for {host} was not demanded" for host in demanded if host in known]
            present = self._without_stale(route, tunnels)
            before, self._tunnels = self._tunnels, {tunnel.peer: tunnel for tunnel in tunnels}
            self._carrying = {
                peer: self._carrying.get(peer, False) and before.get(peer) == tunnel
                for peer, tunnel in self._tunnels.items()
            }
            missing = [
                it
                for it in tunnels
                if it.peer not in errors
                if device_name(it.short_id) not in present
            ]
            for tunnel in missing:
                with _blaming(tunnel, errors):
                    make(route, bridge, tunnel, self._port, mtu_bytes)
            if missing:
                present = {device.name: device for device in devices()}
            for peer, tunnel in self._tunnels.items():
                if peer in errors:
                    continue
                with _blaming(tunnel, errors):
                    device = present.get(device_name(tunnel.short_id))
                    if device is None:
                        raise HostError("the device was removed as it was made; trying again soon")
                    if self._carrying[peer] and not device.is_up_on(bridge):
                        self._carrying[peer] = False
                        silent.append(peer)
                    change = self._ensure(route, bridge, device, self._carrying[peer], mtu_bytes)
                    ports[peer] = Port(device.name, device.mac)
                    if change and before.get(peer) == tunnel:
                        was = "was deleted" if tunnel in missing else change
                        repairs.append(f"{device.name} {was}")
            self._xfrm.release(in_esp)
            found = self._xfrm.associations() if in_esp else {}
        associations = {it.peer: found.get(it.short_id, Associations()) for it in in_esp}
        return Arranged(ports, errors, repairs, associations, silent)

    def counters(self) -> Counters:
        with explained("counting frames"):
            found = self._ours()
        traffic = {peer: device.traffic for peer, device in found.items()}
        return Counters(traffic, self._guard.refused())

    def remove_all(self) -> None:
        with explained("removing tunnels"), netlink() as route:
            if self._ours():
                route.link("del", group=group_of(self._bridge))
            for device in self._ours().values():
                route.link("del", index=device.index)
            self._xfrm.release([])
        self._guard.remove()
        self._tunnels = {}
        self._carrying = {}

    def _ours(self) -> dict[PeerName, Device]:
        return {peer: device for device in devices() if (peer := device.owner(self._bridge))}

    def _required_bridge(self, route: Any) -> Link:
        link = find_link(route, self._bridge)
        if link is None or link.kind != "bridge":
            raise HostError(f"there is no bridge {self._bridge} for tunnels to be ports of")
        return link

    def _ensure_tap(self, route: Any, bridge: Link) -> list[str]:
        """The TAP is isolated before any tunnel is there."""
        repairs = []
        tap = find_link(route, self._tap)
        if tap is None:
            raise HostError(f"there is no TAP {self._tap} beside which tunnels could work")
        if tap.master != bridge.index:
            if tap.master:
                raise HostError(f"the TAP {self._tap} is a port of something else")
            route.link("set", index=tap.index, master=bridge.index)
            repairs.append(f"{self._tap} was taken out of {self._bridge}")
        if not is_isolated(route, tap.index):
            set_flags(tap.index, ISOLATED)
        return repairs

    def _without_stale(self, route: Any, tunnels: Sequence[Tunnel]) -> dict[str, Device]:
        """All VXLAN devices by name, after those of ours are gone that are no tunnel any more."""
        wanted = {device_name(tunnel.short_id): tunnel for tunnel in tunnels}
        present: dict[str, Device] = {}
        for device in devices():
            tunnel = wanted.get(device.name)
            stale = device.owner(self._bridge) is not None and not (
                tunnel is not None and device.is_tunnel(self._bridge, tunnel, self._port)
            )
            if stale or device.is_half_made(self._port):
                route.link("del", index=device.index)
            else:
                present[device.name] = device
        return present

    def _ensure(
        self, route: Any, bridge: Link, device: Device, carrying: bool, mtu_bytes: int
    ) -> str:
        """Have the device as it should be; return what was wrong with it."""
        if device.owner(self._bridge) is None:
            raise not_ours(device.name)
        change = ""
        up, flags = device.up, device.flags
        if not up:
            change = "was down"
        if device.mtu_bytes != mtu_bytes:
            route.link("set", index=device.index, mtu=mtu_bytes)
        if device.master != bridge.index:
            # Down, so that the new port passes nothing before it has its flags.
            route.link("set", index=device.index, state="down", master=bridge.index)
            up, flags = False, {}
            change = f"was taken out of {self._bridge}"
        wanted = ISOLATED | (CARRYING if carrying else QUIET)
        if flags != wanted:
            set_flags(device.index, wanted)
            change = change or "had other port flags"
        if not up:
            route.link("set", index=device.index, state="up")
        return change

    # --- one tunnel --------------------------------------------------------------------------

    def macs(self, peer: PeerName) -> list[bytes]:
        with self._tunnel("reading what lies behind", peer) as (bridge, _, tunnel):
            return [] if tunnel is None else fdb.learnt(bridge.index, tunnel.index)[:MAX_MACS]

    def carry(self, peer: PeerName, macs: Sequence[bytes]) -> None:
        with self._tunnel("carrying frames to", peer) as (bridge, _, tunnel):
            if tunnel is None:
                raise HostError(f"there is no tunnel to {peer}")
            set_flags(tunnel.index, CARRYING)
            self._carrying[peer] = True
            fdb.point(bridge.index, tunnel.index, macs)

    def retire(self, peer: PeerName, macs: Sequence[bytes]) -> None:
        self._carrying[peer] = False
        with self._tunnel("ending the tunnel to", peer) as (bridge, tap, tunnel):
            if tunnel is not None:
                # First: a frame that comes in by the tunnel would take its MAC back.
                set_flags(tunnel.index, QUIET)
            if tap is not None:
                fdb.point(bridge.index, tap.index, macs)
            if tunnel is not None:
                flush(tunnel.index)

    def point(self, peer: PeerName, macs: Sequence[bytes]) -> None:
        with self._tunnel("pointing frames to", peer) as (bridge, _, tunnel):
            if tunnel is not None and self._carrying.get(peer):
                fdb.point(bridge.index, tunnel.index, macs)

    def add_association(self, short_id: int, association: Association) -> None:
        with explained("adding an association"):
            self._xfrm.add(short_id, association)

    def keep_associations(
        self, short_id: int, sending: Collection[int], receiving: Collection[int] | None
    ) -> None:
        with explained("removing associations"):
            self._xfrm.keep(short_id, sending, receiving)

    @contextmanager
    def _tunnel(
        self, doing: str, peer: PeerName
    ) -> Iterator[tuple[Link, Link | None, Link | None]]:
        """The bridge, the TAP, and the tunnel's device, as far as they are there."""
        with explained(f"{doing} {peer}"):
            with netlink() as route:
                bridge = self._required_bridge(route)
                tap = find_link(route, self._tap)
                tunnel = self._tunnels.get(peer)
                device = find_link(route, device_name(tunnel.short_id)) if tunnel else None
            if device is not None and device.alias != alias_of(self._bridge, peer):
                device = None
            yield bridge, tap, device


@contextmanager
def _blaming(tunnel: Tunnel, errors: dict[PeerName, str]) -> Iterator[None]:
    """What fails inside is the tunnel's error, and the others go on."""
    try:
        yield
    except NetlinkError as error:
        doing = f"making {device_name(tunnel.short_id)}"
        errors[tunnel.peer] = str(refusal(doing, int(error.code)))
    except HostError as error:
        errors[tunnel.peer] = str(error)
