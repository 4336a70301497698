"""The packet filter of one bridge: applies changes, adopts what a predecessor left, repairs.

All methods block; call them from one thread at a time. They act on the network namespace of that
thread. What is in force when this process ends stays in force, and the next one compares with it.

Bridged frames come to the filter only if br_netfilter brings them there. It is switched on for our
bridge alone (an attribute of the bridge, not the host's sysctl), and looked after like the rules.

Where the kernel can (`weavepy.kernel.ownership`), nobody else changes the table while this process
lives. Elsewhere, and while none lives, what others do to it is undone.
"""

import logging
import os
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from random import Random
from typing import Any

from policy.core.objects import Address
from policy.core.table import Changes, Table, difference
from policy.shell import script
from policy.shell.groups import Groups, Ports
from policy.shell.reading import Counts, Foreign, counts, understood
from weavepy.kernel.netlink import (
    HostError,
    IpInterface,
    explained,
    find_link,
    get_sysctl,
    netlink,
)
from weavepy.kernel.nftables import NftFailed, list_table, run_transaction
from weavepy.kernel.nftevents import TableWatch
from weavepy.kernel.ownership import Session

log = logging.getLogger(__name__)

FAMILIES = ("bridge", "inet")
BR_NETFILTER = "bridge/bridge-nf-call-iptables"
"""The sysctl that is there if the module is, whatever its value."""

CALLS = ("br_nf_call_iptables", "br_nf_call_ip6tables")
"""Attributes of a bridge."""


class PolicyFilter:
    def __init__(
        self,
        bridge: str,
        rng: Random,
        session: Session | None = None,
        ports: Ports = dict,
    ) -> None:
        self._bridge = bridge
        self._name = script.table_name(bridge)
        self._groups = Groups(bridge, ports)
        self._session = session or Session()
        self._owned: dict[str, bool] = {}
        self._in_force = False
        self._only_adds = False
        """What is known is not all: nothing that is there may go."""
        self._known_setting: script.Setting | None = None
        self._generation = rng.randrange(script.GENERATIONS)

    @property
    def owned(self) -> bool:
        """Whether nobody but us can change the tables."""
        return bool(self._owned) and all(self._owned.values())

    def apply(self, changes: Changes, wanted: Table) -> None:
        """Bring `changes` into force, which make of what was applied before `wanted`. Atomic.

        If they do not fit what is in the kernel, all of it is compared and put right.
        """
        if not changes:
            return
        generation = self._next(changes)
        self._groups.follow(wanted)
        lines = self._groups.changes()
        try:
            self._session.run(script.change(self._setting, changes, generation, lines))
        except NftFailed as error:
            log.warning("the policies' table is not what it was: %s", error)
            self.restore(wanted)
            return
        self._generation = generation

    def add(self, changes: Changes) -> None:
        """On top of whatever is in the kernel, which stays. Raises `NftFailed`."""
        if not changes:
            return
        self._only_adds = True
        self._show_bridged_frames(True)
        self._own()
        bridge, inet = (list_table(family, self._name) for family in FAMILIES)
        first = [] if inet else [f"add table inet {self._name}"] * (not self._owned["inet"])
        if not self._groups.read(bridge or [], inet or []):
            first += self._groups.whole(bridge or () if self._owned["bridge"] else None)
        self._groups.isolate(changes)
        lines = self._groups.additions()
        generation = self._next(changes)
        rest = script.change(self._setting, changes, generation, lines)
        self._session.run("\n".join([*first, rest]))
        self._in_force = True
        self._generation = generation

    def place(self, port: str, addresses: Iterable[IpInterface]) -> None:
        """A port of the bridge has these addresses from now on, or is gone."""
        self._groups.place(port, addresses)
        if not self._in_force:
            return
        lines = self._groups.additions() if self._only_adds else self._groups.changes()
        if lines:
            self._session.run("\n".join(lines) + "\n")

    def addresses(self, mark: int) -> list[Address]:
        """Of the port to which a packet went that has this mark."""
        return self._groups.addresses(mark)

    def restore(self, wanted: Table) -> bool:
        """Compare with the kernel and change what differs; returns whether anything did.

        The first call of a new process adopts the tables: where nothing differs, nothing happens.
        """
        self._only_adds = False
        hidden = self._show_bridged_frames(True)
        self._own()
        self._groups.follow(wanted)
        bridge: list[dict[str, Any]] = []
        inet: list[dict[str, Any]] = []
        try:
            bridge, inet = (list_table(family, self._name) or [] for family in FAMILIES)
            found, self._generation = understood(inet, self._setting, wanted)
            if not self._groups.read(bridge, inet):
                raise Foreign("the bridge's table")
            self._in_force = True
            changes, lines = difference(found, wanted), self._groups.changes()
            if not changes and not lines:
                return hidden
            generation = self._next(changes)
            self._session.run(script.change(self._setting, changes, generation, lines))
        except (Foreign, NftFailed) as error:
            log.info("making the policies' tables anew: %s", error)
            self._groups.read([], [])
            generation = (self._generation + 1) % script.GENERATIONS
            first = self._groups.whole(bridge if self._owned["bridge"] else None)
            present = inet if self._owned["inet"] else None
            lines = self._groups.changes()
            rest = script.whole(self._setting, wanted, generation, present, lines)
            self._session.run("\n".join([*first, rest]))
        self._in_force = True
        self._generation = generation
        return True

    def watch(self) -> TableWatch:
        """Tells when others change the table, in the thread's network namespace."""
        return TableWatch(self._name, lambda: (self._session.port, os.getpid()))

    def close(self) -> None:
        """What is in force stays."""
        self._session.close()

    def _own(self) -> None:
        if not self.owned:
            self._owned = {it: self._session.own(it, self._name) for it in FAMILIES}

    @property
    def _setting(self) -> script.Setting:
        """What this kernel can do is found out by the first who asks, on the thread."""
        if self._known_setting is None:
            group: int | None = script.log_group(self._bridge)
            assert group is not None
            if not can_log(group):
                log.warning("this kernel cannot say what network policies drop: no nfnetlink_log")
                group = None
            self._known_setting = script.Setting(self._bridge, group)
        return self._known_setting

    def counts(self) -> Counts:
        """Drops are since the pod is isolated, what passed since its chain was made."""
        return counts(list_table("inet", self._name) or [])

    def remove(self) -> None:
        """All of it; bridged frames are shown to packet filters no more."""
        self._show_bridged_frames(False)
        lines = []
        for family in FAMILIES:
            name = f"{family} {self._name}"
            lines += [] if self._session.own(family, self._name) else [f"add table {name}"]
            lines.append(f"delete table {name}")
        self._session.run("\n".join(lines) + "\n")
        self._owned, self._in_force = {}, False

    def _next(self, changes: Changes) -> int:
        """What was allowed stays so, unless something is forbidden now."""
        return (self._generation + changes.forbids) % script.GENERATIONS

    def _show_bridged_frames(self, shown: bool) -> bool:
        """Returns whether it was otherwise. Raises `HostError` if the kernel cannot."""
        if shown:
            require_br_netfilter()
        with explained(f"showing frames of {self._bridge} to packet filters"), netlink() as route:
            link = find_link(route, self._bridge)
            if link is None:
                return False
            data = route.link("get", index=link.index)[0].get_nested(
                "IFLA_LINKINFO", "IFLA_INFO_DATA"
            )
            if all(data.get_attr(f"IFLA_{name.upper()}") == int(shown) for name in CALLS):
                return False
            route.link("set", index=link.index, kind="bridge", **dict.fromkeys(CALLS, int(shown)))
            return True


def require_br_netfilter() -> None:
    """Without the module a bridge takes the settings, and nothing comes of them."""
    if get_sysctl(BR_NETFILTER) is None:
        with suppress(FileNotFoundError):
            subprocess.run(["modprobe", "br_netfilter"], capture_output=True, check=False)
    if get_sysctl(BR_NETFILTER) is None:
        raise HostError(
            "network policies cannot be enforced, as br_netfilter is not loaded: run"
            " `modprobe br_netfilter`, and name it in /etc/modules-load.d"
        )


def can_log(group: int) -> bool:
    """Whether the kernel takes a rule that logs; nothing is left of the attempt."""
    name = "inet weavepy_policy_log"
    attempt = [
        f"add table {name}",
        f"add chain {name} probe",
        f"add rule {name} probe log group {group} snaplen {script.LOG_BYTES}",
        f"delete table {name}",
    ]
    try:
        run_transaction("\n".join(attempt) + "\n")
    except NftFailed:
        return False
    return True
