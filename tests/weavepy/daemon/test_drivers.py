"""Which driver is taken at start, and what becomes of what others left."""

from ipaddress import ip_network

from fastdp.core.policy import Policy
from tests.weavepy.daemon.test_tunnels import CLEAR, LEFT, ListDriver
from weavepy.daemon.drivers import choose, drivers

OFF = Policy("off", encrypted=False)
NAMED = Policy("vxlan", encrypted=False)


def test_a_driver_that_can_do_nothing_leaves_all_to_sleeve() -> None:
    chosen = choose([ListDriver(refuses=("available",))], CLEAR)
    assert not chosen.policy.enabled
    assert (chosen.policy.unavailable, chosen.adopted) == ("not list: no VXLAN", [])


def test_tunnels_of_an_earlier_run_are_adopted_where_they_are_wanted_and_removed_elsewhere() -> (
    None
):
    driver = ListDriver(left=[LEFT])
    chosen = choose([driver], CLEAR)
    assert (chosen.policy, chosen.adopted) == (CLEAR, [LEFT])
    assert "remove_all" not in driver.asked

    driver = ListDriver(left=[LEFT])
    chosen = choose([driver], OFF)
    assert (chosen.policy, chosen.adopted) == (OFF, [])
    assert driver.asked == ["left", "remove_all"]

    driver = ListDriver(guarded=True)
    choose([driver], OFF)
    assert driver.asked == ["left", "remove_all"], "the guard as well"

    driver = ListDriver()
    choose([driver], OFF)
    assert driver.asked == ["left"], "nothing is touched where nothing is"


def test_auto_takes_the_first_that_can_and_says_why_not_a_better_one() -> None:
    better, worse = ListDriver(refuses=("available",), name="better"), ListDriver(name="worse")
    chosen = choose([better, worse], CLEAR)
    assert chosen.driver is worse
    assert chosen.better == "not better: no VXLAN"
    assert "remove_tunnels" in better.asked
    assert "remove_tunnels" not in worse.asked


def test_auto_stays_with_the_driver_that_left_tunnels() -> None:
    better, worse = ListDriver(name="better"), ListDriver(left=[LEFT], name="worse")
    chosen = choose([better, worse], CLEAR)
    assert chosen.driver is worse
    assert chosen.adopted == [LEFT]


def test_in_an_encrypted_mesh_auto_leaves_open_vswitch_alone() -> None:
    """Its tunnels can only be in clear, whatever others may become."""
    encrypted = Policy("auto", encrypted=True, trusted=(ip_network("10.0.0.0/8"),))
    ovs, other = ListDriver(name="ovs"), ListDriver(name="vxlan")
    chosen = choose([ovs, other], encrypted)
    assert chosen.driver is other
    assert chosen.better == "not ovs: the mesh is encrypted"


def test_a_driver_that_is_named_is_the_only_one_and_ends_the_tunnels_of_others() -> None:
    named, other = ListDriver(refuses=("available",), name="vxlan"), ListDriver(left=[LEFT])
    assert not choose([named, other], NAMED).policy.enabled
    assert "remove_all" in other.asked

    named = ListDriver(name="vxlan")
    other = ListDriver(refuses=("remove_tunnels",), left=[LEFT])
    assert choose([named, other], NAMED).driver is named


def test_the_driver_of_the_mode_comes_first() -> None:
    def names(mode: str) -> list[str]:
        return [driver.name for driver in drivers(mode, "weave", "weavetap", 6784)]  # type: ignore[arg-type]  # any text

    assert names("auto") == names("off") == names("ovs") == ["ovs", "vxlan"]
    assert names("vxlan") == ["vxlan", "ovs"]
