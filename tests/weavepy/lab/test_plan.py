import pytest

from weavepy.base.errors import UsageError
from weavepy.lab.plan import MAX_HOSTS, make_plan, namespace_pattern


def links(topology: str, hosts: int = 4) -> list[str]:
    return [link.name for link in make_plan(hosts=hosts, topology=topology).links]


def test_each_topology_has_the_links_that_its_name_says() -> None:
    assert links("full") == ["h1-h2", "h1-h3", "h1-h4", "h2-h3", "h2-h4", "h3-h4"]
    assert links("chain") == ["h1-h2", "h2-h3", "h3-h4"]
    assert links("star") == ["h1-h2", "h1-h3", "h1-h4"]
    assert links("h3-h1, h1-h2,h2-h1") == ["h1-h2", "h1-h3"]


@pytest.mark.parametrize("topology", ["", "ring", "h1", "h1-h1", "h0-h1", "h1-h5", "h1-h2;h2-h3"])
def test_a_topology_that_makes_no_sense_is_refused(topology: str) -> None:
    with pytest.raises(UsageError):
        make_plan(hosts=4, topology=topology)


@pytest.mark.parametrize("name", ["", "A", "a b", "-a", "a-", "ninechars", "a/b", "ä"])
def test_a_name_that_could_not_be_part_of_a_namespace_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        make_plan(name)


def test_the_limits_are_enforced() -> None:
    make_plan(hosts=MAX_HOSTS, containers=16)
    for hosts, containers in ((MAX_HOSTS + 1, 1), (0, 1), (3, 17), (3, -1)):
        with pytest.raises(UsageError):
            make_plan(hosts=hosts, containers=containers)
    for mtu_bytes in (575, 65536):
        with pytest.raises(UsageError):
            make_plan(mtu_bytes=mtu_bytes)


def test_no_address_and_no_interface_is_used_twice_in_the_largest_lab() -> None:
    plan = make_plan(hosts=MAX_HOSTS)
    ends = [end for link in plan.links for end in link.ends]
    assert len(plan.links) == 496
    assert len({end.address for end in ends}) == len(ends)
    assert len({end.port for end in ends}) == len(ends)
    assert len({(end.host, end.interface) for end in ends}) == len(ends)
    names = [end.port for end in ends] + [link.bridge for link in plan.links]
    assert max(map(len, names)) <= 15, "an interface's name has 15 characters at most"


def test_the_two_ends_of_a_link_are_in_one_network_of_four_addresses() -> None:
    link = make_plan(hosts=3).link("h3", "h2")
    assert [end.address for end in link.ends] == ["10.99.0.9", "10.99.0.10"]
    assert link.end_at(2).interface == "u3"
    assert link.end_at(3).port == "h3-2"


def test_each_link_is_dialled_from_exactly_one_end() -> None:
    for topology in ("full", "chain", "star"):
        plan = make_plan(hosts=5, topology=topology)
        assert sum(len(plan.targets(host)) for host in range(1, 6)) == len(plan.links)
    assert make_plan(hosts=3).targets(3) == ["10.99.0.5", "10.99.0.9"]
    assert make_plan(hosts=3).targets(1) == []


def test_nodes_are_found_by_name_and_others_refused_with_what_there_is() -> None:
    plan = make_plan(hosts=3, containers=2)
    assert plan.node("h2").name == "h2"
    assert plan.container("h3c2").name == "h3c2"
    for wrong in ("h4", "h0", "h1c3", "h1c0", "h01", "c1", "", "wire"):
        with pytest.raises(UsageError, match="h1 to h3, each with c1 to c2"):
            plan.node(wrong)
    with pytest.raises(UsageError, match="is a container"):
        plan.host("h1c1")
    with pytest.raises(UsageError, match="is a host"):
        plan.container("h1")
    with pytest.raises(UsageError, match="h1-h2, h2-h3"):
        make_plan(hosts=3, topology="chain").link("h1", "h3")


def test_the_pattern_of_a_lab_matches_all_its_namespaces_and_no_other_labs() -> None:
    pattern = namespace_pattern("a")
    assert all(pattern.fullmatch(name) for name in make_plan("a").namespaces)
    strangers = [*make_plan("a-h1").namespaces, *make_plan("ab").namespaces, "weavepy-a", "a-h1"]
    assert not any(pattern.fullmatch(name) for name in strangers)
