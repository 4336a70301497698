"""An Open vSwitch for each host of a lab. They end with the lab, as all processes in it."""

from collections.abc import Sequence

from tests.openvswitch import OpenVSwitch
from weavepy.lab.plan import Plan
from weavepy.lab.state import Store


class Switches:
    """Of these hosts, or of all."""

    def __init__(self, hosts: Sequence[str] = (), *, underlay: bool = True) -> None:
        """`underlay`: on their userspace datapath, which cannot do without."""
        self._hosts = hosts
        self._underlay = underlay
        self._switches: dict[str, OpenVSwitch] = {}

    def __getitem__(self, host: str) -> OpenVSwitch:
        return self._switches[host]

    def set_up(self, plan: Plan) -> None:
        """For `Wanted.before_routers`."""
        for node in plan.host_nodes:
            if self._hosts and node.name not in self._hosts:
                continue
            directory = Store(plan.name).path / node.name / "ovs"
            switch = self._switches[node.name] = OpenVSwitch(plan.namespace(node), directory)
            switch.start()
            for link in plan.links_of(node.host) if self._underlay else ():
                switch.take_underlay(link.end_at(node.host).interface)
