"""A chain of four hosts without discovery: the middle ones relay, broadcasts arrive once."""

import json

from tests.e2e.conftest import MakeLab
from tests.e2e.traffic import ArpCounter
from tests.e2e.waiting import connection, route
from weavepy.lab.lab import Lab

REQUESTS = 10
"""From each container."""


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

    _assert_each_broadcast_arrives_once(lab)


def _assert_each_broadcast_arrives_once(lab: Lab) -> None:
    containers = [node.name for node in lab.plan.container_nodes]
    questions = [f"10.47.254.{number}" for number in range(1, REQUESTS + 1)]
    counter = ArpCounter(lab, containers)
    try:
        for address in questions:
            for source in containers:
                counter.ask(source, address)
            counter.collect(0.2)
        counter.collect(1.0)
        wrong = {
            (source, container, address): count
            for source in containers
            for container in containers
            for address in questions
            if source != container
            if (count := counter.received(container, source, address)) != 1
        }
        assert wrong == {}
        echoed = {
            (source, address): count
            for source in containers
            for address in questions
            if (count := counter.received(source, source, address)) != 0
        }
        assert echoed == {}, "a broadcast came back to where it began"
    finally:
        counter.close()
