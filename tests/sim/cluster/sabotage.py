"""Deliberate mistakes in what a router does in a cluster: `python -m tests.sim.cluster.sabotage`.

Each is applied to the real core. A simulator that lets one of them pass is blind in that place.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from kube.core import membership, truth
from kube.core.membership import Look, Membership, Sight, Talk
from kube.core.objects import Node
from kube.core.register import FirstRing, Reclaimed, Register, encode, reclaimed_key
from tests.sim.cluster.plan import draw_plan
from tests.sim.cluster.run import run_plan
from weavepy.base.names import PeerName

FIRST_SEED = 5000
MAX_SEEDS = 20


@dataclass(frozen=True)
class Sabotage:
    what: str
    mistake: Callable[[], Any]
    """Returns a patch."""
    first_seed: int = FIRST_SEED
    """Where the hunt begins: a seed that shows it soon is known."""


def decides_anew() -> Any:
    judge = truth.judge

    def judged(register: Register, peer: PeerName, *rest: Any) -> Any:
        found = judge(replace(register, reclaimed={}), peer, *rest)
        return replace(found, version=None) if isinstance(found, truth.Write) else found

    return patch.multiple(truth, judge=judged, turn_s=lambda *_: 0.0)


def reclaims_who_is_down() -> Any:
    def is_gone(peer: PeerName, register: Register, node: Node | None) -> bool:
        return peer in register.homes

    return patch.multiple(truth, is_gone=is_gone, why_not_believed=lambda *_: "")


def reclaims_who_lives() -> Any:
    def take_turn(self: Membership) -> Talk[None]:
        sight: Sight = yield Look()
        register: Register = yield membership.ReadRegister()
        assert sight.nodes is not None
        for peer in truth.suspects(register.homes, (), register, sight.nodes):
            record = encode(Reclaimed(1, self._ourself))
            yield membership.WriteRegister({reclaimed_key(peer): record})

    return patch.object(Membership, "_take_turn", take_turn)


def decides_the_ring_alone() -> Any:
    def decide(self: Membership, ring: FirstRing, seen: Register) -> Talk[FirstRing | None]:
        register: Register = yield membership.WriteRegister({"ring": encode(ring)})
        yield from self._know(replace(register, ring=ring))
        return ring

    return patch.object(Membership, "_decide_ring", decide)


def is_not_on_record() -> Any:
    def keep(self: Membership, nodes: Mapping[str, Node], now: float) -> Talk[Register]:
        register: Register = yield membership.ReadRegister()
        yield from self._know(register)
        return register

    return patch.object(Membership, "_keep_register", keep)


def dials_nobody() -> Any:
    return patch.object(truth, "targets", lambda *_: ())


def forgets_the_dead() -> Any:
    return patch.object(truth, "suspects", lambda *_: [])


SABOTAGES: Sequence[Sabotage] = (
    Sabotage("a take-over that was decided is decided anew", decides_anew),
    Sabotage("a node that is down is taken for gone", reclaims_who_is_down),
    Sabotage("a node that lives is taken for gone", reclaims_who_lives),
    Sabotage("the first ring is written without comparing", decides_the_ring_alone, 5011),
    Sabotage("routers are not on record", is_not_on_record),
    Sabotage("nobody is dialled", dials_nobody),
    Sabotage("nobody is ever reclaimed", forgets_the_dead),
)


@contextmanager
def applied(sabotage: Sabotage) -> Iterator[None]:
    with sabotage.mistake():
        yield


def hunt(sabotage: Sabotage, max_seeds: int = MAX_SEEDS) -> tuple[int, str]:
    """How many seeds it took to find it (0: it was not), and what was seen then."""
    for tried in range(1, max_seeds + 1):
        plan = draw_plan(sabotage.first_seed + tried)
        with applied(sabotage):
            result = run_plan(plan)
        if result.failure and not run_plan(plan).failure:
            fits = not any(name in result.failure for name in ("TypeError", "AttributeError"))
            assert fits, f"{sabotage.what} does not fit the code any more: {result.failure}"
            return tried, result.failure
    return 0, ""


def main() -> int:
    missed = 0
    for sabotage in SABOTAGES:
        tried, seen = hunt(sabotage)
        missed += not tried
        print(f"{sabotage.what:48} {tried or 'NOT FOUND':>3}  {seen[:120]}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
