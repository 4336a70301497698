"""Three peers, four addresses, and every order in which a few things can happen.

Nothing is left to chance, and nothing is left out: from each state of the world every event that
is possible leads to another, until there is none that was not gone on from. What bounds a world is
how often each kind of event may happen in it; deliveries of messages are not bounded. Time passes,
six seconds at once, only while nothing is on its way. In every state all the rings together tile
the universe, and whoever is given an address owns it by what all of them know together. There is
one exception, of which the operator is warned: what a dead peer's containers run with.

Peers are not taken for each other: their names decide ties, and their shares differ.
"""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack

import pytest

from tests.ipam.core.small_worlds import Event, Explorer, World
from tests.sim.mistakes.ring import (
    merge_prefers_the_older,
    restart_is_not_checked,
    version_not_raised,
)

SMALL = {
    "claims and donations": {"allocate": 4},
    "releases and gossip": {"allocate": 3, "release": 1, "gossip": 1},
    "a crash": {"allocate": 2, "crash": 1},
    "a crash and time": {"allocate": 1, "crash": 1, "wait": 1},
    "a take-over": {"crash": 1, "take over": 1, "wait": 1},
    "a take-over amid requests": {"allocate": 1, "crash": 1, "take over": 1},
    "a taker that crashes": {"crash": 2, "take over": 1},
    "two takers": {"crash": 1, "take over": 2},
}
LARGE = {
    "two requests, a crash and time": {"allocate": 2, "crash": 1, "wait": 1},
    "a take-over amid requests and time": {"allocate": 1, "crash": 1, "take over": 1, "wait": 1},
    "a taker that crashes and time": {"crash": 2, "take over": 1, "wait": 1},
}


def explore(left: dict[str, int]) -> int:
    """Returns how many states there are."""
    explorer = Explorer()
    first = explorer.begun(left)
    came_by: dict[World, tuple[World, Event] | None] = {first: None}
    todo = deque([first])
    steps = 0
    while todo:
        world = todo.popleft()
        for event in explorer.events(world):
            steps += 1
            try:
                following = explorer.after(world, event)
                explorer.check(following)
            except AssertionError as error:
                path = [*_path(came_by, world), event]
                raise AssertionError(f"after {path}: {error}") from error
            if following not in came_by:
                came_by[following] = world, event
                todo.append(following)
    print(
        f"{len(came_by)} states, {steps} steps, {len(todo)} left;"
        f" {len(explorer.peers)} states of single peers"
    )
    return len(came_by)


def _path(came_by: dict[World, tuple[World, Event] | None], world: World) -> list[Event]:
    path: list[Event] = []
    while (before := came_by[world]) is not None:
        world, event = before
        path.insert(0, event)
    return path


@pytest.mark.parametrize("left", SMALL.values(), ids=SMALL.keys())
def test_nothing_that_can_happen_breaks_the_ring(left: dict[str, int]) -> None:
    assert explore(left) > 1_000


@pytest.mark.parametrize(
    ("mistake", "world"),
    [
        (merge_prefers_the_older, "claims and donations"),
        (version_not_raised, "claims and donations"),
        (restart_is_not_checked, "a take-over amid requests"),
    ],
)
def test_a_deliberate_mistake_is_found(
    mistake: Callable[[], Sequence[AbstractContextManager[object]]], world: str
) -> None:
    with ExitStack() as stack, pytest.raises(AssertionError, match="after "):
        for one in mistake():
            stack.enter_context(one)
        explore(SMALL[world])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("left", LARGE.values(), ids=LARGE.keys())
def test_nothing_that_can_happen_in_a_larger_world_breaks_the_ring(left: dict[str, int]) -> None:
    assert explore(left) > 50_000
