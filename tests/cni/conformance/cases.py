"""The cases: verb x version x error x repetition, each a sentence and a function that may fail."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tests.cni.conformance import containers, networks, refusals, upkeep
from tests.cni.conformance.shapes import VERSIONS, at_least
from tests.cni.conformance.target import Target

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


def cases(*, second: bool = True) -> list[Case]:
    """`second`: whether the configuration of a second network is there."""
    found = []
    for version in VERSIONS:
        for since, checks in BY_VERSION.items():
            asked = [*checks, *(WITH_SECOND[since] if second else ())]
            for each in asked if at_least(version, since) else ():
                name = each.__name__.replace("_", " ")
                found.append(Case(f"{name} [{version}]", partial(each, version=version)))
        for verb, since in SINCE.items():
            if not at_least(version, since):
                check = partial(refusals.too_old_for, version=version, verb=verb)
                found.append(Case(f"{verb} is refused [{version}]", check))
    for verb, needed in NEEDED.items():
        for variable in needed:
            check = partial(refusals.without_variable, verb=verb, variable=variable)
            found.append(Case(f"{verb} needs {variable}", check))
        for identifier in BAD_IDS:
            check = partial(refusals.with_bad, verb=verb, containerid=identifier)
            found.append(Case(f"{verb} refuses the container id {identifier!r}", check))
        for name in BAD_NAMES:
            check = partial(refusals.with_bad, verb=verb, ifname=name)
            found.append(Case(f"{verb} refuses the interface {name!r}", check))
    for verb in ("ADD", "DEL", "CHECK", "VERSION"):
        for data in BAD_INPUT:
            if verb == "VERSION" and not data:
                continue
            check = partial(refusals.with_input, verb=verb, data=data)
            found.append(Case(f"{verb} refuses the input {data!r}", check))
    found += [Case(once.__name__.replace("_", " "), once) for once in ONCE]
    return found


BY_VERSION: dict[str, tuple[Callable[..., None], ...]] = {
    "0.3.0": (
        containers.add_prints_a_result_of_the_schema,
        containers.add_makes_what_its_result_says,
        containers.add_names_the_interface_of_each_address,
        containers.add_again_fails_and_changes_nothing,
        containers.an_interface_that_is_there_is_left_alone,
        containers.two_interfaces_of_one_container_differ,
        containers.two_containers_have_different_addresses,
        containers.del_removes_the_interface,
        containers.del_works_without_the_result_of_add,
        containers.del_can_be_repeated_as_containerd_does,
        containers.del_of_what_was_never_added_succeeds,
        containers.del_leaves_an_interface_that_is_not_its_own,
        containers.del_works_when_the_namespace_is_gone,
        containers.del_without_a_namespace_lets_the_address_go,
        containers.add_after_del_works,
        containers.add_that_fails_at_its_routes_leaves_nothing,
        containers.del_works_when_the_interface_is_gone,
        containers.two_dels_at_once_succeed,
        containers.a_namespace_that_is_not_there_fails,
        containers.a_file_that_is_no_namespace_fails,
        containers.an_error_names_its_version,
        containers.version_prints_what_is_supported,
        containers.many_at_once_have_different_addresses,
    ),
    "0.4.0": (
        upkeep.check_passes_after_add,
        upkeep.check_tolerates_what_others_added,
        upkeep.check_can_be_repeated,
        upkeep.check_tolerates_what_a_chain_added_to_the_result,
        upkeep.check_fails_with_an_address_that_was_not_given,
        upkeep.check_fails_when_the_mac_is_another,
        upkeep.check_fails_without_the_interface,
        upkeep.check_fails_without_the_address,
        upkeep.check_fails_without_a_route,
        upkeep.check_fails_without_the_result_of_add,
        upkeep.check_fails_after_del,
    ),
    "1.1.0": (
        upkeep.gc_frees_what_is_not_named,
        upkeep.gc_of_nothing_succeeds_and_repeats,
        upkeep.gc_that_names_the_container_but_another_interface_frees,
        upkeep.gc_without_a_list_frees_nothing,
        upkeep.gc_leaves_other_networks_alone,
        upkeep.gc_that_names_what_is_not_there_succeeds,
        upkeep.status_succeeds_and_prints_nothing,
    ),
}
"""The version since which it is asked for, and what is asked."""

WITH_SECOND: dict[str, tuple[Callable[..., None], ...]] = {
    "0.3.0": (
        networks.two_networks_of_one_container_have_their_own_addresses,
        networks.del_of_one_network_leaves_the_other,
        networks.a_network_without_a_free_address_fails_and_leaves_nothing,
        networks.del_frees_the_address,
    ),
    "0.4.0": (),
    "1.1.0": (
        networks.gc_frees_the_address,
        networks.gc_of_one_network_leaves_the_other,
        networks.status_fails_while_no_address_is_left,
    ),
}

ONCE: tuple[Callable[[Target], None], ...] = (
    refusals.an_unknown_command_is_refused,
    refusals.no_command_is_refused,
    refusals.an_unknown_version_is_refused,
    refusals.a_network_without_a_name_is_refused,
    refusals.a_bad_name_of_a_network_is_refused,
    refusals.arguments_that_are_no_pairs_are_refused,
    refusals.unknown_arguments_are_refused_unless_told,
    refusals.what_kubernetes_passes_is_known,
    refusals.logs_go_to_standard_error,
    containers.an_mtu_is_obeyed,
    networks.an_address_can_be_asked_for_by_a_capability,
    networks.an_address_can_be_asked_for_by_args,
    networks.an_address_can_be_asked_for_by_the_environment,
    networks.an_address_that_another_has_is_refused,
    networks.an_address_outside_of_the_subnet_is_refused,
    networks.a_mac_can_be_asked_for,
)
