"""A state directory that is a copy, old, damaged or gone, started into a mesh that runs.

Whatever a router then believes, no address may go to two, and the operator is told in plain words
what happened and what to do. The range is small, so that it is used up to its last addresses.
"""

import shutil
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeLab
from tests.e2e.outside import Inspector, container_namespaces
from tests.e2e.waiting import route, wait_for
from weavepy.client import schema
from weavepy.client.http import ApiError
from weavepy.lab.lab import Lab
from weavepy.lab.system import LabError

RANGE = ["--ipalloc-range", "10.32.0.0/26"]
HOSTS = ("h1", "h2", "h3")
ADDRESSES = 62
BACK_WITHIN_S = 40.0


def make(make_lab: MakeLab) -> Lab:
    return make_lab(hosts=3, containers=3, launch_options=RANGE)


def state_of(lab: Lab, host: str) -> Path:
    return lab.store.directories(host).state


def start_and_wait(lab: Lab, host: str) -> None:
    """Until another host reaches it again; with which identity is not asked."""
    lab.router(host, "start")
    for other in HOSTS:
        if other != host:
            wait_for(partial(reaches, lab, host, other), bool, BACK_WITHIN_S)


def reaches(lab: Lab, host: str, other: str) -> bool:
    return route(lab, host, other) != "none"


def use_up(lab: Lab, hosts: tuple[str, ...], word: str) -> list[str]:
    """Allocate on all hosts in turn until none gets any more; returns the addresses."""
    given: list[str] = []
    left = list(hosts)
    for number in range(2 * ADDRESSES):
        if not left:
            break
        host = left[number % len(left)]
        request = schema.AllocateRequest(owner=f"{word} {host} {number}", timeout_s=4.0)
        try:
            given.append(lab.api(host).allocate(request).address.split("/")[0])
        except ApiError as error:
            assert error.code != "internal", error
            print(f"{host}: no more: {error}")
            left.remove(host)
    return given


def assert_no_duplicates(lab: Lab, inspector: Inspector, given: list[str]) -> None:
    """Neither on two containers, nor among what was given out by hand and runs."""
    attached = inspector.look()
    assert inspector.duplicates == []
    running = [address for addresses in attached.values() for address in sorted(addresses)]
    assert len(running) == len(attached) <= len(container_namespaces(lab))
    counts = Counter([*given, *running])
    assert [address for address, count in counts.items() if count > 1] == []


def warnings(lab: Lab, host: str) -> list[str]:
    """What `weavepy status` shows first; the ring's are among them."""
    return lab.api(host).status().router.warnings


def log_of(lab: Lab, host: str) -> str:
    return "\n".join(lab.last_log_lines()[host])


# --- a copy --------------------------------------------------------------------------------------


def test_a_clone_of_a_running_host_gives_out_nothing_twice_and_both_are_told(
    make_lab: MakeLab,
) -> None:
    """The one that the others know goes on; the other one stands still, and says why."""
    lab = make(make_lab)
    for container in ("h3c1", "h3c2", "h3c3"):
        lab.detach(container)
    lab.router("h3", "stop")
    shutil.rmtree(state_of(lab, "h3"))
    shutil.copytree(state_of(lab, "h1"), state_of(lab, "h3"))

    with Inspector(lab) as inspector:
        lab.router("h3", "start")
        told = wait_for(
            lambda: {host: warnings(lab, host) for host in ("h1", "h3")},
            lambda seen: all(
                any("copied state directory" in text for text in texts) for texts in seen.values()
            ),
            BACK_WITHIN_S,
        )
        print(told)
        given = use_up(lab, HOSTS, "after")
        assert lab.addresses()["h3c1"] == []
        refused = schema.AttachRequest(namespace=lab.namespace("h3c1"), timeout_s=3.0)
        with pytest.raises(ApiError, match="copied state directory"):
            lab.api("h3").attach(refused)
        assert_no_duplicates(lab, inspector, given)
    assert given != []


# --- an old one ----------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_an_old_state_directory_is_brought_up_to_date_before_it_is_used(
    make_lab: MakeLab, end: str
) -> None:
    lab = make(make_lab)
    for container in ("h2c2", "h2c3"):
        lab.detach(container)
    lab.router("h2", "stop")
    old = lab.store.path / "old"
    shutil.copytree(state_of(lab, "h2"), old)
    start_and_wait(lab, "h2")
    ring_id = lab.api("h2").ipam().ring_id

    with Inspector(lab) as inspector:
        for container in ("h2c2", "h2c3"):
            lab.attach(container)
        given = use_up(lab, ("h1", "h3"), "meanwhile")
        lab.router("h2", end)
        shutil.rmtree(state_of(lab, "h2"))
        shutil.copytree(old, state_of(lab, "h2"))
        start_and_wait(lab, "h2")
        given += use_up(lab, HOSTS, "after")
        assert_no_duplicates(lab, inspector, given)

    after = lab.api("h2").ipam()
    assert after.ring_id == ring_id
    assert after.frozen == []
    told = [*warnings(lab, "h2"), log_of(lab, "h2")]
    assert any("restored from an older copy" in text for text in told), told


# --- a damaged one -------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 4096, 8192])
def test_a_damaged_database_is_kept_aside_and_the_ring_learnt_anew(
    make_lab: MakeLab, at: int
) -> None:
    lab = make(make_lab)
    ring_id = lab.api("h2").ipam().ring_id
    name = lab.api("h2").status().router.name
    before = lab.addresses()
    lab.router("h2", "stop")
    database = lab.store.directories("h2").database_file
    content = bytearray(database.read_bytes())
    assert len(content) > at
    content[at : at + 64] = bytes(byte ^ 0xFF for byte in content[at : at + 64])
    database.write_bytes(content)

    with Inspector(lab) as inspector:
        start_and_wait(lab, "h2")
        given = use_up(lab, HOSTS, "after")
        assert_no_duplicates(lab, inspector, given)

    told = [text for text in warnings(lab, "h2") if "damaged" in text]
    assert len(told) == 1
    assert "learnt anew" in told[0]
    assert database.with_name("weavepy.db.damaged-1").exists()
    assert lab.api("h2").ipam().ring_id == ring_id
    assert lab.api("h2").status().router.name == name
    assert lab.addresses() == before
    assert len(given) + 9 == ADDRESSES


@pytest.mark.parametrize("left", [0, 20])
def test_with_a_truncated_identity_the_router_refuses_and_says_what_to_do(
    make_lab: MakeLab, left: int
) -> None:
    lab = make(make_lab)
    lab.router("h2", "stop")
    identity = lab.store.directories("h2").identity_file
    identity.write_bytes(identity.read_bytes()[:left])

    with pytest.raises(LabError, match="does not come up"):
        lab.router("h2", "start")

    told = log_of(lab, "h2").splitlines()[-1]
    assert str(identity) in told
    assert "restore it from a backup, or delete it" in told

    # Who chooses the second way is told of the next thing in the way.
    identity.unlink()
    with pytest.raises(LabError, match="move the database aside"):
        lab.router("h2", "start")
    lab.store.directories("h2").database_file.rename(state_of(lab, "h2") / "before")
    with Inspector(lab) as inspector:
        start_and_wait(lab, "h2")
        given = use_up(lab, HOSTS, "after")
        assert_no_duplicates(lab, inspector, given)
    assert "Traceback" not in log_of(lab, "h2")


# --- none ----------------------------------------------------------------------------------------


def test_after_the_loss_of_everything_running_containers_keep_their_addresses(
    make_lab: MakeLab,
) -> None:
    lab = make(make_lab)
    old_name = lab.api("h2").status().router.name
    before = lab.addresses()
    ring_id = lab.api("h2").ipam().ring_id
    lab.router("h2", "stop")
    shutil.rmtree(state_of(lab, "h2"))

    with Inspector(lab) as inspector:
        start_and_wait(lab, "h2")
        given = use_up(lab, HOSTS, "after")
        assert_no_duplicates(lab, inspector, given)

    assert given != []
    status = lab.api("h2").status()
    assert status.router.name != old_name
    assert status.ipam.ring_id == ring_id
    told = warnings(lab, "h2")
    print(told)
    for address in before["h2c1"]:
        assert any(address.split("/")[0] in text for text in told), told
