"""Everything that a router does to its host's network, as one object.

A `Host` remembers nothing but names: whatever it is asked, it looks at the kernel, compares,
and changes what differs. So a new one, in a restarted router, goes on where the last left off.

All methods block and raise `WeavepyError` children. Call them from one thread at a time
that runs no event loop (see `netlink.py`). They act on the network namespace of that thread.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from router.shell import attach as attaching
from router.shell import bridge as bridging
from router.shell import expose as exposing
from router.shell import mend as mending
from router.shell import namespaces
from router.shell import pod as pods
from router.shell.attach import AttachmentFacts
from router.shell.filters import MESH_PORTS, Filters, Listener
from router.shell.mend import Seen
from router.shell.pod import PodFacts, PodWish, Route
from weavepy.kernel.netlink import HostError, IpInterface

__all__ = ["AttachmentFacts", "Host", "PodFacts", "PodWish", "Route", "Seen"]

DEFAULT_INTERFACE = "ethwe"


class Host:
    def __init__(
        self,
        bridge: str = "weave",
        *,
        filters: bool = True,
        mesh_ports: Sequence[int] = MESH_PORTS,
        is_node: bool = False,
    ) -> None:
        """Without `filters`, containers can pose as each other, and nft is needed by no method
        but `expose` with masquerading. `is_node`: of Kubernetes."""
        bridging.check_interface_name(bridge)
        self.bridge = bridge
        self._filters = Filters(bridge, mesh_ports) if filters else None
        self._is_node = is_node

    # --- bridge ----------------------------------------------------------------------------------

    def ensure_bridge(self, mtu_bytes: int) -> None:
        bridging.ensure_bridge(self.bridge, mtu_bytes)

    def set_mtu(self, mtu_bytes: int, before: int = 0) -> None:
        """Of the bridge and of both ends of each veth that is larger, or was as large as the bridge
        `before`. The tap is the datapath's own."""
        bridging.ensure_bridge(self.bridge, mtu_bytes)
        for facts in self.attachments():
            attaching.set_mtu(facts, mtu_bytes, before)

    def enslave(self, tap: str) -> None:
        bridging.enslave(self.bridge, tap, isolated=True)

    def look(self) -> Seen | None:
        """What `mend` has to know of the bridge, should it be deleted; None if there is none."""
        return mending.look(self.bridge)

    def mend(self, before: Seen, tap: str, mtu_bytes: int) -> list[str]:
        """Undo what others did to the bridge since `before`, and say what that was.

        Containers without a filter stay off the bridge; `attach` mends these.
        """
        return mending.mend(self.bridge, self._filters, before, tap, mtu_bytes, self._is_node)

    def remove_bridge(self) -> bool:
        """With all attachments and filters, exposed addresses included; False if none was."""
        for facts in self.attachments():
            attaching.detach(None, facts, facts.addresses)
        removed = bridging.remove_bridge(self.bridge)
        if self._filters is not None:
            self._filters.remove()
        return removed

    # --- containers ------------------------------------------------------------------------------

    def attach(
        self,
        namespace: Path,
        owner: str,
        addresses: Sequence[IpInterface],
        mtu_bytes: int,
        *,
        interface: str = DEFAULT_INTERFACE,
        mac: str | None = None,
        host_interface: str = "",
    ) -> AttachmentFacts:
        """Whole or not at all. Repeated, it adds what is missing and restores the filter.

        `mac` counts for a new attachment only; by default it is drawn at random, and it stays
        for as long as the interface lives.
        """
        return attaching.attach(
            self.bridge,
            self._filters,
            namespace,
            owner,
            interface,
            mac,
            addresses,
            mtu_bytes,
            host_interface,
        )

    def detach(
        self,
        *,
        namespace: Path | None = None,
        owner: str = "",
        addresses: Iterable[IpInterface] = (),
    ) -> tuple[IpInterface, ...]:
        """By namespace or by owner: take these addresses away, or all; returns those that went.

        With its last address an attachment goes. What is not attached is no error.
        """
        assert (namespace is None) == bool(owner), "exactly one of namespace and owner"
        wanted = set(addresses)
        released: list[IpInterface] = []
        for facts in self._matching(namespace, owner):
            unwanted = wanted or set(facts.addresses)
            released += attaching.detach(self._filters, facts, unwanted)
        return tuple(released)

    def attachments(self) -> list[AttachmentFacts]:
        return attaching.attachments(self.bridge, self._filters)

    def assigned(self) -> dict[str, frozenset[IpInterface]]:
        """The addresses of each port that has a filter."""
        ports = self._filters.ports() if self._filters is not None else {}
        return {name: port.addresses for name, port in ports.items()}

    def on_assigned(self, listener: Listener) -> None:
        if self._filters is not None:
            self._filters.listener = listener

    def dropped(self) -> dict[str, int]:
        """Frames of containers that filters dropped, by reason."""
        return self._filters.dropped() if self._filters is not None else {}

    # --- what CNI runtimes start -----------------------------------------------------------------

    def make_pod(self, wish: PodWish) -> PodFacts:
        """New, whole or not at all."""
        return pods.make(self.bridge, self._filters, wish)

    def remove_pod(self, owner: str) -> bool:
        """Idempotent; False if it had no interface."""
        return pods.remove(self.bridge, self._filters, owner)

    def check_pod(
        self,
        owner: str,
        namespace: Path,
        mac: str,
        addresses: Sequence[IpInterface],
        routes: Sequence[Route],
    ) -> list[str]:
        """What is not as `make_pod` left it."""
        return pods.findings(self.bridge, self._filters, owner, namespace, mac, addresses, routes)

    def sweep_pods(self) -> list[str]:
        """Clear away what killed routers have left half made."""
        return pods.sweep(self.bridge, self._filters)

    # --- the host itself -------------------------------------------------------------------------

    def expose(self, addresses: Sequence[IpInterface], masquerade: bool) -> None:
        if self._filters is not None:
            self._filters.install()  # closes the mesh's ports to the overlay
        subnets = [address.network for address in addresses] if masquerade else []
        exposing.expose(self.bridge, addresses, subnets, self._is_node)

    def hide(self, addresses: Iterable[IpInterface] = ()) -> tuple[IpInterface, ...]:
        """These, or all; returns those that went."""
        return exposing.hide(self.bridge, list(addresses) or self.exposed(), self._is_node)

    def exposed(self) -> tuple[IpInterface, ...]:
        return exposing.exposed(self.bridge)

    # ---------------------------------------------------------------------------------------------

    def _matching(self, namespace: Path | None, owner: str) -> list[AttachmentFacts]:
        found = self.attachments()
        if namespace is None:
            return [facts for facts in found if facts.owner == owner]
        names = set()
        try:
            with namespaces.opened(namespace) as descriptor:
                for facts in found:
                    name = attaching.host_interface_name(self.bridge, descriptor, facts.interface)
                    names.add(name)
        except HostError:
            # The namespace is gone, so the path as it was recorded has to do.
            return [facts for facts in found if facts.namespace == namespace]
        return [facts for facts in found if facts.host_interface in names]
