"""Lines that lose, repeat and reorder what passes (F13)."""

import time

from tests.e2e.conftest import MakeLab
from tests.e2e.traffic import Stream
from tests.e2e.waiting import connection, counted, wait_for
from weavepy.client import schema
from weavepy.lab.lab import Lab, LinkChange

BAD = LinkChange(loss=0.3, duplicate=0.5, reorder=0.5)
CONVERGED_S = 90.0


def test_a_mesh_converges_over_lines_that_lose_repeat_and_reorder(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=3, containers=1)
    for link in lab.plan.links:
        lab.link(f"h{link.low}", f"h{link.high}", BAD)
    lab.router("h2", "stop")
    began = time.monotonic()
    lab.router("h2", "start")
    wait_for(lambda: unconnected(lab), lambda seen: not seen, CONVERGED_S)
    print(f"a router that starts is connected to all after {time.monotonic() - began:.1f} s")

    # Until ARP is through, which takes seconds here, the kernel drops what it cannot queue.
    wait_for(lambda: lab.ping(count=3).ok, bool, 30)
    with Stream(lab, "h1c1", "h3c1", rate=400, size=800) as arrivals:
        time.sleep(8.0)
    received = len(arrivals.counts) / arrivals.sent
    drops = counted(session_drops(lab, "h3", "h1"))
    print(f"received {received:.3f}; {drops}")
    assert arrivals.duplicated == []
    # Each copy is lost by itself: 0.5 * 0.3 + 0.5 * 0.3 * 0.3 of the datagrams are, and more
    # while routes change.
    assert 0.65 < received < 0.86
    assert drops["replayed"] > 0.15 * arrivals.sent, "of 0.5 * 0.7 * 0.7 two copies came"
    assert "not-authentic" not in drops

    for link in lab.plan.links:
        lab.link(f"h{link.low}", f"h{link.high}", LinkChange(loss=0, duplicate=0, reorder=0))
    wait_for(lambda: lab.ping(count=1).ok, bool, 20)


def test_what_is_only_repeated_and_reordered_all_arrives_once(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=2, containers=1)
    lab.link("h1", "h2", LinkChange(duplicate=0.5, reorder=0.5))
    with Stream(lab, "h1c1", "h2c1", rate=2000, size=300) as arrivals:
        time.sleep(5.0)
    assert arrivals.lost == []
    assert arrivals.duplicated == []


def unconnected(lab: Lab) -> list[str]:
    missing = []
    for one in ("h1", "h2", "h3"):
        for other in ("h1", "h2", "h3"):
            found = connection(lab, one, other) if one != other else None
            if one != other and (found is None or found.state != "established"):
                missing.append(f"{one}-{other}")
    return missing


def session_drops(lab: Lab, host: str, peer: str) -> list[schema.CounterStatus]:
    for session in lab.api(host).status().datapath.sessions:
        if session.nickname == peer:
            return session.drops
    raise AssertionError(f"{host} has no session with {peer}")
