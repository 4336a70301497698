"""Cases of ADD, DEL and VERSION: asked of every version."""

from concurrent.futures import ThreadPoolExecutor

from tests.cni.conformance.outcomes import added, addresses_of, failed, succeeded
from tests.cni.conformance.shapes import wrong_in_result, wrong_in_versions
from tests.cni.conformance.target import Target


def add_prints_a_result_of_the_schema(target: Target, version: str) -> None:
    with target.sandbox() as box:
        result = added(box, version)
        assert wrong_in_result(version, result) == []
        assert result["ips"], "no address"


def add_makes_what_its_result_says(target: Target, version: str) -> None:
    with target.sandbox() as box:
        result = added(box, version)
        assert box.interfaces() == {"eth0"}
        assert box.addresses() == {ip["address"] for ip in result["ips"]}
        ours = [each for each in result["interfaces"] if each.get("sandbox") == box.path]
        assert [each["name"] for each in ours] == ["eth0"]
        assert ours[0]["mac"] in box.ip("link", "show", "eth0")


def add_names_the_interface_of_each_address(target: Target, version: str) -> None:
    with target.sandbox() as box:
        result = added(box, version)
        for ip in result["ips"]:
            interface = result["interfaces"][ip["interface"]]
            assert (interface["name"], interface["sandbox"]) == ("eth0", box.path)


def add_again_fails_and_changes_nothing(target: Target, version: str) -> None:
    with target.sandbox() as box:
        added(box, version)
        before = box.addresses()
        failed(box.call("ADD", version), version)
        assert box.addresses() == before


def an_interface_that_is_there_is_left_alone(target: Target, version: str) -> None:
    with target.sandbox() as box:
        box.ip("link", "add", "eth0", "type", "veth", "peer", "name", "other0")
        before = box.ip("link", "show", "eth0")
        failed(box.call("ADD", version), version)
        assert box.ip("link", "show", "eth0") == before


def two_interfaces_of_one_container_differ(target: Target, version: str) -> None:
    with target.sandbox() as box:
        first, second = added(box, version), added(box, version, ifname="eth1")
        assert box.interfaces() == {"eth0", "eth1"}
        assert addresses_of(first).isdisjoint(addresses_of(second))
        succeeded(box.call("DEL", version, ifname="eth1"))
        assert box.interfaces() == {"eth0"}
        assert box.addresses() == addresses_of(first)


def two_containers_have_different_addresses(target: Target, version: str) -> None:
    with target.sandbox() as first, target.sandbox() as second:
        one, other = added(first, version), added(second, version)
        assert addresses_of(one).isdisjoint(addresses_of(other))


def del_removes_the_interface(target: Target, version: str) -> None:
    with target.sandbox() as box:
        result = added(box, version)
        done = succeeded(box.call("DEL", version, config={"prevResult": result}))
        assert done.text == b""
        assert box.interfaces() == set()


def del_works_without_the_result_of_add(target: Target, version: str) -> None:
    with target.sandbox() as box:
        added(box, version)
        succeeded(box.call("DEL", version))
        assert box.interfaces() == set()


def del_can_be_repeated_as_containerd_does(target: Target, version: str) -> None:
    with target.sandbox() as box:
        result = added(box, version)
        succeeded(box.call("DEL", version, config={"prevResult": result}))
        for _ in range(4):
            succeeded(box.call("DEL", version, netns=""))


def del_of_what_was_never_added_succeeds(target: Target, version: str) -> None:
    with target.sandbox() as box:
        succeeded(box.call("DEL", version))


def del_leaves_an_interface_that_is_not_its_own(target: Target, version: str) -> None:
    with target.sandbox() as box:
        box.ip("link", "add", "eth0", "type", "veth", "peer", "name", "other0")
        box.call("DEL", version)
        assert "eth0" in box.interfaces()


def del_works_when_the_namespace_is_gone(target: Target, version: str) -> None:
    with target.sandbox() as box:
        added(box, version)
        box.remove()
        succeeded(box.call("DEL", version))
        succeeded(box.call("DEL", version, netns=""))


def del_without_a_namespace_lets_the_address_go(target: Target, version: str) -> None:
    with target.sandbox() as box:
        added(box, version)
        succeeded(box.call("DEL", version, netns=""))
        added(box, version, ifname="eth1")
        succeeded(box.call("DEL", version, ifname="eth1"))


def add_after_del_works(target: Target, version: str) -> None:
    with target.sandbox() as box:
        added(box, version)
        succeeded(box.call("DEL", version))
        result = added(box, version)
        assert box.addresses() == addresses_of(result)


def add_that_fails_at_its_routes_leaves_nothing(target: Target, version: str) -> None:
    nowhere = [{"dst": "198.51.100.0/24", "gw": "203.0.113.1"}]
    with target.sandbox() as box:
        ipam = {**target.config.get("ipam", {}), "routes": nowhere}
        failed(box.call("ADD", version, config={"ipam": ipam}), version)
        assert box.interfaces() == set()
        added(box, version)


def del_works_when_the_interface_is_gone(target: Target, version: str) -> None:
    with target.sandbox() as box:
        result = added(box, version)
        box.ip("link", "del", "eth0")
        succeeded(box.call("DEL", version, config={"prevResult": result}))
        added(box, version)


def two_dels_at_once_succeed(target: Target, version: str) -> None:
    with target.sandbox() as box:
        added(box, version)
        with ThreadPoolExecutor(2) as pool:
            for done in pool.map(lambda _: box.call("DEL", version), range(2)):
                succeeded(done)
        assert box.interfaces() == set()


def a_namespace_that_is_not_there_fails(target: Target, version: str) -> None:
    with target.sandbox() as box:
        failed(box.call("ADD", version, netns=f"{box.path}-not"), version)


def a_file_that_is_no_namespace_fails(target: Target, version: str) -> None:
    with target.sandbox() as box:
        failed(box.call("ADD", version, netns="/etc/passwd"), version)


def an_error_names_its_version(target: Target, version: str) -> None:
    with target.sandbox() as box:
        assert box.call("ADD", version, netns="/nowhere").answer.get("cniVersion") == version


def version_prints_what_is_supported(target: Target, version: str) -> None:
    done = succeeded(target.call("VERSION", version))
    assert wrong_in_versions(done.answer) == []
    assert version in done.answer["supportedVersions"]


def many_at_once_have_different_addresses(target: Target, version: str) -> None:
    with target.sandbox() as a, target.sandbox() as b, target.sandbox() as c:
        with ThreadPoolExecutor(3) as pool:
            results = list(pool.map(lambda box: added(box, version), (a, b, c)))
        assert len({ip["address"] for result in results for ip in result["ips"]}) == 3


def an_mtu_is_obeyed(target: Target) -> None:
    with target.sandbox() as box:
        succeeded(box.call("ADD", "1.0.0", config={"mtu": 1280}))
        assert "mtu 1280" in box.ip("link", "show", "eth0")
