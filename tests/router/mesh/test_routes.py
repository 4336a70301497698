"""Routes: what all peers compute for themselves must fit together."""

import time
from collections import deque
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from router.mesh.bits import indexes, mover
from router.mesh.records import Record, Roster
from router.mesh.routes import Routes, Surveyor, broadcast_children, compute_routes, next_hops
from weavepy.base.names import PeerName, PeerUid, ShortId

Graph = list[int]


@st.composite
def graphs(draw: st.DrawFn, max_peers: int = 30) -> Graph:
    size = draw(st.integers(1, max_peers))
    density = draw(st.sampled_from([0.05, 0.1, 0.2, 0.5, 1.0]))
    rng = Random(draw(st.integers(0, 2**32)))
    links = [0] * size
    for one in range(size):
        for other in range(one):
            if rng.random() < density:
                links[one] |= 1 << other
                links[other] |= 1 << one
    return links


def distances(links: Graph, start: int) -> dict[int, int]:
    far = {start: 0}
    queue = deque([start])
    while queue:
        here = queue.popleft()
        for there in range(len(links)):
            if links[here] >> there & 1 and there not in far:
                far[there] = far[here] + 1
                queue.append(there)
    return far


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_a_broadcast_reaches_each_reachable_peer_exactly_once(links: Graph) -> None:
    children = [broadcast_children(peer, links, range(len(links))) for peer in range(len(links))]
    for source in range(len(links)):
        copies: dict[int, int] = {}
        todo = [source]
        while todo:
            here = todo.pop()
            copies[here] = copies.get(here, 0) + 1
            assert copies[here] == 1
            todo += children[here][source]
        assert copies.keys() == distances(links, source).keys()


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_the_parent_in_a_broadcast_tree_is_the_lowest_of_the_previous_layer(links: Graph) -> None:
    far = [distances(links, peer) for peer in range(len(links))]
    for peer in range(len(links)):
        for source, ours in broadcast_children(peer, links, range(len(links))).items():
            expected = [
                child
                for child in indexes(links[peer])
                if far[source][child] == far[source][peer] + 1
                and peer
                == min(
                    parent
                    for parent in indexes(links[child])
                    if far[source][parent] == far[source][child] - 1
                )
            ]
            assert ours == expected


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_unicast_takes_a_shortest_path_and_never_a_loop(links: Graph) -> None:
    hops = [next_hops(peer, links, range(len(links))) for peer in range(len(links))]
    for source in range(len(links)):
        far = distances(links, source)
        assert hops[source].keys() == far.keys() - {source}
        for destination in hops[source]:
            here, length = source, 0
            while here != destination:
                here = hops[here][destination]
                length += 1
                assert length <= far[destination]
            assert length == far[destination]


@given(graphs(12), st.randoms(use_true_random=False))
def test_bits_move_to_where_they_belong(links: Graph, rng: Random) -> None:
    size = len(links)
    order = list(range(size))
    rng.shuffle(order)
    move = mover(order, size)
    for row in links:
        assert {order.index(member) for member in indexes(row)} == set(indexes(move(row)))


# --- with names ----------------------------------------------------------------------------------


def name(number: int) -> PeerName:
    return PeerName(number.to_bytes(6, "big").hex(":"))


def topology(
    established: dict[int, list[int]], control: dict[int, list[int]] | None = None
) -> tuple[dict[PeerName, Record], Roster]:
    roster = Roster()
    control = established if control is None else control
    records = {}
    for number in established:
        records[name(number)] = Record(
            name(number),
            PeerUid(1),
            1,
            "",
            ShortId(0),
            "",
            (),
            roster.set_of(map(name, control[number])),
            roster.set_of(map(name, established[number])),
            0,
        )
    return records, roster


def test_frames_travel_only_over_links_that_both_ends_call_established() -> None:
    records, roster = topology({1: [2], 2: [3], 3: [2]})
    routes = compute_routes(name(1), records, roster)
    assert routes.unicast == {}
    assert routes.broadcast == {name(1): ()}
    assert compute_routes(name(2), records, roster).unicast == {name(3): name(3)}


def test_gossip_travels_over_connections_but_not_to_orphans() -> None:
    records, roster = topology({1: [3], 2: [], 3: [1]}, control={1: [2], 2: [1], 3: [1]})
    routes = compute_routes(name(1), records, roster)
    assert routes.unicast_all == {name(2): name(2)}
    assert routes.unicast == {name(3): name(3)}
    assert routes.alive == {name(1), name(2), name(3)}


def test_a_peer_to_which_nobody_has_a_link_is_not_alive_whatever_it_says() -> None:
    records, roster = topology({1: [2], 2: [1], 3: [1, 2]})
    assert compute_routes(name(1), records, roster).alive == {name(1), name(2)}


def test_a_link_to_an_unknown_peer_is_no_route() -> None:
    records, roster = topology({1: [2, 9], 2: [1, 9]})
    assert compute_routes(name(1), records, roster) == Routes(
        {name(2): name(2)},
        {name(1): (name(2),), name(2): ()},
        {name(2): name(2)},
        (),
        frozenset({name(1), name(2)}),
    )


def test_relays_are_the_neighbours_that_have_children_in_our_own_tree() -> None:
    records, roster = topology({1: [2, 3], 2: [1, 3, 4], 3: [1, 2, 4], 4: [2, 3, 5], 5: [4]})
    assert compute_routes(name(1), records, roster).relays == (name(2),), "the lowest parent of 4"
    assert compute_routes(name(4), records, roster).relays == (name(2),)
    assert compute_routes(name(5), records, roster).relays == (name(4),)


def test_relays_are_those_whose_own_routes_pass_our_broadcasts_on() -> None:
    rng = Random(5)
    for _ in range(50):
        size = rng.randint(2, 12)
        links: dict[int, list[int]] = {number: [] for number in range(1, size + 1)}
        for one in range(1, size + 1):
            for other in range(one + 1, size + 1):
                if rng.random() < 0.3:
                    links[one].append(other)
                    links[other].append(one)
        records, roster = topology(links)
        for one, neighbours in links.items():
            passing = [
                name(neighbour)
                for neighbour in sorted(neighbours)
                if compute_routes(name(neighbour), records, roster).broadcast[name(one)]
            ]
            assert list(compute_routes(name(one), records, roster).relays) == passing


def test_among_equal_paths_the_lowest_name_is_taken() -> None:
    records, roster = topology({1: [3, 2], 2: [1, 4], 3: [1, 4], 4: [3, 2]})
    assert compute_routes(name(1), records, roster).unicast[name(4)] == name(2)
    assert compute_routes(name(2), records, roster).broadcast[name(1)] == (name(4),)
    assert compute_routes(name(3), records, roster).broadcast[name(1)] == ()


@settings(max_examples=100, deadline=None)
@given(graphs(12), st.randoms(use_true_random=False))
def test_what_is_relayed_goes_in_no_circle_whoever_is_down(links: Graph, rng: Random) -> None:
    down = [peer for peer in range(len(links)) if rng.random() < 0.3]
    ranks = range(len(links))
    for source in range(len(links)):
        far = distances(links, source)
        for destination in far.keys() - {source}:
            here, length = source, 0
            while here != destination:
                closed = [peer for peer in down if links[here] >> peer & 1]
                here = next_hops(here, links, ranks, closed)[destination]
                length += 1
                if here in closed:
                    break
            assert length <= far[destination]


def test_a_neighbour_that_is_down_is_gone_round_where_another_way_is_as_short() -> None:
    links = [0b0110, 0b1001, 0b1001, 0b0110]
    assert next_hops(0, links, range(4))[3] == 1
    assert next_hops(0, links, range(4), [1])[3] == 2
    records, roster = topology({1: [2, 3], 2: [1, 4], 3: [1, 4], 4: [2, 3]})
    routes = Surveyor().compute(name(1), records, roster, [name(2)])
    assert routes.unicast_all == {name(3): name(3), name(4): name(3)}
    assert routes.unicast == {name(2): name(2), name(3): name(3), name(4): name(2)}


def _seconds_for(established: dict[int, list[int]]) -> float:
    records, roster = topology(established)
    start = time.process_time()
    compute_routes(name(len(established) // 2), records, roster)
    return time.process_time() - start


def test_a_full_mesh_of_a_thousand_is_computed_well_below_a_second() -> None:
    everyone = range(1000)
    full = {one: [other for other in everyone if other != one] for one in everyone}
    assert _seconds_for(full) < 0.7


def test_a_sparse_mesh_of_a_thousand_is_computed_well_below_a_second() -> None:
    rng = Random(1)
    links: dict[int, set[int]] = {one: set() for one in range(1000)}
    for one in links:
        for other in rng.sample(range(1000), 10):
            if one != other:
                links[one].add(other)
                links[other].add(one)
    assert _seconds_for({one: sorted(others) for one, others in links.items()}) < 0.7


def test_even_a_chain_of_five_hundred_is_computed_in_a_second() -> None:
    chain = {one: [x for x in (one - 1, one + 1) if 0 <= x < 500] for one in range(500)}
    assert _seconds_for(chain) < 1.0
