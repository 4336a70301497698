"""Tunnels of the kernel's VXLAN device: point to point, so one remote address, nothing to learn."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from fastdp.core.effects import AdoptedTunnel, Association, Tunnel
from fastdp.shell.bridged import DEFAULT_PORT, BridgedDriver, blaming
from fastdp.shell.device import (
    Device,
    alias_of,
    device_name,
    devices,
    group_of,
    make,
)
from fastdp.shell.driver import Arranged, Associations, Port
from fastdp.shell.xfrm import Xfrm
from weavepy.base.names import PeerName
from weavepy.kernel.netlink import HostError, explained, find_link, netlink

OVERHEAD_BYTES = {4: 50, 6: 70}
"""By the underlay's IP version: how much a packet grows (Ethernet, VXLAN, UDP and IP headers)."""

_PROBE = "wvxprobe"
_PROBE_NETWORK_ID = 0xFFFFFF
"""No tunnel has it: no peer has the short id 0xfff."""

__all__ = ["DEFAULT_PORT", "OVERHEAD_BYTES", "VxlanDriver"]


class VxlanDriver(BridgedDriver):
    name = "vxlan"
    title = "vxlan"

    def __init__(
        self, bridge: str, tap: str, port: int = DEFAULT_PORT, *, esp: bool = False
    ) -> None:
        """Without `esp`, no tunnel is encrypted."""
        super().__init__(bridge, tap, port, esp=esp)
        self._xfrm = Xfrm(bridge, port)

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
        with explained("looking for tunnels in ESP"):
            in_esp = self._xfrm.remote_hosts()
        adopted = [
            replace(tunnel, encrypted=in_esp.get(tunnel.short_id) == tunnel.remote_host)
            for tunnel in super().adopt()
        ]
        self._tunnels = {
            it.peer: replace(self._tunnels[it.peer], encrypted=it.encrypted) for it in adopted
        }
        return adopted

    def left(self) -> bool:
        with explained("looking for tunnels in ESP"):
            return super().left() or bool(self._xfrm.remote_hosts())

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
            before = self._desire(tunnels)
            missing = [
                it
                for it in tunnels
                if it.peer not in errors
                if device_name(it.short_id) not in present
            ]
            for tunnel in missing:
                with blaming(tunnel.peer, f"making {self._device_name(tunnel)}", errors):
                    make(route, bridge, tunnel, self._port, mtu_bytes)
            if missing:
                present = {device.name: device for device in devices()}
            for peer, tunnel in self._tunnels.items():
                if peer in errors:
                    continue
                with blaming(peer, f"making {self._device_name(tunnel)}", errors):
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

    def add_association(self, short_id: int, association: Association) -> None:
        with explained("adding an association"):
            self._xfrm.add(short_id, association)

    def keep_associations(
        self, short_id: int, sending: Collection[int], receiving: Collection[int] | None
    ) -> None:
        with explained("removing associations"):
            self._xfrm.keep(short_id, sending, receiving)

    def remove_tunnels(self) -> None:
        with explained("removing tunnels"), netlink() as route:
            if self._ours():
                route.link("del", group=group_of(self._bridge))
            for device in self._ours().values():
                route.link("del", index=device.index)
            self._xfrm.release([])
        self._tunnels = {}
        self._carrying = {}

    def _devices(self) -> list[Device]:
        return devices()

    def _device_name(self, tunnel: Tunnel) -> str:
        return device_name(tunnel.short_id)

    def _alias(self, tunnel: Tunnel) -> str:
        return alias_of(self._bridge, tunnel.peer)

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
