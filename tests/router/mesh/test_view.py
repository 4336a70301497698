"""When news is passed on and routes are computed: at once, and in a large mesh not too often."""

from random import Random

from router.mesh.clones import CloneWatch
from router.mesh.effects import LinkId
from router.mesh.herald import CUT_OFF_S, MAX_LEISURE_S, MAX_SPACING_S
from router.mesh.neighbours import Neighbour
from router.mesh.records import Record, Roster
from router.mesh.updates import encode_update
from router.mesh.view import LONG_SPACING_S, NEWS_DELAY_S, View
from weavepy.base.names import PeerName, PeerUid, ShortId

NAMES = [PeerName(number.to_bytes(6, "big").hex(":")) for number in range(1001)]
US, NEIGHBOUR = NAMES[:2]


def view_of(peers: int) -> View:
    """Of a mesh in which all are connected with one another's next, and which is at rest."""
    view = View(
        ourself=US,
        uid=PeerUid(1),
        nickname="us",
        version="",
        short_id=ShortId(1),
        mtu_bytes=0,
        adopted=(),
        clones=CloneWatch(),
        rng=Random(1),
        now=0.0,
    )
    view.merge(told(*range(1, peers)), NEIGHBOUR, 0.0)
    return view


def told(*numbers: int, version: int = 1) -> bytes:
    roster = Roster()
    records = [
        Record(
            name=NAMES[number],
            uid=PeerUid(number),
            version=version,
            nickname=f"n{number}",
            short_id=ShortId(number),
            router_version="",
            addresses=(),
            control=roster.set_of({NAMES[number - 1], NAMES[number % 1000 + 1]}),
            established=0,
            outbound=0,
        )
        for number in numbers
    ]
    return encode_update(records, roster)


def news_comes_after_s(view: View, now: float) -> float:
    """Merge a change, and return when it is passed on."""
    view.merge(told(5, version=int(now * 1000) + 2), NEIGHBOUR, now)
    while True:
        at = max(now, view.next_deadline().at)
        if view.take_news(at):
            return at - now
        view.handle_timeout(at)


def test_news_goes_on_soon_however_large_the_mesh_is() -> None:
    view = view_of(1000)
    assert view.take_news(1.0)
    assert abs(news_comes_after_s(view, 4.0) - view.news_delay_s()) < 1e-9
    assert view.news_delay_s() < 0.3


def test_in_a_large_mesh_the_next_news_waits_for_more() -> None:
    view = view_of(1000)
    view.take_news(1.0)
    first = 4.0 + news_comes_after_s(view, 4.0)
    assert abs(4.3 + news_comes_after_s(view, 4.3) - (first + LONG_SPACING_S)) < 1e-9
    small = view_of(10)
    small.take_news(1.0)
    news_comes_after_s(small, 4.0)
    assert news_comes_after_s(small, 4.1) < 2 * NEWS_DELAY_S


def test_in_a_large_mesh_routes_are_computed_every_two_seconds_at_most() -> None:
    view = view_of(1000)
    computed = 0
    for tenth in range(90):
        view.merge(told(5, version=tenth + 2), NEIGHBOUR, tenth / 10)
        view.handle_timeout(tenth / 10)
        computed += view.take_recomputed()
    assert 4 <= computed <= 6


def links_with(*numbers: int, established: bool = True) -> dict[PeerName, Neighbour]:
    return {
        NAMES[number]: Neighbour(
            name=NAMES[number],
            uid=PeerUid(number),
            nickname="",
            address="",
            link=LinkId(number),
            established=established,
        )
        for number in numbers
    }


def run_until(view: View, now: float) -> None:
    while view.next_deadline().at <= now:
        at = view.next_deadline().at
        view.take_news(at)
        view.handle_timeout(at)


def test_many_new_links_are_few_versions_and_all_are_told_in_the_end() -> None:
    view = view_of(1000)
    for number in range(1, 101):
        run_until(view, number / 10)
        before, new = links_with(*range(1, number)), links_with(number, established=False)
        view.describe({**before, **new}, ("us:1",), number / 10)
        view.describe({**before, **links_with(number)}, ("us:1",), number / 10)
    run_until(view, 10.0 + MAX_LEISURE_S)
    assert view.ours.version <= 6
    told = view.topology.roster.names_of(view.ours.established)
    assert told == NAMES[1:101] == view.topology.roster.names_of(view.ours.control)


def in_a_busy_mesh() -> View:
    """With three links, having said so much lately that what can wait will."""
    view = view_of(1000)
    for number in range(1, 4):
        view.describe(links_with(*range(1, number + 1)), (), number / 1.0)
        run_until(view, number + 0.9)
    for number in range(4, 8):
        view.describe(links_with(1, 2, 3, number), (), float(number))
        view.describe(links_with(1, 2, 3), (), float(number))
    return view


def greeted(number: int, others: int) -> dict[PeerName, Neighbour]:
    neighbour = links_with(number)[NAMES[number]]
    neighbour.others = others
    return {NAMES[number]: neighbour}


def said_after_s(view: View, others: int) -> float:
    """How long until everybody is told of a link with somebody who has so many others."""
    view.describe({**links_with(1, 2, 3), **greeted(9, others)}, (), 10.0)
    while NAMES[9] not in view.topology.roster.names_of(view.ours.established):
        at = view.next_deadline().at
        view.take_news(at)
        view.handle_timeout(at)
    return at - 10.0


def test_a_link_with_somebody_who_has_no_other_is_told_before_one_with_somebody_who_has() -> None:
    assert said_after_s(in_a_busy_mesh(), others=0) <= MAX_SPACING_S
    assert said_after_s(in_a_busy_mesh(), others=50) > MAX_SPACING_S


def test_a_link_to_somebody_whom_nobody_else_reaches_is_told_in_time() -> None:
    """He has others, but these are in a half of the mesh that was cut off from ours."""
    assert said_after_s(in_a_busy_mesh(), others=50) <= CUT_OFF_S


def test_a_lost_link_is_said_at_once_and_counted_on_no_more() -> None:
    view = view_of(1000)
    view.describe(links_with(1, 2), (), 0.0)
    run_until(view, 20.0)
    version = view.ours.version
    assert list(view.routes.unicast_all)[:2] == NAMES[1:3]
    view.describe(links_with(1), (), 20.0)
    assert view.ours.version == version + 1
    assert view.topology.roster.names_of(view.ours.control) == [NAMES[1]]


def test_what_is_said_of_links_survives_that_peers_are_numbered_anew() -> None:
    view = view_of(100)
    view.describe(links_with(1), (), 0.0)
    run_until(view, 5.0)
    before = view.topology.roster
    view.describe(links_with(1, 50), (), 5.0)
    for step in range(1, 4):
        view.merge(told(*range(2, 100), version=step + 1), NEIGHBOUR, 5.0)
    view.topology.collect(NAMES[:60], 100.0)
    view.topology.collect(NAMES[:60], 120.0)
    assert view.topology.roster is not before
    run_until(view, 130.0)
    assert view.topology.roster.names_of(view.ours.control) == [NAMES[1], NAMES[50]]


def test_a_neighbour_whose_router_is_down_is_reached_no_more_though_nobody_is_told_yet() -> None:
    view = view_of(100)
    view.describe(links_with(1, 50), (), 0.0)
    run_until(view, 10.0)
    version = view.ours.version
    orphaned = links_with(1, 50)
    orphaned[NAMES[1]].link = None
    view.describe(orphaned, (), 10.0)
    run_until(view, 12.0)
    assert view.ours.version == version
    assert NAMES[1] not in view.routes.unicast_all
    assert NAMES[50] in view.routes.unicast_all
    assert NAMES[2] not in view.routes.unicast_all, "as all others compute it, over the first"
    run_until(view, 16.0)
    assert view.ours.version == version + 1
    assert view.routes.unicast_all[NAMES[2]] == NAMES[50]
