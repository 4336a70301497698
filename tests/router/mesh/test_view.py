"""When news is passed on and routes are computed: at once, and in a large mesh not too often."""

from random import Random

from router.mesh.clones import CloneWatch
from router.mesh.records import Record, Roster
from router.mesh.updates import encode_update
from router.mesh.view import NEWS_DELAY_S, SPACING_S, View
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
    assert abs(4.3 + news_comes_after_s(view, 4.3) - (first + 1000 * SPACING_S)) < 1e-9
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
