"""Cases of a second network with room for one container, and of what is asked for by a container.

A plugin's users give its configuration, as only they know what makes it another network.
"""

import time
from ipaddress import ip_interface
from typing import Any

from tests.cni.conformance.outcomes import added, addresses_of, failed, succeeded
from tests.cni.conformance.target import Outcome, Sandbox, Target

EXHAUSTED_WITHIN_S = 20.0
"""STATUS must not flap, so it may wait a while before it says so."""


def two_networks_of_one_container_have_their_own_addresses(target: Target, version: str) -> None:
    with target.sandbox() as box:
        first, second = added(box, version), added_to_second(box, version)
        assert box.interfaces() == {"eth0", "eth1"}
        assert box.addresses() == addresses_of(first) | addresses_of(second)
        assert len(box.addresses()) == 2


def del_of_one_network_leaves_the_other(target: Target, version: str) -> None:
    with target.sandbox() as box:
        first = added(box, version)
        added_to_second(box, version)
        succeeded(in_second(box, "DEL", version))
        assert box.interfaces() == {"eth0"}
        assert box.addresses() == addresses_of(first)


def a_network_without_a_free_address_fails_and_leaves_nothing(target: Target, version: str) -> None:
    with target.sandbox() as has, target.sandbox() as gets_none:
        added_to_second(has, version)
        failed(in_second(gets_none, "ADD", version), version)
        assert gets_none.interfaces() == set()
        assert has.interfaces() == {"eth1"}


def del_frees_the_address(target: Target, version: str) -> None:
    with target.sandbox() as before, target.sandbox() as after:
        added_to_second(before, version)
        succeeded(in_second(before, "DEL", version))
        added_to_second(after, version)


def gc_frees_the_address(target: Target, version: str) -> None:
    with target.sandbox() as before, target.sandbox() as after:
        added_to_second(before, version)
        none = target.second | {"cni.dev/valid-attachments": []}
        succeeded(target.call("GC", version, config=none))
        added_to_second(after, version)


def gc_of_one_network_leaves_the_other(target: Target, version: str) -> None:
    with target.sandbox() as box:
        added(box, version)
        added_to_second(box, version)
        none = target.second | {"cni.dev/valid-attachments": []}
        succeeded(target.call("GC", version, config=none))
        assert box.interfaces() == {"eth0"}


def status_fails_while_no_address_is_left(target: Target, version: str) -> None:
    with target.sandbox() as box:
        added_to_second(box, version)
        deadline = time.monotonic() + EXHAUSTED_WITHIN_S
        while (done := target.call("STATUS", version, config=target.second)).code == 0:
            assert time.monotonic() < deadline, "no address is left, and STATUS succeeds"
            time.sleep(0.2)
        failed(done, version, 50)
        succeeded(target.call("STATUS", version))
        succeeded(in_second(box, "DEL", version))
        succeeded(target.call("STATUS", version, config=target.second))


# --- what a container asks for -------------------------------------------------------------------


def an_address_can_be_asked_for_by_a_capability(target: Target) -> None:
    with target.sandbox() as box:
        wanted = free_address(box)
        asked = {"runtimeConfig": {"ips": [wanted]}}
        assert addresses_of(added(box, "1.0.0", config=asked)) == {wanted}


def an_address_can_be_asked_for_by_args(target: Target) -> None:
    with target.sandbox() as box:
        wanted = free_address(box)
        asked = {"args": {"cni": {"ips": [wanted.split("/")[0]]}}}
        assert addresses_of(added(box, "1.0.0", config=asked)) == {wanted}


def an_address_can_be_asked_for_by_the_environment(target: Target) -> None:
    with target.sandbox() as box:
        wanted = free_address(box)
        asked = f"IgnoreUnknown=1;IP={wanted.split('/')[0]}"
        assert addresses_of(added(box, "1.0.0", args=asked)) == {wanted}


def an_address_that_another_has_is_refused(target: Target) -> None:
    with target.sandbox() as has, target.sandbox() as asks:
        [taken] = addresses_of(added(has, "1.0.0"))
        asked = {"runtimeConfig": {"ips": [taken]}}
        failed(asks.call("ADD", "1.0.0", config=asked), "1.0.0")
        assert asks.interfaces() == set()
        assert has.addresses() == {taken}


def an_address_outside_of_the_subnet_is_refused(target: Target) -> None:
    with target.sandbox() as box:
        failed(box.call("ADD", "1.0.0", args="IP=203.0.113.9;IgnoreUnknown=1"), "1.0.0")
        assert box.interfaces() == set()


def a_mac_can_be_asked_for(target: Target) -> None:
    with target.sandbox() as box:
        added(box, "1.0.0", config={"runtimeConfig": {"mac": "02:00:00:00:00:11"}})
        assert "02:00:00:00:00:11" in box.ip("link", "show", "eth0")


# --- helpers -------------------------------------------------------------------------------------


def in_second(box: Sandbox, verb: str, version: str) -> Outcome:
    return box.call(verb, version, config=box.target.second, ifname="eth1")


def added_to_second(box: Sandbox, version: str) -> dict[str, Any]:
    return added(box, version, config=box.target.second, ifname="eth1")


def free_address(box: Sandbox) -> str:
    """Some way after one that the plugin gave of itself, with its length."""
    [given] = addresses_of(added(box, "1.0.0"))
    succeeded(box.call("DEL", "1.0.0"))
    interface = ip_interface(given)
    return f"{interface.ip + 57}/{interface.network.prefixlen}"
