"""Does a broadcast of any container reach each other container, and no more than once?"""

from tests.e2e.traffic import ArpCounter
from weavepy.lab.lab import Lab

QUESTIONS = 10
"""From each container."""


def assert_each_broadcast_arrives_once(lab: Lab) -> None:
    """At every container but the one that sent it."""
    containers = [node.name for node in lab.plan.container_nodes]
    questions = [f"10.47.254.{number}" for number in range(1, QUESTIONS + 1)]
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
