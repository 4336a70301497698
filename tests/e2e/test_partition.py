"""Two halves of a mesh go on allocating what they own; healed, they are one ring again."""

from functools import partial

from tests.e2e.conftest import MakeLab
from tests.e2e.waiting import route, wait_for, wait_for_all_pings
from weavepy.client import schema
from weavepy.lab.lab import Lab, LinkChange

PER_HOST = 20
ACROSS = [("h1", "h3"), ("h1", "h4"), ("h2", "h3"), ("h2", "h4")]
HOSTS = ("h1", "h2", "h3", "h4")


def allocate(lab: Lab, when: str) -> dict[str, str]:
    """Addresses by owner, as many on each host."""
    return {
        f"{host}-{when}-{number}": lab.api(host)
        .allocate(schema.AllocateRequest(owner=f"{host}-{when}-{number}"))
        .address
        for host in HOSTS
        for number in range(PER_HOST)
    }


def set_cut(lab: Lab, down: bool) -> None:
    for one, other in ACROSS:
        lab.link(one, other, LinkChange(down=down))


def test_both_halves_allocate_and_become_one_ring_without_duplicates(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=4, containers=1)
    given = allocate(lab, "before")
    ring = lab.api("h1").ipam().ring_id
    assert ring != ""

    set_cut(lab, down=True)
    for one, other in ACROSS:
        wait_for(partial(route, lab, one, other), lambda seen: seen == "none", 20)
    given |= allocate(lab, "apart")

    set_cut(lab, down=False)
    for one, other in ACROSS:
        wait_for(partial(route, lab, one, other), lambda seen: seen == "direct", 90)
    given |= allocate(lab, "after")

    assert len(given) == 3 * 4 * PER_HOST
    containers = [address for addresses in lab.addresses().values() for address in addresses]
    everything = [*given.values(), *containers]
    assert len(set(everything)) == len(everything), "an address was given twice"

    statuses = wait_for(
        lambda: {host: lab.api(host).ipam() for host in HOSTS},
        lambda seen: len({_owned(status) for status in seen.values()}) == 1,
        20,
    )
    for status in statuses.values():
        assert status.ring_id == ring
        assert status.state == "ready"
        assert status.frozen == []
        assert status.warnings == []
        assert sum(owner.addresses for owner in status.owners) == 2**20
    wait_for_all_pings(lab, 10)


def _owned(status: schema.IpamStatus) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((owner.peer, owner.addresses) for owner in status.owners))
