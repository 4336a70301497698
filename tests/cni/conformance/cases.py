"""The cases: verb x version x error x repetition, each a sentence and a function that may fail."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.cni.conformance.shapes import (
    VERSIONS,
    at_least,
    wrong_in_error,
    wrong_in_result,
    wrong_in_versions,
)
from tests.cni.conformance.target import Outcome, Sandbox, Target

BAD_IDS = ("-a", ".a", "_a", "a/b", "a b", "a:b")
BAD_NAMES = ("sixteen-letters-", "a/b", "a:b", "a b", ".", "..")
BAD_INPUT = (b"", b"{", b"[]", b"null", b"nonsense", b'{"a": "\xff"}')
NEEDED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
}
SINCE = {"ADD": "0.3.0", "DEL": "0.3.0", "CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    run: Callable[[Target], None]


def cases() -> list[Case]:
    found = []
    for version in VERSIONS:
        for since, checks in BY_VERSION.items():
            for each in checks if at_least(version, since) else ():
                name = each.__name__.replace("_", " ")
                found.append(Case(f"{name} [{version}]", partial(each, version=version)))
        for verb, since in SINCE.items():
            if not at_least(version, since):
                check = partial(too_old_for, version=version, verb=verb)
                found.append(Case(f"{verb} is refused [{version}]", check))
    for verb, needed in NEEDED.items():
        for variable in needed:
            check = partial(without_variable, verb=verb, variable=variable)
            found.append(Case(f"{verb} needs {variable}", check))
        for identifier in BAD_IDS:
            check = partial(with_bad, verb=verb, containerid=identifier)
            found.append(Case(f"{verb} refuses the container id {identifier!r}", check))
        for name in BAD_NAMES:
            check = partial(with_bad, verb=verb, ifname=name)
            found.append(Case(f"{verb} refuses the interface {name!r}", check))
    for verb in ("ADD", "DEL", "CHECK", "VERSION"):
        for data in BAD_INPUT:
            if verb == "VERSION" and not data:
                continue
            check = partial(with_input, verb=verb, data=data)
            found.append(Case(f"{verb} refuses the input {data!r}", check))
    found += [Case(once.__name__.replace("_", " "), once) for once in ONCE]
    return found


# --- what is asked of every version --------------------------------------------------------------


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


def check_passes_after_add(target: Target, version: str) -> None:
    with checked(target, version) as (box, result):
        succeeded(box.call("CHECK", version, config={"prevResult": result}))


def check_tolerates_what_others_added(target: Target, version: str) -> None:
    with checked(target, version) as (box, result):
        box.ip("addr", "add", "192.0.2.7/32", "dev", "eth0")
        box.ip("route", "add", "198.51.100.0/24", "dev", "eth0")
        box.ip("link", "add", "more0", "type", "veth", "peer", "name", "more1")
        succeeded(box.call("CHECK", version, config={"prevResult": result}))


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


# --- garbage and readiness -----------------------------------------------------------------------


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


def status_succeeds_and_prints_nothing(target: Target, version: str) -> None:
    assert succeeded(target.call("STATUS", version)).text == b""


BY_VERSION: dict[str, tuple[Callable[..., None], ...]] = {
    "0.3.0": (
        add_prints_a_result_of_the_schema,
        add_makes_what_its_result_says,
        add_names_the_interface_of_each_address,
        add_again_fails_and_changes_nothing,
        an_interface_that_is_there_is_left_alone,
        two_interfaces_of_one_container_differ,
        two_containers_have_different_addresses,
        del_removes_the_interface,
        del_works_without_the_result_of_add,
        del_can_be_repeated_as_containerd_does,
        del_of_what_was_never_added_succeeds,
        del_leaves_an_interface_that_is_not_its_own,
        del_works_when_the_namespace_is_gone,
        del_without_a_namespace_lets_the_address_go,
        add_after_del_works,
        a_namespace_that_is_not_there_fails,
        a_file_that_is_no_namespace_fails,
        an_error_names_its_version,
        version_prints_what_is_supported,
        many_at_once_have_different_addresses,
    ),
    "0.4.0": (
        check_passes_after_add,
        check_tolerates_what_others_added,
        check_fails_without_the_interface,
        check_fails_without_the_address,
        check_fails_without_a_route,
        check_fails_without_the_result_of_add,
        check_fails_after_del,
    ),
    "1.1.0": (
        gc_frees_what_is_not_named,
        gc_of_nothing_succeeds_and_repeats,
        gc_that_names_the_container_but_another_interface_frees,
        gc_without_a_list_frees_nothing,
        gc_leaves_other_networks_alone,
        status_succeeds_and_prints_nothing,
    ),
}
"""The version since which it is asked for, and what is asked."""


# --- errors --------------------------------------------------------------------------------------


def too_old_for(target: Target, version: str, verb: str) -> None:
    with target.sandbox() as box:
        failed(box.call(verb, version), version, 1)


def without_variable(target: Target, verb: str, variable: str) -> None:
    with target.sandbox() as box:
        done = box.call(verb, "1.0.0", without=variable)
        assert done.code != 0, done
        assert done.answer["code"] == 4, done


def with_bad(target: Target, verb: str, **variables: str) -> None:
    with target.sandbox() as box:
        done = box.call(verb, "1.0.0", **variables)
        assert done.code != 0, done
        assert done.answer["code"] == 4, done
        assert box.interfaces() == set()


def with_input(target: Target, verb: str, data: bytes) -> None:
    with target.sandbox() as box:
        done = box.call(verb, "1.0.0", stdin=data)
        assert done.code != 0, done
        assert done.answer["code"] == 6, done


def an_unknown_command_is_refused(target: Target) -> None:
    done = target.call("EXPLODE", "1.0.0", containerid="a", netns="/x", ifname="eth0")
    assert (done.code != 0, done.answer["code"]) == (True, 4), done


def no_command_is_refused(target: Target) -> None:
    done = target.call("", "1.0.0", without="CNI_COMMAND")
    assert (done.code != 0, done.answer["code"]) == (True, 4), done


def an_unknown_version_is_refused(target: Target) -> None:
    with target.sandbox() as box:
        for version in ("9.9.9", "1.2.0", "latest"):
            done = box.call("ADD", version)
            assert (done.code != 0, done.answer["code"]) == (True, 1), done


def a_network_without_a_name_is_refused(target: Target) -> None:
    with target.sandbox() as box:
        failed(box.call("ADD", "1.0.0", config={"name": ""}), "1.0.0", 7)


def a_bad_name_of_a_network_is_refused(target: Target) -> None:
    with target.sandbox() as box:
        for name in ("a/b", "-a", "a b"):
            failed(box.call("ADD", "1.0.0", config={"name": name}), "1.0.0", 7)


def arguments_that_are_no_pairs_are_refused(target: Target) -> None:
    with target.sandbox() as box:
        failed(box.call("ADD", "1.0.0", args="IP"), "1.0.0", 4)


def unknown_arguments_are_refused_unless_told(target: Target) -> None:
    with target.sandbox() as box:
        failed(box.call("ADD", "1.0.0", args="COLOUR=blue"), "1.0.0")
        succeeded(box.call("ADD", "1.0.0", args="COLOUR=blue;IgnoreUnknown=1"))


def what_kubernetes_passes_is_known(target: Target) -> None:
    pod = "K8S_POD_UID=1;IgnoreUnknown=1;K8S_POD_NAME=web;K8S_POD_NAMESPACE=default"
    with target.sandbox() as box:
        succeeded(box.call("ADD", "1.0.0", args=f"{pod};K8S_POD_INFRA_CONTAINER_ID=abc"))


def logs_go_to_standard_error(target: Target) -> None:
    with target.sandbox() as box:
        done = failed(box.call("ADD", "1.0.0", netns="/nowhere"), "1.0.0")
        assert done.errors


def an_mtu_is_obeyed(target: Target) -> None:
    with target.sandbox() as box:
        succeeded(box.call("ADD", "1.0.0", config={"mtu": 1280}))
        assert "mtu 1280" in box.ip("link", "show", "eth0")


ONCE: tuple[Callable[[Target], None], ...] = (
    an_unknown_command_is_refused,
    no_command_is_refused,
    an_unknown_version_is_refused,
    a_network_without_a_name_is_refused,
    a_bad_name_of_a_network_is_refused,
    arguments_that_are_no_pairs_are_refused,
    unknown_arguments_are_refused_unless_told,
    what_kubernetes_passes_is_known,
    logs_go_to_standard_error,
    an_mtu_is_obeyed,
)


# --- helpers -------------------------------------------------------------------------------------


def succeeded(outcome: Outcome) -> Outcome:
    assert outcome.code == 0, str(outcome)
    return outcome


def failed(outcome: Outcome, version: str, code: int = 0) -> Outcome:
    """With an error in the form of the specification; `code` if it names one for this."""
    assert outcome.code != 0, f"it should fail: {outcome}"
    assert wrong_in_error(version, outcome.answer) == [], str(outcome)
    assert code in (0, outcome.answer["code"]), str(outcome)
    return outcome


def added(box: Sandbox, version: str, **more: Any) -> dict[str, Any]:
    result = succeeded(box.call("ADD", version, **more)).answer
    assert isinstance(result, dict)
    return result


def addresses_of(result: dict[str, Any]) -> set[str]:
    return {ip["address"] for ip in result["ips"]}


@contextlib.contextmanager
def checked(target: Target, version: str) -> Iterator[tuple[Sandbox, dict[str, Any]]]:
    with target.sandbox() as box:
        yield box, added(box, version)
