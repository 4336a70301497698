"""Tunnels by Open vSwitch: a bridge of its own, beside the overlay's, makes VXLAN of frames.

Each peer has a port of both: an interface of the kernel that OVS made ("internal"), and that is a
port of the Linux bridge like any other tunnel. OVS only joins each of them with the peer's network
id and address (see `flows.py`); which MAC lies where, who floods and who carries is the Linux
bridge's business, as containers, filters and TAP are. So a path changes without a word to OVS,
whatever its daemons are doing, and a peer that uses the kernel's VXLAN device is as good as one
that uses OVS: on the wire they are the same.

An internal interface, not a veth: what a container leaves for hardware to do (checksums,
segmentation) the kernel does when it hands such an interface a frame for user space; by a veth, OVS
would read it undone.

The interface has in its alias all that a later router needs to go on, even if OVS does not answer
then: after the owner, network id and address.
"""

import errno
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from fastdp.core.effects import Association, Tunnel
from fastdp.shell import openvswitch
from fastdp.shell.bridged import DEFAULT_PORT, BridgedDriver, blaming
from fastdp.shell.device import (
    ISOLATED,
    QUIET,
    Device,
    alias_of,
    devices,
    flush,
    numeric,
    set_flags,
)
from fastdp.shell.driver import Arranged, Counters, Port
from fastdp.shell.flows import FORGED_ID_COOKIE, FORGED_SOURCE_COOKIE, flows
from fastdp.shell.openvswitch import START_S, NoAnswer
from fastdp.shell.switch import KINDS, NETDEV, PORT_NAME, SYSTEM, Switch
from fastdp.shell.userspace import WaysOut
from weavepy.base.names import PeerName
from weavepy.kernel.netlink import HostError, Link, explained, netlink, set_sysctl

TITLES = {SYSTEM: "kernel datapath", NETDEV: "userspace datapath"}

NOT_ENCRYPTED = "tunnels by Open vSwitch cannot be in ESP"

COUNTED_FLOWS = {"forged_id": FORGED_ID_COOKIE, "forged_source": FORGED_SOURCE_COOKIE}


class OvsDriver(BridgedDriver):
    name = "ovs"

    def __init__(
        self, bridge: str, tap: str, port: int = DEFAULT_PORT, *, kernel_only: bool = False
    ) -> None:
        """`kernel_only` is for who has a choice: the userspace datapath is slower than sleeve, and
        what does not answer now is no choice."""
        super().__init__(bridge, tap, port)
        self._kernel_only = kernel_only
        self._switch = Switch(bridge, port, kernel_only=kernel_only)

    @property
    def title(self) -> str:
        return ", ".join(filter(None, (self.name, TITLES.get(self._switch.datapath, ""))))

    # --- all tunnels -------------------------------------------------------------------------

    def available(self) -> str:
        try:
            self._guard.refused()
            with explained("looking for Open vSwitch"), netlink() as route:
                self._switch.ensure(route, START_S)
                if self._switch.datapath == NETDEV:
                    WaysOut(route, self._switch).require_any()
        except NoAnswer as error:
            # It may answer soon; until then each `arrange` says that it does not.
            return str(error) if self._kernel_only and not self._ours() else ""
        except HostError as error:
            return str(error)
        return ""

    def arrange(self, tunnels: Sequence[Tunnel], mtu_bytes: int) -> Arranged:
        refused = {it.peer: NOT_ENCRYPTED for it in tunnels if it.encrypted}
        tunnels = [tunnel for tunnel in tunnels if not tunnel.encrypted]
        self._guard.install(tunnels)
        with explained("arranging tunnels"), netlink() as route:
            bridge = self._required_bridge(route)
            repairs = self._ensure_tap(route, bridge)
            before = self._desire(tunnels)
            self._quieten_stale()
            try:
                repairs += self._switch.ensure_ports(
                    route,
                    {self._device_name(tunnel): tunnel.short_id for tunnel in tunnels},
                    mtu_bytes,
                    # The kernel's VXLAN device wants them over IPv6.
                    checksums=any(numeric(it.remote_host).version == 6 for it in tunnels),
                )
                arranged = self._ensure_devices(route, bridge, mtu_bytes, before)
                repairs += arranged.repairs
                repairs += self._switch.ensure_flows(flows(tunnels))
            except NoAnswer as error:
                if openvswitch.switch_is_alive():
                    raise  # Without its database it goes on with what it has.
                # Frames of a kind that it has not seen lately would vanish, and heartbeats pass.
                arranged = Arranged(errors={tunnel.peer: str(error) for tunnel in tunnels})
        return replace(arranged, errors={**arranged.errors, **refused}, repairs=repairs)

    def counters(self) -> Counters:
        counted = super().counters()
        if self._switch.datapath != NETDEV:
            return counted
        refused = dict(counted.refused)
        with suppress(HostError):
            # What this datapath takes in does not pass the guard.
            for reason, cookie in COUNTED_FLOWS.items():
                dropped = openvswitch.packets(self._switch.name, cookie)
                refused[reason] = refused.get(reason, 0) + dropped
        return Counters(counted.tunnels, refused)

    def left(self) -> bool:
        """The guard alone is the other driver's to remove, after its tunnels."""
        with explained("looking for tunnels"), netlink() as route:
            return bool(self._ours()) or self._switch.is_there(route)

    def remove_tunnels(self) -> None:
        failure = None
        with explained("removing tunnels"), netlink() as route:
            if self._switch.is_there(route) or self._ours():
                try:
                    self._switch.remove(route)
                except HostError as error:
                    failure = error
            for device in self._ours().values():
                _put_out_of_use(route, device)
        self._tunnels = {}
        self._carrying = {}
        if failure is not None:
            raise failure

    def add_association(self, short_id: int, association: Association) -> None:
        raise HostError(NOT_ENCRYPTED)

    def keep_associations(
        self, short_id: int, sending: Collection[int], receiving: Collection[int] | None
    ) -> None:
        """There are none."""

    # --- the kernel's interfaces -------------------------------------------------------------

    def _ensure_devices(
        self, route: Any, bridge: Link, mtu_bytes: int, before: Mapping[PeerName, Tunnel]
    ) -> Arranged:
        ports: dict[PeerName, Port] = {}
        errors: dict[PeerName, str] = {}
        repairs: list[str] = []
        present = {device.name: device for device in self._devices()}
        ways = WaysOut(route, self._switch) if self._switch.datapath == NETDEV else None
        for peer, tunnel in self._tunnels.items():
            name = self._device_name(tunnel)
            with blaming(peer, f"making {name}", errors):
                made = self._switch.interfaces.get(name)
                device = present.get(name)
                if made is None or made.number != tunnel.short_id or device is None:
                    raise self._switch.not_made(name)
                if ways is not None:
                    ways.require(tunnel.remote_host)
                is_new = self._name(route, device, tunnel)
                device = replace(device, alias=alias_of(self._bridge, peer))
                change = self._ensure(route, bridge, device, self._carrying[peer], mtu_bytes)
                if is_new:
                    flush(device.index)
                ports[peer] = Port(name, device.mac)
                if before.get(peer) == tunnel and (is_new or change):
                    repairs.append(f"{name} {'was deleted' if is_new else change}")
        return Arranged(ports, errors, repairs)

    def _name(self, route: Any, device: Device, tunnel: Tunnel) -> bool:
        """Have its alias say whose it is; False if it did."""
        if f"{device.alias} {device.network_id} {device.remote_host}" == self._alias(tunnel):
            return False
        set_sysctl(f"ipv6/conf/{device.name}/disable_ipv6", 1)
        route.link("set", index=device.index, ifalias=self._alias(tunnel))
        return True

    def _quieten_stale(self) -> None:
        """Those of a router before us that are no tunnel any more, before OVS is asked at all."""
        wanted = {self._device_name(tunnel) for tunnel in self._tunnels.values()}
        for device in self._ours().values():
            if device.name not in wanted and device.flags:
                set_flags(device.index, ISOLATED | QUIET)
                flush(device.index)

    def _devices(self) -> list[Device]:
        return [
            _described(device)
            for kind in KINDS.values()
            for device in devices(kind)
            if PORT_NAME.fullmatch(device.name)
        ]

    def _device_name(self, tunnel: Tunnel) -> str:
        return f"wov{tunnel.short_id:03x}"

    def _alias(self, tunnel: Tunnel) -> str:
        owner = alias_of(self._bridge, tunnel.peer)
        return f"{owner} {tunnel.network_id} {numeric(tunnel.remote_host)}"


def _described(device: Device) -> Device:
    """With what its alias tells beyond the owner."""
    owner, _, told = device.alias.rpartition(" ")
    owner, _, network_id = owner.rpartition(" ")
    if not network_id.isdigit():
        return device
    return replace(device, alias=owner, network_id=int(network_id), remote_host=told)


def _put_out_of_use(route: Any, device: Device) -> None:
    """What OVS did not take away; only it can take away those of the kernel datapath."""
    try:
        route.link("del", index=device.index)
    except NetlinkError as error:
        if error.code == errno.ENODEV:
            return  # It is at it, late.
        route.link("set", index=device.index, state="down", master=0)
