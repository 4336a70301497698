"""An encrypted mesh whose kernels have ESP: they carry the frames, and nobody on the way reads."""

import re
import secrets
from pathlib import Path

from tests.e2e.conftest import MakeLab
from tests.e2e.traffic import Stream, WireTap
from tests.e2e.tunnels import both_ways, sleeve_frames, wait_for_overlay
from tests.e2e.waiting import wait_for
from weavepy.lab.lab import Lab

PAIR = both_ways(("h1", "h2"))
REKEY_S = 2
OPTIONS = ["--esp-rekey", str(REKEY_S)]
REPAIRED_WITHIN_S = 10.0
FAST_WITHIN_S = 60.0


def test_only_esp_is_on_the_wire_through_rekeys_restarts_and_stops(make_lab: MakeLab) -> None:
    marker = secrets.token_bytes(32)
    lab = make_lab(hosts=2, containers=1, launch_options=OPTIONS)
    with WireTap(lab, marker) as tap:
        wait_for_overlay(lab, PAIR, "fastdp", FAST_WITHIN_S)
        assert "fastdp (ESP)" in lab.exec("h1", ["weavepy", "status", "connections"]).stdout
        before = sleeve_frames(lab, "h1")
        with (
            Stream(lab, "h1c1", "h2c1", rate=200, marker=marker) as there,
            Stream(lab, "h2c1", "h1c1", rate=200, marker=marker) as back,
        ):
            for _ in range(2):
                wait_for_other_keys(lab, "h1")
            assert sleeve_frames(lab, "h1") - before < 20
            lab.router("h2", "kill")
            lab.router("h2", "start")
            wait_for_other_keys(lab, "h2")
        assert [there.lost, back.lost, there.duplicated, back.duplicated] == [[], [], [], []]

        with Stream(lab, "h1c1", "h2c1", rate=200, marker=marker):
            assert lab.exec("h1", ["weavepy", "stop"]).returncode == 0
            assert ipsec_and_guard(lab, "h1") == ("", "", False)
            lab.router("h1", "start")
            wait_for_overlay(lab, PAIR, "fastdp", FAST_WITHIN_S)
            assert_keys_are_nowhere_else(lab)
    assert tap.dropped == 0
    assert tap.kinds["vxlan"] == 0
    assert tap.found == {}
    assert tap.kinds["esp"] > 2000


def test_whoever_flushes_ipsec_makes_nothing_leave_in_clear(make_lab: MakeLab) -> None:
    """Between IPv6 addresses, where packets of full size just fit."""
    marker = secrets.token_bytes(32)
    lab = make_lab(hosts=2, containers=1, family="ipv6", launch_options=OPTIONS)
    wait_for_overlay(lab, PAIR, "fastdp", FAST_WITHIN_S)
    mtu_bytes = lab.api("h1").status().datapath.mtu_bytes
    assert mtu_bytes == 1500 - 70 - 38
    full = ["ping", "-c", "3", "-W", "2", "-M", "do", "-s", str(mtu_bytes - 28)]
    assert lab.exec("h1c1", [*full, lab.address("h2c1")]).returncode == 0

    with (
        WireTap(lab, marker) as tap,
        Stream(lab, "h1c1", "h2c1", rate=200, marker=marker) as there,
        Stream(lab, "h2c1", "h1c1", rate=200, marker=marker) as back,
    ):
        for flushed in ("policy", "state"):
            assert lab.exec("h1", ["ip", "xfrm", flushed, "flush"]).returncode == 0
            wait_for(lambda: is_whole(lab, "h1"), lambda whole: whole, REPAIRED_WITHIN_S)
        assert lab.exec("h1", ["nft", "flush", "ruleset"]).returncode == 0
        wait_for(lambda: is_whole(lab, "h1"), lambda whole: whole, REPAIRED_WITHIN_S)
        wait_for_overlay(lab, PAIR, "fastdp", FAST_WITHIN_S)
    assert tap.dropped == 0
    assert tap.kinds["vxlan"] == 0
    assert tap.found == {}
    assert there.duplicated == back.duplicated == []
    print(f"lost {len(there.lost)} and {len(back.lost)}")


def wait_for_other_keys(lab: Lab, host: str) -> None:
    """All that the host has now are exchanged for others."""
    before = spis(lab, host)
    wait_for(lambda: spis(lab, host), lambda now: len(now - before) >= 2, FAST_WITHIN_S)


def assert_keys_are_nowhere_else(lab: Lab) -> None:
    """But in the kernel: in no file of the routers, and on no command line."""
    shown = "".join(lab.exec(host, ["ip", "xfrm", "state"]).stdout for host in ("h1", "h2"))
    keys = set(re.findall(r"0x([0-9a-f]{72}) 128", shown))
    assert keys
    for path in [*lab.store.path.rglob("*"), *Path("/proc").glob("[0-9]*/cmdline")]:
        if path.is_file():
            held = path.read_bytes()
            assert not any(key.encode() in held or bytes.fromhex(key) in held for key in keys), path


def spis(lab: Lab, host: str) -> set[str]:
    return set(re.findall(r"spi (0x[0-9a-f]+)", lab.exec(host, ["ip", "xfrm", "state"]).stdout))


def ipsec_and_guard(lab: Lab, host: str) -> tuple[str, str, bool]:
    return (
        lab.exec(host, ["ip", "xfrm", "state"]).stdout,
        lab.exec(host, ["ip", "xfrm", "policy"]).stdout,
        "weavepy_fastdp" in lab.exec(host, ["nft", "list", "tables"]).stdout,
    )


def is_whole(lab: Lab, host: str) -> bool:
    """Both directions are demanded to be in ESP, with keys, behind the guard."""
    states, policies, guarded = ipsec_and_guard(lab, host)
    return states.count("proto esp") >= 2 and policies.count("proto esp") == 2 and guarded
