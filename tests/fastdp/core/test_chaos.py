"""Anything may happen to two hosts, in any order; when it stops, they find the tunnel again.

`World.check` looks after every event whether a broadcast could go twice; the driver's model
asserts that no tunnel is removed while it carries. `FASTDP_SEEDS=1000` runs more of them.
"""

import os
from collections.abc import Callable
from random import Random

import pytest

from tests.fastdp.core.virtual import World

SEEDS = int(os.environ.get("FASTDP_SEEDS", "40"))
STEPS = 60

QUIET_S = 640.0
"""Longer than the longest hold-down, and a repair."""


@pytest.mark.parametrize("seed", range(SEEDS))
def test_whatever_happens_no_broadcast_goes_twice_and_the_tunnel_comes_back(seed: int) -> None:
    rng = Random(seed)
    world = World(seed)
    world.driver_delay_s = rng.choice([0.001, 0.02, 0.3])
    world.up()
    for _ in range(STEPS):
        rng.choice(HAPPENINGS)(world, rng)
        world.advance(rng.choice([0.0, 0.05, 0.5, 2.0, 6.0]))

    world.blocked, world.loss = [False, False], 0.0
    for host in world.hosts:
        host.device_error = ""
        if host.paths is None:
            world.start_router(host.index)
        if not host.datapath:
            world.new_datapath(host.index)
    world.disconnect()
    world.connect()
    world.session_up()
    world.advance(QUIET_S)
    assert world.both_carry(), [(world.row(index), world.hosts[index].log) for index in (0, 1)]
    for host in world.hosts:
        assert len(host.tunnels) == len(host.fast) == 1

    world.disconnect(left=True)
    world.session_down()
    world.advance(6)
    for host in world.hosts:
        assert host.paths is not None
        assert (host.tunnels, host.fast, host.carrying) == ({}, (), {})
        assert host.paths.rows(world.now) == []


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_lossy_path_is_dead_within_bounds_once_nothing_passes(seed: int) -> None:
    rng = Random(seed)
    world = World(seed)
    world.loss = 0.1
    world.up()
    world.advance(rng.uniform(10, 60))
    world.blocked[rng.randrange(2)] = True
    world.advance(4.5)
    assert not world.is_carrying(0)
    assert not world.is_carrying(1)


def _block(world: World, rng: Random) -> None:
    world.blocked[rng.randrange(2)] = rng.random() < 0.6


def _lose(world: World, rng: Random) -> None:
    world.loss = rng.choice([0.0, 0.05, 0.4])


def _router(world: World, rng: Random) -> None:
    index = rng.randrange(2)
    if world.hosts[index].paths is None:
        world.start_router(index)
        world.connect()
    else:
        world.kill_router(index)


def _datapath(world: World, rng: Random) -> None:
    index = rng.randrange(2)
    if world.hosts[index].datapath:
        world.lose_datapath(index)
    else:
        world.new_datapath(index)


def _session(world: World, rng: Random) -> None:
    if world.hosts[0].session:
        world.session_down()
    else:
        world.session_up()


def _connection(world: World, rng: Random) -> None:
    if world.hosts[0].connected:
        world.disconnect(left=rng.random() < 0.3)
    elif all(host.paths is not None for host in world.hosts):
        world.connect()


def _device(world: World, rng: Random) -> None:
    world.hosts[rng.randrange(2)].device_error = rng.choice(["", "", "No such device"])


def _relays(world: World, rng: Random) -> None:
    index = rng.randrange(2)
    if world.hosts[index].paths is not None:
        world.tell_routes(index, relays=rng.random() < 0.5)


HAPPENINGS: tuple[Callable[[World, Random], None], ...] = (
    _block,
    _block,
    _lose,
    _router,
    _router,
    _datapath,
    _session,
    _connection,
    _device,
    _relays,
)
