"""A chain of four hosts without discovery: the middle ones relay, broadcasts arrive once."""

import json

from tests.e2e.broadcasts import assert_each_broadcast_arrives_once
from tests.e2e.conftest import MakeLab
from tests.e2e.waiting import connection, route


def test_containers_at_both_ends_talk_through_the_relays(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=4, containers=2, topology="chain", launch_options=["--no-discovery"])

    result = lab.ping()
    assert len(result.pairs) == 8 * 7
    assert [pair for pair in result.pairs if not pair.ok] == []

    assert connection(lab, "h1", "h4") is None, "the ends have no link"
    assert route(lab, "h1", "h2") == "direct"
    assert route(lab, "h1", "h4") == "relayed via h2"
    assert route(lab, "h4", "h1") == "relayed via h3"
    report = lab.api("h1").report()
    towards = {to: via for to, via in report.routes.items() if "h4" in to}
    assert len(towards) == 1
    assert "h2" in next(iter(towards.values()))

    shown = lab.exec("h1", ["weavepy", "status", "peers", "--json"])
    assert "relayed via h2" in shown.stdout
    shown = lab.exec("h1", ["weavepy", "report", "--json"])
    assert json.loads(shown.stdout)["routes"] == report.routes

    assert_each_broadcast_arrives_once(lab)
