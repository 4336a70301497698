"""Our bridge in Open vSwitch, as its database should have it: settings, ports, flows.

It is ours by its external id "weavepy". Others' bridges are left alone, and one of others that has
its name is refused. Each method compares first, and changes in one transaction what differs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from re import compile as pattern
from typing import Any
from zlib import crc32

from fastdp.shell import openvswitch
from fastdp.shell.device import NotOurs, not_ours
from fastdp.shell.flows import TUNNEL_PORT
from fastdp.shell.openvswitch import ANSWER_S, Bridge, Interface
from weavepy.kernel.netlink import MAX_INTERFACE_NAME_LENGTH, HostError, find_link

SYSTEM = "system"
NETDEV = "netdev"
KINDS = {SYSTEM: "openvswitch", NETDEV: "tun"}
"""Of OVS's internal interfaces in the kernel, by datapath."""

LABEL = "weavepy"
TUNNEL_NAME = "wovtun"
PORTS_AT_ONCE = 100
"""Made in one transaction, which has to end in `ANSWER_S`."""

PORT_NAME = pattern(r"wov[0-9a-f]{3}")
_PROTOCOLS = frozenset({openvswitch.OPENFLOW})


@dataclass(frozen=True, slots=True)
class Wanted:
    """A port as it should be."""

    kind: str
    number: int
    mtu_bytes: int = 0
    options: Mapping[str, str] = field(default_factory=dict)

    def is_made(self, found: Interface | None) -> bool:
        """In all that cannot be changed in place, and OVS could do it."""
        return found is not None and (
            (found.kind, found.number, found.wanted_number, found.options)
            == (self.kind, self.number, self.number, self.options)
        )

    def step(self, switch: str, name: str, found: Interface | None) -> list[str]:
        """For `ovs-vsctl`; empty if it is as it should be."""
        size = [f"mtu_request={self.mtu_bytes}"] if self.mtu_bytes else []
        if found is not None and self.is_made(found):
            as_wanted = found.wanted_mtu_bytes == self.mtu_bytes
            return [] if as_wanted else ["--", "set", "Interface", name, *size]
        settings = [f"type={self.kind}", f"ofport_request={self.number}", *size]
        settings += [f"options:{key}={value}" for key, value in self.options.items()]
        return [
            *("--", "--if-exists", "del-port", switch, name),
            *("--", "add-port", switch, name, "--", "set", "Interface", name, *settings),
        ]


class Switch:
    def __init__(self, bridge: str, port: int, *, kernel_only: bool) -> None:
        """Beside this Linux bridge; `port` is UDP, for VXLAN."""
        self.name = _name_beside(bridge)
        self.datapath = ""
        """Empty while it is not known."""
        self.bridges: dict[str, Bridge] = {}
        """All of Open vSwitch's, as last read."""
        self._bridge = bridge
        self._port = port
        self._kernel_only = kernel_only
        self._flows = ""
        """As OVS last had them from us."""

    @property
    def interfaces(self) -> Mapping[str, Interface]:
        return self.bridges[self.name].interfaces

    def is_there(self, route: Any) -> bool:
        """Something like it, as the kernel sees it."""
        link = find_link(route, self.name)
        return link is not None and link.kind in KINDS.values()

    def ensure(self, route: Any, answer_s: int = ANSWER_S) -> bool:
        """Have it, and its datapath known; False if it was as it should be."""
        found = self._find(route, answer_s)
        changed = True
        if found is None or find_link(route, self.name) is None:
            self._make(route, answer_s)
        elif (found.fail_mode, found.protocols) != ("secure", _PROTOCOLS):
            openvswitch.vsctl(*self._settings(found.datapath or SYSTEM), answer_s=answer_s)
        else:
            changed = False
        if changed:
            self.bridges = openvswitch.bridges(answer_s)
        self.datapath = self.bridges[self.name].datapath or SYSTEM
        if self.datapath == NETDEV and self._kernel_only:
            raise HostError("Open vSwitch has no kernel datapath here")
        return changed

    def ensure_ports(
        self, route: Any, numbers: Mapping[str, int], mtu_bytes: int, *, checksums: bool
    ) -> list[str]:
        """Have the tunnels' port and these, by name; returns what others had changed.

        Whether OVS could make each is in `interfaces`. `checksums`: in outer UDP headers.
        """
        changed = self.ensure(route)
        options = {"remote_ip": "flow", "key": "flow", "dst_port": str(self._port)}
        if checksums:
            options["csum"] = "true"
        tunnels = Wanted("vxlan", TUNNEL_PORT, options=options)
        wanted = {TUNNEL_NAME: tunnels} | {
            name: Wanted("internal", number, mtu_bytes) for name, number in numbers.items()
        }
        broken = [self.name] if changed else []
        if not changed and not tunnels.is_made(self.interfaces.get(TUNNEL_NAME)):
            broken = [TUNNEL_NAME]
        steps = [
            ["--", "--if-exists", "del-port", self.name, name]
            for name in self.interfaces
            if name not in wanted and PORT_NAME.fullmatch(name)
        ]
        for name, port in wanted.items():
            steps += filter(None, [port.step(self.name, name, self.interfaces.get(name))])
        for start in range(0, len(steps), PORTS_AT_ONCE):
            batch = steps[start : start + PORTS_AT_ONCE]
            openvswitch.vsctl(*(argument for step in batch for argument in step))
        if steps:
            self.bridges = openvswitch.bridges()
        if not tunnels.is_made(self.interfaces.get(TUNNEL_NAME)):
            raise self.not_made(TUNNEL_NAME)
        return [f"{name} was changed or deleted" for name in broken if self._flows]

    def not_made(self, name: str) -> HostError:
        found = self.interfaces.get(name)
        why = found.error if found is not None else ""
        return HostError(f"Open vSwitch could not make {name}: {why or 'see its log'}")

    def ensure_flows(self, wanted: str) -> list[str]:
        """A line each, and no others; returns what others had changed."""
        changed = openvswitch.ensure_flows(self.name, wanted)
        known, self._flows = self._flows, wanted
        return [f"{self.name} had other flows"] if changed and wanted == known else []

    def remove(self, route: Any) -> None:
        """With its ports and flows; one of others that has its name is left alone."""
        self._flows = ""
        try:
            found = self._find(route, ANSWER_S)
        except NotOurs:
            return
        if found is not None:
            # All ports at once, and there is no next time.
            openvswitch.vsctl("--if-exists", "del-br", self.name, answer_s=openvswitch.START_S)

    def _find(self, route: Any, answer_s: int) -> Bridge | None:
        """Raises `NotOurs` if somebody else has its name."""
        self.bridges = openvswitch.bridges(answer_s)
        found = self.bridges.get(self.name)
        if found is None:
            link = find_link(route, self.name)
            if link is not None and link.kind not in KINDS.values():
                raise not_ours(self.name)
        elif found.labels.get(LABEL) != self._bridge:
            raise NotOurs(
                f"Open vSwitch has a bridge {self.name} that is not ours: remove it"
                f" (`ovs-vsctl del-br {self.name}`)"
            )
        return found

    def _make(self, route: Any, answer_s: int) -> None:
        """What a datapath can do is tried, not looked up; and it must be in our namespace."""
        for datapath in (SYSTEM,) if self._kernel_only else (SYSTEM, NETDEV):
            settings = self._settings(datapath)
            openvswitch.vsctl(
                "--may-exist", "add-br", self.name, "--", *settings, answer_s=answer_s
            )
            if find_link(route, self.name) is not None:
                return
        openvswitch.vsctl("--if-exists", "del-br", self.name, answer_s=answer_s)
        missing = "kernel datapath" if self._kernel_only else "datapath"
        raise HostError(f"Open vSwitch has no {missing} here, or works in another namespace")

    def _settings(self, datapath: str) -> list[str]:
        """Without flows it passes nothing; with ours, what they say and nothing else."""
        return [
            *("set", "Bridge", self.name, f"datapath_type={datapath}", "fail_mode=secure"),
            *(f"protocols={openvswitch.OPENFLOW}", f"external_ids:{LABEL}={self._bridge}"),
        ]


def _name_beside(bridge: str) -> str:
    name = f"{bridge}-ovs"
    if len(name) <= MAX_INTERFACE_NAME_LENGTH:
        return name
    return f"ovs-{crc32(bridge.encode()):08x}"
