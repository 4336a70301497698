"""How selectors are written, and by which label pairs they find what they select."""

from policy.core.selectors import EVERYTHING, Requirement, Selector

WEB = Requirement("app", "In", ("web",))


def test_selectors_are_written_as_people_say_them() -> None:
    requirements = (
        WEB,
        Requirement("tier", "In", ("back", "front")),
        Requirement("team", "NotIn", ("a", "b")),
        Requirement("team", "NotIn", ("a",)),
        Requirement("old", "Exists"),
        Requirement("new", "DoesNotExist"),
    )
    assert str(Selector(requirements)) == (
        "app=web and tier in (back, front) and team not in (a, b) and team not in (a) and old"
        " and !new"
    )
    assert str(EVERYTHING) == "everything"


def test_a_selector_is_looked_for_where_the_fewest_are() -> None:
    wide = Requirement("tier", "In", ("back", "front"))
    assert Selector((wide, WEB)).anchors() == (("app", "web"),)
    assert Selector((wide,)).anchors() == (("tier", "back"), ("tier", "front"))


def test_what_requires_no_label_pair_may_select_anything() -> None:
    assert Selector((Requirement("app", "NotIn", ("web",)),)).anchors() == ()
    assert EVERYTHING.anchors() == ()
