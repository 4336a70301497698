"""Addresses survive a restart, are freed by detaching, and are not given to a second owner."""

from functools import partial

import pytest

from tests.e2e.conftest import MakeLab
from tests.e2e.waiting import connection, wait_for, wait_for_all_pings
from weavepy.client import schema
from weavepy.client.http import ApiError
from weavepy.lab.lab import Lab


def wait_until_back(lab: Lab, host: str) -> None:
    for other in (node.name for node in lab.plan.host_nodes if node.name != host):
        wait_for(
            partial(connection, lab, host, other),
            lambda seen: seen is not None and seen.state == "established",
            30,
        )


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_addresses_survive_a_restart_of_the_router(make_lab: MakeLab, end: str) -> None:
    lab = make_lab(hosts=2, containers=2)
    before = lab.addresses()
    ring = lab.api("h2").ipam()

    lab.router("h2", end)
    lab.router("h2", "start")
    wait_until_back(lab, "h2")

    assert lab.addresses() == before
    after = lab.api("h2").ipam()
    assert (after.ring_id, after.allocated) == (ring.ring_id, ring.allocated)
    fresh = lab.api("h2").allocate(schema.AllocateRequest(owner="someone new")).address
    assert fresh not in {address for addresses in before.values() for address in addresses}
    wait_for_all_pings(lab, 15)


def test_detach_frees_the_addresses(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=2, containers=2)
    addresses = lab.addresses()["h1c1"]
    before = lab.api("h1").ipam()

    assert lab.detach("h1c1") == addresses

    after = lab.api("h1").ipam()
    assert after.allocated == before.allocated - 1
    assert lab.addresses()["h1c1"] == []
    links = lab.exec("h1c1", ["ip", "-o", "link"]).stdout
    assert "ethwe" not in links
    found = lab.api("h1").lookup(schema.LookupRequest(address=addresses[0].split("/")[0]))
    assert found.owner == ""
    assert lab.attach("h1c1").addresses != []
    wait_for_all_pings(lab, 10)


def test_a_claim_of_a_taken_address_fails_with_its_owners_name(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=2, containers=1)
    addresses = lab.addresses()
    for taken, owner in (("h1c1", "h1c1"), ("h2c1", "h2")):
        address = addresses[taken][0]
        with pytest.raises(ApiError, match=owner) as caught:
            lab.api("h1").claim(schema.ClaimRequest(owner="intruder", address=address))
        assert caught.value.code == "conflict"
        done = lab.exec("h1", ["weavepy", "ipam", "claim", "intruder", address.split("/")[0]])
        assert done.returncode == 1
        assert owner in done.stderr
    assert lab.ping().ok
