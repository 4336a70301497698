"""Cases of CHECK, GC and STATUS: asked of the versions that have them."""

from tests.cni.conformance.outcomes import added, addresses_of, checked, failed, succeeded
from tests.cni.conformance.target import Target


def check_passes_after_add(target: Target, version: str) -> None:
    with checked(target, version) as (box, result):
        succeeded(box.call("CHECK", version, config={"prevResult": result}))


def check_tolerates_what_others_added(target: Target, version: str) -> None:
    with checked(target, version) as (box, result):
        box.ip("addr", "add", "192.0.2.7/32", "dev", "eth0")
        box.ip("route", "add", "198.51.100.0/24", "dev", "eth0")
        box.ip("link", "add", "more0", "type", "veth", "peer", "name", "more1")
        succeeded(box.call("CHECK", version, config={"prevResult": result}))


def check_can_be_repeated(target: Target, version: str) -> None:
    with checked(target, version) as (box, result):
        for _ in range(3):
            done = succeeded(box.call("CHECK", version, config={"prevResult": result}))
            assert done.text == b""


def check_tolerates_what_a_chain_added_to_the_result(target: Target, version: str) -> None:
    with checked(target, version) as (box, result):
        more = {"name": "ifb0", "mac": "02:00:00:00:00:aa"}
        chained = result | {
            "interfaces": [*result["interfaces"], more],
            "dns": {"nameservers": ["192.0.2.53"]},
        }
        succeeded(box.call("CHECK", version, config={"prevResult": chained}))


def check_fails_with_an_address_that_was_not_given(target: Target, version: str) -> None:
    with checked(target, version) as (box, result):
        [ip, *others] = result["ips"]
        forged = result | {"ips": [ip | {"address": "192.0.2.99/24"}, *others]}
        failed(box.call("CHECK", version, config={"prevResult": forged}), version)


def check_fails_when_the_mac_is_another(target: Target, version: str) -> None:
    with checked(target, version) as (box, result):
        box.ip("link", "set", "eth0", "address", "02:00:00:00:00:bb")
        failed(box.call("CHECK", version, config={"prevResult": result}), version)


def check_fails_without_the_interface(target: Target, version: str) -> None:
    with checked(target, version) as (box, result):
        box.ip("link", "del", "eth0")
        failed(box.call("CHECK", version, config={"prevResult": result}), version)


def check_fails_without_the_address(target: Target, version: str) -> None:
    with checked(target, version) as (box, result):
        box.ip("addr", "flush", "dev", "eth0", "scope", "global")
        failed(box.call("CHECK", version, config={"prevResult": result}), version)


def check_fails_without_a_route(target: Target, version: str) -> None:
    with checked(target, version) as (box, result):
        assert result["routes"], "the plugin gave no route"
        box.ip("route", "del", result["routes"][0]["dst"])
        failed(box.call("CHECK", version, config={"prevResult": result}), version)


def check_fails_without_the_result_of_add(target: Target, version: str) -> None:
    with checked(target, version) as (box, _):
        failed(box.call("CHECK", version), version)


def check_fails_after_del(target: Target, version: str) -> None:
    with checked(target, version) as (box, result):
        succeeded(box.call("DEL", version))
        failed(box.call("CHECK", version, config={"prevResult": result}), version)


def gc_frees_what_is_not_named(target: Target, version: str) -> None:
    with target.sandbox() as keeps, target.sandbox() as goes:
        result = added(keeps, version)
        added(goes, version)
        valid = [{"containerID": keeps.name, "ifname": "eth0"}]
        succeeded(target.call("GC", version, config={"cni.dev/valid-attachments": valid}))
        assert goes.interfaces() == set()
        assert keeps.addresses() == addresses_of(result)
        succeeded(keeps.call("CHECK", version, config={"prevResult": result}))


def gc_of_nothing_succeeds_and_repeats(target: Target, version: str) -> None:
    for _ in range(2):
        succeeded(target.call("GC", version, config={"cni.dev/valid-attachments": []}))


def gc_that_names_the_container_but_another_interface_frees(target: Target, version: str) -> None:
    with target.sandbox() as box:
        added(box, version)
        valid = [{"containerID": box.name, "ifname": "eth1"}]
        succeeded(target.call("GC", version, config={"cni.dev/valid-attachments": valid}))
        assert box.interfaces() == set()


def gc_without_a_list_frees_nothing(target: Target, version: str) -> None:
    with target.sandbox() as box:
        added(box, version)
        failed(target.call("GC", version), version)
        assert box.interfaces() == {"eth0"}


def gc_leaves_other_networks_alone(target: Target, version: str) -> None:
    with target.sandbox() as box:
        added(box, version)
        other = {"name": "other-network", "cni.dev/valid-attachments": []}
        succeeded(target.call("GC", version, config=other))
        assert box.interfaces() == {"eth0"}


def gc_that_names_what_is_not_there_succeeds(target: Target, version: str) -> None:
    valid = [{"containerID": "nobody", "ifname": "eth0"}]
    succeeded(target.call("GC", version, config={"cni.dev/valid-attachments": valid}))


def status_succeeds_and_prints_nothing(target: Target, version: str) -> None:
    for _ in range(3):
        assert succeeded(target.call("STATUS", version)).text == b""
