"""What befalls a cluster, drawn from a seed: nodes come, are upgraded, reboot, die, are deleted and
come back, while the API server has bad days.

Nodes are deleted only after they died, or for a moment while they are well reached: what cuts a
node off that lives and deletes it as well is what nobody can save it from (docs/believe.md).
"""

from dataclasses import dataclass
from random import Random

FAULTS_S = (60.0, 180.0)

NODE_KINDS = {
    "upgrade": 6,  # its pod is replaced: router and datapath end, and begin anew
    "kill": 3,
    "crash": 3,
    "reboot": 3,
    "die": 4,  # the machine is gone, its object is deleted, and perhaps it comes back
    "replace": 3,  # a new machine of its name
    "delete": 2,  # by mistake: its kubelet registers it again
    "pause": 2,
    "cut": 2,
}
SERVER_KINDS = {"outage": 3, "hang": 2, "slow": 2, "flaky": 2, "lose": 3, "forget": 2}
WORK_KINDS = {"attach": 5, "detach": 3}


@dataclass(frozen=True, order=True)
class Step:
    at: float
    kind: str
    node: int = 0
    duration_s: float = 0.0
    number: int = 0

    def __str__(self) -> str:
        return (
            f"{self.at:8.3f}  {self.kind:<8} node {self.node + 1} for {self.duration_s:.2f} s,"
            f" number {self.number}"
        )


@dataclass(frozen=True)
class Plan:
    seed: int
    nodes: int
    prefix_length: int
    connection_limit: int
    joins: tuple[float, ...]
    """When each node is there."""
    latency_s: float
    server_latency_s: float
    faults_s: float
    steps: tuple[Step, ...]
    rolling: float
    """When a rolling upgrade begins, one node after another."""


def draw_plan(seed: int) -> Plan:
    rng = Random(f"{seed} cluster plan")
    nodes = rng.choice((3, 3, 4, 4, 5, 6, 8))
    faults_s = rng.uniform(*FAULTS_S)
    together = rng.random() < 0.3
    joins = [rng.uniform(0.0, 1.0 if together else 30.0) for _ in range(nodes)]
    steps = [
        *_draw(rng, NODE_KINDS, nodes, faults_s, rng.randrange(2, 10)),
        *_draw(rng, SERVER_KINDS, nodes, faults_s, rng.randrange(0, 5)),
        *_draw(rng, WORK_KINDS, nodes, faults_s, rng.randrange(5, 40)),
    ]
    return Plan(
        seed=seed,
        nodes=nodes,
        prefix_length=rng.choice((24, 26, 26, 28)),
        connection_limit=rng.choice((2, 100, 100)),
        joins=tuple(joins),
        latency_s=rng.choice((0.0005, 0.005, 0.03)),
        server_latency_s=rng.choice((0.005, 0.05, 0.3)),
        faults_s=faults_s,
        steps=tuple(sorted(steps)),
        rolling=rng.uniform(20.0, faults_s),
    )


def _draw(rng: Random, kinds: dict[str, int], nodes: int, until_s: float, count: int) -> list[Step]:
    names, weights = list(kinds), list(kinds.values())
    return [
        Step(
            at=rng.uniform(2.0, until_s),
            kind=rng.choices(names, weights)[0],
            node=rng.randrange(nodes),
            duration_s=rng.choice((0.5, 2.0, 5.0, 12.0, 30.0)),
            number=rng.randrange(1000),
        )
        for _ in range(count)
    ]
