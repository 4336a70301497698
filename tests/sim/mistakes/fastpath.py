"""Mistakes on the fast path, as patches of the real cores."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from fastdp.core import paths
from fastdp.core.choice import Choice
from fastdp.core.effects import AdoptedTunnel
from fastdp.core.health import Health
from fastdp.core.path import Path
from fastdp.core.paths import FastPaths
from router.overlay.switch import Switch


def tunnel_given_up_without_draining() -> Sequence[Any]:
    """The datapath begins to send what it still finds in the TAP's queue."""
    return [patch.object(paths, "DRAIN_S", 0.0)]


def dead_tunnels_are_believed() -> Sequence[Any]:
    return [patch.object(Health, "is_dead", lambda health, now: False)]


def our_own_heartbeats_need_no_answer() -> Sequence[Any]:
    return [patch.object(Health, "is_heard", lambda health, now: True)]


def one_offer_per_peer() -> Sequence[Any]:
    """A peer whose router was restarted never hears our token."""
    offer_to = Choice.offer_to
    told: set[tuple[int, str]] = set()

    def offer(choice: Choice, path: Path, now: float) -> list[Any]:
        key = id(choice), path.peer
        effects = [] if key in told else offer_to(choice, path, now)
        if effects:
            told.add(key)
        return effects

    return [patch.object(Choice, "offer_to", offer)]


def adopted_tunnels_are_taken_for_idle() -> Sequence[Any]:
    adopt = FastPaths._adopt

    def adopted(paths: FastPaths, found: AdoptedTunnel, now: float) -> None:
        adopt(paths, replace(found, carrying=False), now)

    return [patch.object(FastPaths, "_adopt", adopted)]


def relayed_copies_are_delivered() -> Sequence[Any]:
    return [patch.object(Switch, "may_come_twice", lambda switch, source, now: False)]


def silent_tunnels_are_not_noticed() -> Sequence[Any]:
    arranged = FastPaths.handle_arranged

    def deaf(paths: FastPaths, errors: Any, error: str, now: float, silent: Any = ()) -> Any:
        return arranged(paths, errors, error, now)

    return [patch.object(FastPaths, "handle_arranged", deaf)]
