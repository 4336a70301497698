"""A model of a host's kernel as the fast path sees it: a bridge, its tunnels, and who drives them.

The bridge learns, ages and floods as Linux does. Its ports are one container, the TAP (behind it
the datapath) and tunnels; TAP and tunnels are isolated, so they pass frames to and from the
container and never to each other. A tunnel that does not carry floods and learns nothing, but what
comes in by it is delivered. All of it outlives the router. The driver does not: it is the thread
of a router that works off the core's wishes in order, takes its time, and dies with it.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastdp.core.effects import (
    AdoptedTunnel,
    Arrange,
    Carry,
    FastEffect,
    Point,
    ReadMacs,
    Retire,
    SendHeartbeat,
    Tunnel,
    TunnelEffect,
)
from fastdp.core.paths import FastPaths
from weavepy.base.names import PeerName

if TYPE_CHECKING:
    from tests.sim.peers import Host

CONTAINER = 0
TAP = -1
"""Ports of the bridge; a tunnel's is the short id that its device is named after."""

BRIDGE_AGE_S = 300.0
DRIVER_S = 0.02
SLOW_DRIVER_S = 0.3
TAP_WAIT_S = 0.04
"""For so long at most a frame waits in the TAP's queue: less than the core lets it drain."""

Input = Callable[[FastPaths, float], Collection[FastEffect]]


@dataclass
class Device:
    tunnel: Tunnel
    carrying: bool = False


class Kernel:
    def __init__(self, host: "Host") -> None:
        self.devices: dict[int, Device] = {}
        self.error = ""
        """What it says to whoever wants a device, or wants one to carry."""
        self.driver_s = DRIVER_S
        self.changed_at = host.world.now
        """When frames were given another way last."""
        self.harmed_at = -1e9
        """When somebody deleted a tunnel last."""
        self.rng = host.world.random(f"kernel {host.number}")
        self._host = host
        self._learnt: dict[bytes, tuple[int, float]] = {}
        """Port, and when a frame came from it last."""
        self._tap_at = 0.0

    # --- tunnels ---------------------------------------------------------------------------------

    def carries_to(self, peer: PeerName) -> bool:
        return any(it.carrying and it.tunnel.peer == peer for it in self.devices.values())

    def carry(self, short_id: int, carrying: bool) -> None:
        self._host.path_changes()
        self.devices[short_id].carrying = carrying
        self.changed_at = self._host.world.now

    def remove(self, short_id: int) -> None:
        device = self.devices.pop(short_id)
        self.flush(short_id)
        if device.carrying:
            self.changed_at = self._host.world.now

    def remove_all(self) -> None:
        for short_id in list(self.devices):
            self.remove(short_id)

    def lose_one(self, number: int) -> None:
        """Somebody else deletes a device, and the router hears of it."""
        if self.devices:
            short_id = sorted(self.devices)[number % len(self.devices)]
            self._host.trace(f"somebody deletes the tunnel {short_id}")
            self.remove(short_id)
            self.harmed_at = self._host.world.now
            self._host.post(self._host.fast_input, FastPaths.handle_ports_changed)

    # --- what the bridge knows -------------------------------------------------------------------

    def point(self, port: int, macs: Sequence[bytes]) -> None:
        now = self._host.world.now
        for mac in macs:
            self._learnt[mac] = (port, now)

    def flush(self, port: int) -> None:
        self._learnt = {mac: entry for mac, entry in self._learnt.items() if entry[0] != port}

    def behind(self, port: int) -> list[bytes]:
        return [mac for mac in self._learnt if self._port_of(mac) == port]

    def _port_of(self, mac: bytes) -> int | None:
        port, seen_at = self._learnt.get(mac, (None, 0.0))
        return port if self._host.world.now - seen_at < BRIDGE_AGE_S else None

    # --- frames ----------------------------------------------------------------------------------

    def frame_from_container(self, number: int, destination: bytes, source: bytes) -> None:
        self.point(CONTAINER, [source])
        port = self._port_of(destination)
        if port is None or port == TAP:
            self._to_tap(number, destination, source)
        if port is None and not destination[0] & 1:
            self._host.address_unknown(number)
        for short_id, device in list(self.devices.items()):
            if port == short_id or (port is None and device.carrying):
                self._to_tunnel(device, number, destination, source)

    def frame_from_tap(self, number: int, destination: bytes, source: bytes) -> None:
        self.point(TAP, [source])
        self._to_container(number, destination)

    def heartbeat(self, effect: SendHeartbeat) -> None:
        device = next((it for it in self.devices.values() if it.tunnel.peer == effect.peer), None)
        if device is not None:
            network_id = device.tunnel.network_id
            self._host.network.send_vxlan(
                self._host,
                device.tunnel.remote_host,
                lambda there, giver: there.heartbeat_came(network_id, giver, effect.payload),
            )

    def _to_tap(self, number: int, destination: bytes, source: bytes) -> None:
        world = self._host.world
        wait_s = TAP_WAIT_S * self.rng.random() ** 4
        self._tap_at = max(self._tap_at, world.now + wait_s)
        world.at(self._tap_at, self._read_from_tap, number, destination, source)

    def _read_from_tap(self, number: int, destination: bytes, source: bytes) -> None:
        datapath = self._host.datapath
        if datapath is not None and self._host.kernel is self:
            datapath.frame_from_bridge(number, destination, source)

    def _to_tunnel(self, device: Device, number: int, destination: bytes, source: bytes) -> None:
        network_id = device.tunnel.network_id
        self._host.network.send_vxlan(
            self._host,
            device.tunnel.remote_host,
            lambda there, giver: there.frame_came(network_id, giver, number, destination, source),
        )

    def heartbeat_came(self, network_id: int, giver: str, payload: bytes) -> None:
        found = self._tunnel_of(network_id, giver)
        if found is not None:
            peer = found[1].tunnel.peer

            def heard(paths: FastPaths, now: float) -> Collection[FastEffect]:
                return paths.handle_heartbeat(peer, payload, now)

            self._host.post(self._host.fast_input, heard)

    def frame_came(
        self, network_id: int, giver: str, number: int, destination: bytes, source: bytes
    ) -> None:
        found = self._tunnel_of(network_id, giver)
        if found is not None:
            short_id, device = found
            if device.carrying:
                self.point(short_id, [source])
            self._to_container(number, destination)

    def _tunnel_of(self, network_id: int, giver: str) -> tuple[int, Device] | None:
        """As the guard lets datagrams in: by network id and source address."""
        for short_id, device in self.devices.items():
            if (device.tunnel.network_id, device.tunnel.remote_host) == (network_id, giver):
                return short_id, device
        return None

    def _to_container(self, number: int, destination: bytes) -> None:
        port = self._port_of(destination)
        if port in (None, CONTAINER) and (destination[0] & 1 or destination == self._host.mac):
            self._host.frame_delivered(number)


class Driver:
    """Of one router, from its start to its end."""

    def __init__(self, host: "Host", kernel: Kernel) -> None:
        self._host = host
        self._kernel = kernel
        self._run = host.run
        self._free_at = 0.0
        self._tunnels: dict[PeerName, Tunnel] = {}
        self._carrying: dict[PeerName, bool] = {}

    def adopt(self) -> list[AdoptedTunnel]:
        for device in self._kernel.devices.values():
            self._tunnels[device.tunnel.peer] = device.tunnel
            self._carrying[device.tunnel.peer] = device.carrying
        return [
            AdoptedTunnel(it.peer, it.short_id, it.network_id, it.remote_host, self._carrying[peer])
            for peer, it in self._tunnels.items()
        ]

    def perform(self, effect: TunnelEffect) -> None:
        if isinstance(effect, SendHeartbeat):
            self._kernel.heartbeat(effect)
            return
        kernel, world = self._kernel, self._host.world
        self._free_at = max(self._free_at, world.now) + kernel.driver_s * kernel.rng.random()
        world.at(self._free_at, self._drive, effect)

    def _drive(self, effect: TunnelEffect) -> None:
        if self._host.run != self._run or self._host.kernel is not self._kernel:
            return  # killed before it came to that
        if self._host.world.traced:
            self._host.trace(f"driver: {type(effect).__name__} {getattr(effect, 'peer', '')}")
        answer = self._done(effect)
        if answer is not None:
            self._host.post(self._host.fast_input, answer)

    def _done(self, effect: TunnelEffect) -> Input | None:
        match effect:
            case Arrange(tunnels=tunnels):
                errors, silent = self._arrange(tunnels)
                return lambda paths, now: paths.handle_arranged(errors, "", now, silent=silent)
            case ReadMacs(peer=peer):
                device = self._device(peer)
                macs = [] if device is None else self._kernel.behind(device.tunnel.short_id)
                return lambda paths, now: paths.handle_macs(peer, macs, now)
            case Carry(peer=peer, macs=macs):
                error = self._carry(peer, macs)
                return lambda paths, now: paths.handle_carried(peer, error, now)
            case Retire(peer=peer, macs=macs):
                self._retire(peer, macs)
                return lambda paths, now: paths.handle_retired(peer, "", now)
            case Point(peer=peer, macs=macs):
                device = self._device(peer)
                if device is not None and self._carrying.get(peer):
                    self._kernel.point(device.tunnel.short_id, macs)
        return None

    def _arrange(self, tunnels: Sequence[Tunnel]) -> tuple[dict[PeerName, str], list[PeerName]]:
        kernel = self._kernel
        before, self._tunnels = self._tunnels, {tunnel.peer: tunnel for tunnel in tunnels}
        self._carrying = {
            tunnel.peer: self._carrying.get(tunnel.peer, False) and before[tunnel.peer] == tunnel
            for tunnel in tunnels
        }
        wanted = {tunnel.short_id: tunnel for tunnel in tunnels}
        for short_id, present in list(kernel.devices.items()):
            if wanted.get(short_id) != present.tunnel:
                self._host.tunnel_removed(present.tunnel, present.carrying)
                kernel.remove(short_id)
        errors: dict[PeerName, str] = {}
        silent: list[PeerName] = []
        for tunnel in tunnels:
            device = kernel.devices.get(tunnel.short_id)
            if device is None and kernel.error:
                errors[tunnel.peer] = kernel.error
                continue
            if device is None:
                device = kernel.devices[tunnel.short_id] = Device(tunnel)
                if self._carrying[tunnel.peer]:
                    self._carrying[tunnel.peer] = False
                    silent.append(tunnel.peer)
            if device.tunnel.peer != tunnel.peer:
                errors[tunnel.peer] = "the device's name is taken"
            elif device.carrying != self._carrying[tunnel.peer]:
                kernel.carry(tunnel.short_id, self._carrying[tunnel.peer])
        return errors, silent

    def _carry(self, peer: PeerName, macs: Sequence[bytes]) -> str:
        device = self._device(peer)
        if device is None or self._kernel.error:
            return self._kernel.error or "there is no tunnel"
        self._carrying[peer] = True
        self._kernel.carry(device.tunnel.short_id, True)
        self._kernel.point(device.tunnel.short_id, macs)
        return ""

    def _retire(self, peer: PeerName, macs: Sequence[bytes]) -> None:
        self._carrying[peer] = False
        device = self._device(peer)
        if device is not None:
            self._kernel.carry(device.tunnel.short_id, False)
        self._kernel.point(TAP, macs)
        if device is not None:
            self._kernel.flush(device.tunnel.short_id)

    def _device(self, peer: PeerName) -> Device | None:
        tunnel = self._tunnels.get(peer)
        device = None if tunnel is None else self._kernel.devices.get(tunnel.short_id)
        return device if device is not None and device.tunnel.peer == peer else None
