"""Tunnels as ports of the overlay's bridge, one per peer, whatever makes the ports.

So the bridge itself knows which MAC lies behind which peer, and no frame costs anything in user
space. All tunnels and the TAP are *isolated* ports: they pass frames to and from containers and
never to each other, so there is no loop, whatever pairs of hosts have tunnels.

A port that is not carrying neither floods nor learns. It is told so before it first comes up:
a new port would do both. Its alias says whose it is, and begins with "weavepy BRIDGE PEER". That
is how a later router finds it, and how the devices of others, which are left alone, are told
apart.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from fastdp.core.effects import AdoptedTunnel, Tunnel
from fastdp.shell import fdb
from fastdp.shell.device import (
    CARRYING,
    ISOLATED,
    QUIET,
    Device,
    flush,
    is_isolated,
    not_ours,
    set_flags,
)
from fastdp.shell.driver import Counters
from fastdp.shell.guard import Guard
from weavepy.base.names import PeerName
from weavepy.kernel.netlink import HostError, Link, explained, find_link, netlink, refusal

DEFAULT_PORT = 6784

MAX_MACS = 4096
"""Of one tunnel, told to others."""


class BridgedDriver(ABC):
    """All of a driver but how a port is made."""

    def __init__(
        self, bridge: str, tap: str, port: int = DEFAULT_PORT, *, esp: bool = False
    ) -> None:
        """Without `esp`, no tunnel is encrypted."""
        self._bridge = bridge
        self._tap = tap
        self._port = port
        self._guard = Guard(bridge, port, esp)
        self._tunnels: dict[PeerName, Tunnel] = {}
        self._carrying: dict[PeerName, bool] = {}
        """What each tunnel's flags should say."""

    @abstractmethod
    def _devices(self) -> list[Device]:
        """All of this driver's kind, whoever made them."""

    @abstractmethod
    def _device_name(self, tunnel: Tunnel) -> str: ...

    @abstractmethod
    def _alias(self, tunnel: Tunnel) -> str: ...

    @abstractmethod
    def remove_tunnels(self) -> None: ...

    # --- all tunnels -------------------------------------------------------------------------

    def adopt(self) -> list[AdoptedTunnel]:
        with explained("looking for tunnels"):
            found = self._ours()
        self._carrying = {peer: device.carrying for peer, device in found.items()}
        self._tunnels = {
            peer: Tunnel(peer, device.short_id, device.network_id, device.remote_host)
            for peer, device in found.items()
        }
        return [
            AdoptedTunnel(
                peer, device.short_id, device.network_id, device.remote_host, device.carrying
            )
            for peer, device in found.items()
        ]

    def left(self) -> bool:
        with explained("looking for tunnels"):
            return bool(self._ours()) or self._guard.is_installed()

    def counters(self) -> Counters:
        with explained("counting frames"):
            found = self._ours()
        traffic = {peer: device.traffic for peer, device in found.items()}
        return Counters(traffic, self._guard.refused())

    def remove_all(self) -> None:
        self.remove_tunnels()
        self._guard.remove()

    def _ours(self) -> dict[PeerName, Device]:
        return {peer: device for device in self._devices() if (peer := device.owner(self._bridge))}

    def _desire(self, tunnels: Sequence[Tunnel]) -> dict[PeerName, Tunnel]:
        """Have these from now on, those that are new not carrying; returns those before."""
        before, self._tunnels = self._tunnels, {tunnel.peer: tunnel for tunnel in tunnels}
        self._carrying = {
            peer: self._carrying.get(peer, False) and before.get(peer) == tunnel
            for peer, tunnel in self._tunnels.items()
        }
        return before

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
                device = find_link(route, self._device_name(tunnel)) if tunnel else None
            if device is not None and tunnel is not None and device.alias != self._alias(tunnel):
                device = None
            yield bridge, tap, device


@contextmanager
def blaming(peer: PeerName, doing: str, errors: dict[PeerName, str]) -> Iterator[None]:
    """What fails inside is this peer's error, and the others go on."""
    try:
        yield
    except NetlinkError as error:
        errors[peer] = str(refusal(doing, int(error.code)))
    except HostError as error:
        errors[peer] = str(error)
