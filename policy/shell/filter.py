"""The packet filter of one bridge: applies changes, adopts what a predecessor left, repairs.

All methods block; call them from one thread at a time. They act on the network namespace of that
thread. What is in force when this process ends stays in force, and the next one compares with it.

Bridged frames come to the filter only if br_netfilter brings them there. It is switched on for our
bridge alone (an attribute of the bridge, not the host's sysctl), and looked after like the rules.
"""

import logging
from random import Random

from policy.core.table import Changes, Table, difference
from policy.shell import script
from policy.shell.reading import Foreign, drops, understood
from weavepy.kernel.netlink import explained, find_link, netlink
from weavepy.kernel.nftables import NftFailed, list_table, run_transaction

log = logging.getLogger(__name__)


class PolicyFilter:
    def __init__(self, bridge: str, rng: Random) -> None:
        self._bridge = bridge
        self._table = f"inet {script.table_name(bridge)}"
        self._known_setting: script.Setting | None = None
        self._generation = rng.randrange(script.GENERATIONS)

    def apply(self, changes: Changes, wanted: Table) -> None:
        """Bring `changes` into force, which make of what was applied before `wanted`. Atomic.

        If they do not fit what is in the kernel, all of it is compared and put right.
        """
        if not changes:
            return
        generation = self._next(changes)
        try:
            run_transaction(script.change(self._setting, changes, generation))
        except NftFailed as error:
            log.warning("the policies' table is not what it was: %s", error)
            self.restore(wanted)
            return
        self._generation = generation

    def add(self, changes: Changes) -> None:
        """On top of whatever is in the kernel, which is not looked at. Raises `NftFailed`."""
        if changes:
            self._show_bridged_frames(True)
            run_transaction(script.change(self._setting, changes, self._next(changes)))

    def restore(self, wanted: Table) -> bool:
        """Compare with the kernel and change what differs; returns whether anything did.

        The first call of a new process adopts the table: where nothing differs, nothing happens.
        """
        self._show_bridged_frames(True)
        objects = list_table("inet", script.table_name(self._bridge))
        try:
            if objects is None:
                raise Foreign("the table is gone")
            present, self._generation = understood(objects, self._setting, wanted)
            changes = difference(present, wanted)
            if not changes:
                return False
            generation = self._next(changes)
            run_transaction(script.change(self._setting, changes, generation))
        except (Foreign, NftFailed) as error:
            log.info("making the policies' table anew: %s", error)
            generation = (self._generation + 1) % script.GENERATIONS
            run_transaction(script.whole(self._setting, wanted, generation))
        self._generation = generation
        return True

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

    def drops(self) -> dict[tuple[str, str], int]:
        """Packets dropped, by direction and address of the isolated pod, since it is isolated."""
        return drops(list_table("inet", script.table_name(self._bridge)) or [])

    def remove(self) -> None:
        """All of it; bridged frames are shown to packet filters no more."""
        self._show_bridged_frames(False)
        run_transaction(f"add table {self._table}\ndelete table {self._table}\n")

    def _next(self, changes: Changes) -> int:
        """What was allowed stays so, unless something is forbidden now."""
        return (self._generation + changes.forbids) % script.GENERATIONS

    def _show_bridged_frames(self, shown: bool) -> None:
        with explained(f"showing frames of {self._bridge} to packet filters"), netlink() as route:
            link = find_link(route, self._bridge)
            if link is not None:
                call = {"br_nf_call_iptables": int(shown), "br_nf_call_ip6tables": int(shown)}
                route.link("set", index=link.index, kind="bridge", **call)


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
