"""The difference between two tables, and a table that remembers what it was."""

from random import Random

import pytest

from policy.core.table import Chain, Element, Match, RecordedTable, SetContent, Table, difference
from tests.policy.core.test_incremental import apply

OPEN = Chain("ingress", 4, (Match(),))


def a_set(*addresses: str) -> SetContent:
    return SetContent("pods", 4, {(one,): None for one in addresses})


def a_table(sets: dict[str, SetContent], chains: dict[str, Chain], **verdicts: str) -> Table:
    made = Table(sets, chains)
    made.verdicts["ingress", 4] = dict(verdicts)
    return made


def test_a_difference_names_all_that_comes_changes_and_goes() -> None:
    old = a_table({"a": a_set("1", "2"), "gone": a_set()}, {"old": OPEN}, p="old", q="old")
    new = a_table({"a": a_set("2", "3"), "come": a_set("4")}, {"new": OPEN}, p="new")
    changes = difference(old, new)
    assert [*changes.new_sets] == ["come"]
    assert [*changes.old_sets] == ["gone"]
    assert [*changes.elements] == ["a"]
    assert [*changes.elements["a"].added] == [("3",)]
    assert [*changes.elements["a"].removed] == [("1",)]
    assert [*changes.new_chains] == ["new"]
    assert [*changes.old_chains] == ["old"]
    assert changes.withdrawn == {("ingress", 4): {"p": "old", "q": "old"}}
    assert changes.given == {("ingress", 4): {"p": "new"}}


def test_only_what_may_forbid_something_is_said_to() -> None:
    wide, narrow = a_table({"a": a_set("1")}, {}), a_table({"a": a_set()}, {})
    assert not difference(narrow, wide).forbids
    assert difference(wide, narrow).forbids
    assert difference(Table(), a_table({}, {"new": OPEN}, p="new")).forbids
    assert not difference(a_table({}, {"new": OPEN}, p="new"), Table()).forbids
    assert not difference(wide, wide)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (a_table({}, {}), a_table({"a": a_set()}, {})),
        (a_table({"a": a_set()}, {}), a_table({"a": a_set("1")}, {})),
        (a_table({}, {}), a_table({}, {"c": OPEN})),
        (a_table({}, {"c": OPEN}), a_table({}, {"c": OPEN}, p="c")),
    ],
)
def test_each_kind_of_difference_is_one(old: Table, new: Table) -> None:
    assert difference(old, new)
    assert difference(new, old)


@pytest.mark.parametrize("seed", range(40))
def test_what_was_recorded_makes_of_the_table_before_the_one_after(seed: int) -> None:
    rng = Random(seed)
    recorded, followed = RecordedTable(), Table()
    for _ in range(12):
        for _ in range(rng.randint(0, 6)):
            one_change(rng, recorded)
        apply(followed, recorded.take_changes())
        assert followed == recorded.table


def test_a_set_that_comes_back_is_compared_with_what_it_was() -> None:
    recorded = RecordedTable()
    recorded.add_set("a", a_set("1"))
    recorded.take_changes()
    recorded.add_element("a", ("2",))
    recorded.remove_element("a", ("1",))
    recorded.remove_set("a")
    recorded.add_set("a", a_set("1"))
    assert not recorded.take_changes()


def test_changes_are_as_the_table_was_when_they_were_taken() -> None:
    recorded = RecordedTable()
    recorded.add_set("a", a_set("1"))
    changes = recorded.take_changes()
    recorded.add_element("a", ("2",))
    assert [*changes.new_sets["a"].elements] == [("1",)]


def one_change(rng: Random, recorded: RecordedTable) -> None:
    """What is legal: a set is not removed while a chain refers to it, nor a chain in use."""
    table = recorded.table
    name = rng.choice(["a", "b"])
    element: Element = (rng.choice("123"),)
    used = {
        one for chain in table.chains.values() for match in chain.matches for one in match.sets()
    }
    match rng.randrange(4):
        case 0 if name not in table.sets:
            recorded.add_set(name, a_set(*rng.sample("123", rng.randint(0, 3))))
        case 0 if name not in used and name not in table.chains:
            recorded.remove_set(name)
        case 1 if name in table.sets:
            recorded.add_element(name, element)
        case 2 if name in table.sets:
            recorded.remove_element(name, element)
        case 3 if name in table.chains:
            for address, chain in [*table.verdicts["ingress", 4].items()]:
                if chain == name:
                    recorded.set_verdict(("ingress", 4), address, None)
            if rng.random() < 0.5:
                recorded.remove_chain(name)
        case 3 if name in table.sets:
            recorded.add_chain(name, Chain("ingress", 4, (Match(peers=name),)))
            recorded.set_verdict(("ingress", 4), rng.choice("pq"), name)
        case _:
            return
