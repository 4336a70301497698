"""Somebody deletes the bridge, or takes ports out of it: within ten seconds all is as it was."""

import time

import pytest

from tests.e2e.conftest import MakeLab
from tests.e2e.traffic import Stream
from tests.e2e.tunnels import AUTO, both_ways, wait_for_overlay
from tests.e2e.waiting import wait_for, wait_for_all_pings
from weavepy.client import schema
from weavepy.lab.lab import Lab

BACK_WITHIN_S = 10.0


@pytest.mark.parametrize("options", [["--fastdp", "off"], AUTO], ids=["sleeve", "fastdp"])
def test_a_deleted_bridge_is_mended_under_traffic(make_lab: MakeLab, options: list[str]) -> None:
    lab = make_lab(hosts=2, containers=2, launch_options=options)
    if options == AUTO:
        wait_for_overlay(lab, both_ways(("h1", "h2")), "fastdp")
    exposed = lab.api("h1").expose(schema.ExposeRequest(masquerade=True)).addresses
    before, mac = lab.addresses(), mac_of_bridge(lab)
    veth = lab.api("h1").attachments().attachments[0].host_interface
    address = exposed[0].split("/")[0]
    assert reaches(lab, "h2c1", address)

    with (
        Stream(lab, "h1c1", "h2c1") as out,
        Stream(lab, "h2c1", "h1c1") as back,
        Stream(lab, "h1c1", "h1c2") as here,
    ):
        for command in (
            ["ip", "link", "delete", "weave"],
            ["ip", "link", "set", "weavetap", "nomaster"],
            ["ip", "link", "set", veth, "nomaster"],
        ):
            assert lab.exec("h1", command).returncode == 0, command
            wait_for(lambda: off_the_bridge(lab), lambda names: not names, BACK_WITHIN_S)
            time.sleep(1.5)
    for stream in (out, back, here):
        print(f"stood still for {stream.longest_gap_s:.2f} s, {len(stream.duplicated)} twice")
        assert stream.lost, "the deletion must have bitten"
        assert stream.longest_gap_s < BACK_WITHIN_S
        assert stream.duplicated == []
    assert mac_of_bridge(lab) == mac
    assert lab.addresses() == before
    assert lab.api("h1").report().exposed == exposed
    assert reaches(lab, "h2c1", address)
    wait_for_all_pings(lab, 5)


def mac_of_bridge(lab: Lab) -> str:
    return lab.exec("h1", ["cat", "/sys/class/net/weave/address"]).stdout


def off_the_bridge(lab: Lab) -> list[str]:
    """Of the ports that host 1 should have; the TAP must be isolated as well."""
    shown = lab.exec("h1", ["ip", "-o", "-d", "link"]).stdout
    found = []
    for line in shown.splitlines():
        name = line.split(": ")[1].split("@")[0]
        isolated = " isolated on " in line or name.startswith("vethw")
        if name.startswith(("vethw", "weavetap", "wvx")) and not (
            " master weave " in line and isolated
        ):
            found.append(name)
    return found


def reaches(lab: Lab, container: str, address: str) -> bool:
    return lab.exec(container, ["ping", "-c", "1", "-W", "2", address]).returncode == 0
