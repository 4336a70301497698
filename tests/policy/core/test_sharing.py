"""What hosts tell each other about their pods converges, and nobody can break it."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.core.roster import Attached, Identity
from policy.core.sharing import MAX_ENTRY_BYTES, MAX_UPDATE_BYTES, Entry, SharedPods
from weavepy.base.errors import UsageError
from weavepy.base.names import PeerName
from weavepy.base.wire import encode

ONE, TWO, THREE = (PeerName(f"00:00:00:00:00:0{n}") for n in (1, 2, 3))


def attached(owner: str, *addresses: str, **labels: str) -> Attached:
    parsed = tuple(ip_address(address) for address in addresses)
    return Attached(owner, parsed, Identity("shop", "", labels))


def update(shared: SharedPods) -> bytes:
    answer = shared.answer(b"")
    return answer if answer is not None else b""


def test_what_a_host_describes_is_known_elsewhere_under_its_nickname() -> None:
    one, two = SharedPods(ONE, "host1"), SharedPods(TWO, "host2")
    (announced,) = one.set_own([attached("web", "10.0.0.1", app="web"), Attached("plain", ())])
    assert two.handle_gossip(ONE, announced.update)[0].learnt_from == ONE
    assert two.elsewhere() == {"host1": [attached("web", "10.0.0.1", app="web")]}
    assert one.elsewhere() == {}
    assert two.handle_gossip(ONE, announced.update) == []


def test_nothing_is_said_while_nothing_is_described() -> None:
    assert SharedPods(ONE, "host1").set_own([Attached("plain", ())]) == []


def test_a_later_description_replaces_an_earlier_one_in_any_order() -> None:
    one = SharedPods(ONE, "host1")
    updates = [
        announced.update
        for pods in ([attached("a", "10.0.0.1")], [attached("b", "10.0.0.2")], [])
        for announced in one.set_own(pods)
    ]
    assert len(updates) == 3
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        two = SharedPods(TWO, "host2")
        for number in order:
            two.handle_gossip(THREE, updates[number])
        assert two.elsewhere() == {"host1": []}
        assert two.digest() == one.digest()


def test_a_host_that_lost_its_disk_goes_above_what_others_remember() -> None:
    old, other, new = SharedPods(ONE, "host1"), SharedPods(TWO, "host2"), SharedPods(ONE, "host1")
    for pods in ([attached("a", "10.0.0.1")], [attached("b", "10.0.0.2")]):
        for announced in old.set_own(pods):
            other.handle_gossip(ONE, announced.update)
    for announced in new.set_own([attached("c", "10.0.0.3")]):
        assert other.handle_gossip(ONE, announced.update) == []
    (corrected,) = new.handle_gossip(TWO, update(other))
    assert corrected.learnt_from is None
    other.handle_gossip(ONE, corrected.update)
    assert other.elsewhere() == {"host1": [attached("c", "10.0.0.3")]}


def test_two_hosts_of_one_nickname_are_told_apart() -> None:
    shared = SharedPods(THREE, "host3")
    for name in (ONE, TWO):
        for announced in SharedPods(name, "twin").set_own([attached("a", "10.0.0.1")]):
            shared.handle_gossip(name, announced.update)
    assert shared.elsewhere().keys() == {"twin", TWO}


def test_equal_states_have_equal_digests_and_nothing_to_say() -> None:
    one, two = SharedPods(ONE, "host1"), SharedPods(TWO, "host2")
    one.set_own([attached("a", "10.0.0.1")])
    two.set_own([attached("b", "10.0.0.2")])
    answer = one.answer(two.digest())
    assert answer is not None
    two.handle_gossip(ONE, answer)
    one.handle_gossip(TWO, update(two))
    assert one.answer(two.digest()) is None
    assert one.entries == two.entries


def test_combined_updates_say_what_both_say() -> None:
    one, two = SharedPods(ONE, "host1"), SharedPods(TWO, "host2")
    (first,) = one.set_own([attached("a", "10.0.0.1")])
    (second,) = one.set_own([attached("b", "10.0.0.2")])
    (other,) = two.set_own([attached("c", "10.0.0.3")])
    three = SharedPods(THREE, "host3")
    both = three.combine(three.combine(first.update, second.update), other.update)
    three.handle_gossip(TWO, both)
    assert three.elsewhere() == {
        "host1": [attached("b", "10.0.0.2")],
        "host2": [attached("c", "10.0.0.3")],
    }


def test_a_host_with_more_than_an_entry_holds_is_told_so() -> None:
    many = [attached(f"{n}", "10.0.0.1", app="x" * 60) for n in range(MAX_ENTRY_BYTES // 60)]
    with pytest.raises(UsageError, match="too many"):
        SharedPods(ONE, "host1").set_own(many)


def test_an_update_stays_below_its_bound() -> None:
    shared = SharedPods(ONE, "host1")
    for number in range(20):
        name = PeerName(f"00:00:00:00:01:{number:02x}")
        pods = [attached(f"{n}", "10.0.0.1", app="x" * 60) for n in range(300)]
        for announced in SharedPods(name, f"host{number}").set_own(pods):
            shared.handle_gossip(name, announced.update)
    assert len(shared.entries) == 20
    assert len(update(shared)) <= MAX_UPDATE_BYTES + 10


@pytest.mark.parametrize(
    "pods",
    [
        (("a", ("10.0.0.256",), "shop", "", {}),),
        (("a", ("10.0.0.1",), "Shop", "", {}),),
        (("a", ("10.0.0.1",), "shop", "a/b", {}),),
        (("a", ("10.0.0.1",), "shop", "", {"app": "x" * 64}),),
        (("a", ("10.0.0.1",), "shop", "", {"a b": "x"}),),
    ],
)
def test_an_entry_that_makes_no_sense_is_ignored(pods: object) -> None:
    shared = SharedPods(ONE, "host1")
    assert shared.handle_gossip(TWO, encode(((TWO, "host2", 1, pods),))) == []
    assert shared.entries == {}


@given(st.binary())
def test_any_bytes_are_taken(update: bytes) -> None:
    shared = SharedPods(ONE, "host1")
    shared.handle_gossip(TWO, update)
    shared.combine(update, update)
    assert shared.entries == {}


entries = st.builds(
    lambda peer, version, app: Entry(
        peer, peer[-2:], version, ((("o", ("10.0.0.1",), "shop", "", {"app": app})),)
    ),
    st.sampled_from([TWO, THREE]),
    st.integers(1, 3),
    st.sampled_from(["a", "b"]),
)


@given(st.lists(entries, max_size=6), st.randoms(use_true_random=False))
def test_updates_may_come_in_any_order_and_repeatedly(listed: list[Entry], rng: object) -> None:
    def merged(order: list[Entry]) -> bytes:
        shared = SharedPods(ONE, "host1")
        for entry in order:
            shared.handle_gossip(TWO, encode((entry,)))
        return shared.digest()

    shuffled = [*listed, *listed]
    rng.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis gives a Random
    assert merged(listed) == merged(shuffled)
