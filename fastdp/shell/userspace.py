"""Where Open vSwitch's userspace datapath can send: by its own bridges, and nowhere else.

A kernel datapath leaves the outer packets to the kernel's routing. The userspace one makes them
itself, and puts them into the bridge of its own by which the kernel would send them. So the
underlay's interface has to be a port of a bridge of that datapath, and its addresses on that
bridge's own interface; whoever runs the host has to set it up so.
"""

from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from fastdp.shell.device import numeric
from fastdp.shell.switch import NETDEV, Switch
from weavepy.kernel.netlink import HostError, addresses, links


class NoWayOut(HostError):
    """The underlay is on no bridge of the userspace datapath."""


class WaysOut:
    """Of this moment: the interfaces that are such bridges', among all of the host."""

    def __init__(self, route: Any, switch: Switch) -> None:
        self._route = route
        self._links = {link.index: link.name for link in links(route)}
        self._bridges = {
            interface.name
            for bridge in switch.bridges.values()
            if bridge.datapath == NETDEV and bridge.name != switch.name
            for interface in bridge.interfaces.values()
            if interface.kind == "internal"
        }

    def require_any(self) -> None:
        """Raises `NoWayOut` if the datapath could send to nobody."""
        for index, name in self._links.items():
            if name in self._bridges and addresses(self._route, index):
                return
        raise NoWayOut(
            "Open vSwitch has only its userspace datapath here, which needs the underlay on a"
            " bridge of its own: `ovs-vsctl add-br br-phy -- set bridge br-phy datapath_type=netdev"
            " -- add-port br-phy eth0`, then move eth0's addresses to br-phy; or use --fastdp vxlan"
        )

    def require(self, host: str) -> None:
        """Raises `NoWayOut` if it could not send to this address."""
        try:
            found = self._route.route("get", dst=str(numeric(host)))[0].get_attr("RTA_OIF")
        except NetlinkError:
            found = None
        name = self._links.get(found, "")
        if not name:
            raise NoWayOut(f"there is no route to {host}")
        if name not in self._bridges:
            raise NoWayOut(
                f"{host} is reached by {name}, which is no bridge of Open vSwitch's userspace"
                f" datapath: make {name} a port of one, with {name}'s addresses on it"
            )
