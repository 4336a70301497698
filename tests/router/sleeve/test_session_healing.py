"""However deaf two ends became to each other, they find back by themselves, within seconds."""

from random import Random

import pytest

from router.sleeve.epochs import MAX_EPOCHS
from router.sleeve.negotiation import REOPEN_S
from tests.router.sleeve.routers import CONTROL_DELAY_S, RECONNECT_S, Router, Routers
from tests.router.sleeve.virtual import Network, Side

ALONE_WITHIN_S = 8.0
"""Without routers: to notice (4.5 s), to ask on every epoch and at every address (1 s each)."""

WITH_ROUTERS_WITHIN_S = REOPEN_S + RECONNECT_S + 4 * CONTROL_DELAY_S + 5.0
"""Also when there is nothing left to ask on; the rest is for a session to be found dead."""


def both_up(network: Network) -> bool:
    return network.a.session.up and network.b.session.up


def seconds_until_up(network: Network, limit_s: float) -> float:
    began = network.now
    while not both_up(network):
        network.run(0.1, lambda: None)
        assert network.now - began <= limit_s, f"still deaf after {limit_s:g} s"
    return network.now - began


def forget(network: Network, side: Side, secret: bytes) -> None:
    """This end drops an epoch, as if it had expired or made room."""
    epochs = side.session._keying.epochs
    (doomed,) = [one for one in epochs if one.secret == secret]
    epochs.remove(doomed)
    del side.listening[doomed.receive.local_index]


def install_crosswise(network: Network) -> tuple[bytes, bytes]:
    """Two more epochs, learnt in different orders, so that each end sends on another one."""
    first, second = network.epochs(), network.epochs()
    for side, order in ((network.a, (first[0], second[0])), (network.b, (second[1], first[1]))):
        for epoch in order:
            network.perform(side, side.session.install(epoch, None, network.now))
    network.run(3)
    return first[0].secret, second[0].secret


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_two_ends_that_each_send_on_what_the_other_dropped_find_the_epoch_that_both_have(loss):
    network = Network()
    network.install()
    network.run(2)
    first, second = install_crosswise(network)
    # a sends on the second, b on the first; what is left to both is the epoch of the beginning.
    forget(network, network.a, first)
    forget(network, network.b, second)
    network.loss = loss
    network.run(5, step_s=0.1, every=lambda: None)
    seconds_until_up(network, ALONE_WITHIN_S * (1 if not loss else 2))
    network.loss = 0.0
    network.run(2)
    for side, other in ((network.a, network.b), (network.b, network.a)):
        assert side.session.sending.remote_index in other.listening
    assert both_up(network)


@pytest.mark.parametrize("only", ["a", "b"])
def test_an_end_that_learns_many_epochs_alone_keeps_the_one_that_works(only):
    network = Network()
    network.install()
    network.run(2)
    network.drop = lambda sent: True
    for _ in range(3 * MAX_EPOCHS):
        network.install(only)
        network.run(1)
    network.drop = lambda sent: False
    seconds_until_up(network, ALONE_WITHIN_S)


def test_an_outage_in_one_direction_costs_neither_end_what_the_other_uses():
    network = Network()
    network.install()
    network.run(2)
    network.drop = lambda sent: sent.source == "a"
    for _ in range(3 * MAX_EPOCHS):
        network.install()
        network.run(20)
    network.drop = lambda sent: sent.source == "b"
    for _ in range(3 * MAX_EPOCHS):
        network.install("b")
        network.run(20)
    network.drop = lambda sent: False
    seconds_until_up(network, ALONE_WITHIN_S)


def test_a_record_held_back_from_an_earlier_address_leads_astray_for_seconds_at_most():
    network = Network()
    stale = ("192.0.2.77", 7)
    a, b = network.a, network.b
    for side, epoch in zip((a, b), network.epochs(), strict=True):
        network.perform(side, side.session.install(epoch, None, network.now))
    network.run(2)
    assert both_up(network)
    # Both ends hear something genuine from where the other no longer is, and nothing else.
    for side in (a, b):
        (epoch,) = side.listening.values()
        top = epoch.window.highest + 1
        epoch.window.accept(top)
        network.perform(side, side.session.handle_authentic(epoch, top, stale, network.now))
        assert side.session.endpoint == stale
    seconds_until_up(network, ALONE_WITHIN_S)
    network.run(ALONE_WITHIN_S)
    assert both_up(network)
    assert a.session.endpoint == b.address
    assert b.session.endpoint == a.address


class Chaos:
    """Two hosts, each with router and datapath; everything that can befall them, at random."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.network = Network(seed=seed, duplicates=0.05, jitter_s=0.05)
        self.routers = Routers(self.network, seed)
        self.numbers = {"a": 0, "b": 0}

    def step(self) -> None:
        self.routers.step()
        for side in (self.network.a, self.network.b):
            if not side.frozen and self.network.send_frame(side, self.numbers[side.name]):
                self.numbers[side.name] += 1

    def disturb(self) -> None:
        network, routers, rng = self.network, self.routers, self.rng
        side = rng.choice((network.a, network.b))
        router = routers.of(side)
        match rng.randrange(10):
            case 0:
                network.loss = rng.choice((0.0, 0.1, 0.5, 1.0))
            case 1:
                side.address = (f"192.0.2.{rng.randrange(1, 250)}", rng.randrange(1024, 65536))
                routers.disconnect()
            case 2:
                network.freeze(side)
            case 3:
                network.thaw_all()
            case 4:
                blocked = side.name
                network.drop = lambda sent: sent.source == blocked
            case 5:
                network.drop = lambda sent: False
            case 6:
                side.skew_s += rng.choice((0.5, 5.0, 60.0, 3600.0))
            case 7:
                self.restart_router(router)
            case 8:
                routers.restart_datapath(router)
            case 9:
                routers.control_works = not routers.control_works
                routers.disconnect()

    def restart_router(self, router: Router) -> None:
        if router.negotiator is None:
            self.routers.start(router)
        else:
            self.routers.kill(router)

    def make_peace(self) -> None:
        self.network.thaw_all()
        self.network.loss, self.network.drop = 0.0, lambda sent: False
        self.routers.control_works = True
        for router in (self.routers.a, self.routers.b):
            if router.negotiator is None:
                self.routers.start(router)


@pytest.mark.parametrize("seed", range(12))
def test_with_routers_that_live_two_hosts_talk_again_whatever_befell_them(seed):
    chaos = Chaos(seed)
    network = chaos.network
    for _ in range(50):
        chaos.disturb()
        network.run(chaos.rng.choice((0.1, 0.7, 3.0, 20.0)), chaos.step, step_s=0.1)
    chaos.make_peace()
    began = network.now
    while not both_up(network):
        network.run(0.1, chaos.step, step_s=0.05)
        assert network.now - began <= WITH_ROUTERS_WITHIN_S, "still deaf"
    network.run(30, chaos.step, step_s=0.1)
    assert both_up(network)
    before = dict(chaos.numbers)
    network.run(30, chaos.step, step_s=0.1)
    last = dict(chaos.numbers)
    network.run(1)
    assert set(network.b.delivered) >= set(range(before["a"], last["a"]))
    assert set(network.a.delivered) >= set(range(before["b"], last["b"]))
