"""Two ends agree on ESP's keys and renew them; nobody sends by what the other cannot receive."""

import os
from random import Random

import pytest

from fastdp.core.effects import AddAssociation, KeepAssociations, TellPeer
from fastdp.core.esp import (
    MAX_RECEIVING,
    OLD_S,
    REKEY_S,
    Ends,
    KeyExchange,
    derive_keys,
    largest_mtu,
    packet_bytes,
)
from fastdp.core.messages import Answer, Propose, Renew, decode_message, encode_message
from fastdp.core.policy import Policy
from tests.fastdp.core.virtual import CLEAR, ESP, HOSTS, NAMES, NO_ESP, SECRET, TRUSTING, World
from weavepy.base.errors import ProtocolError

UP_WITHIN_S = 8.0


def running(policies: tuple[Policy, Policy] = (ESP, ESP), rekey_s: float = REKEY_S) -> World:
    world = World(3, policies)
    world.rekey_s = rekey_s
    world.up()
    world.advance(UP_WITHIN_S)
    return world


def spis(world: World) -> tuple[set[int], ...]:
    return tuple(set(it) for host in world.hosts for it in (host.receiving, host.sending))


def test_an_encrypted_mesh_uses_the_tunnel_in_esp() -> None:
    world = running()
    assert world.both_carry()
    one, other = world.hosts
    assert all(tunnel.encrypted for host in world.hosts for tunnel in host.tunnels.values())
    assert one.sending.items() == other.receiving.items()
    assert other.sending.items() == one.receiving.items()
    assert len({*one.sending.values(), *other.sending.values()}) == 2
    assert one.paths is not None
    assert one.paths.rows(world.now)[0].encrypted


def test_keys_are_renewed_and_nothing_is_undeliverable_meanwhile() -> None:
    world = running(rekey_s=20)
    first = spis(world)
    world.advance(20)
    renewed = spis(world)
    assert all(old.isdisjoint(new) for old, new in zip(first[1::2], renewed[1::2], strict=True))
    assert all(len(receiving) == 2 for receiving in renewed[0::2]), "the earlier one stays a while"
    world.advance(OLD_S + 0.6)
    assert all(len(each) == 1 for each in spis(world))
    world.advance(300)
    assert world.both_carry()
    assert world.undeliverable == 0
    assert all(host.carries == 1 for host in world.hosts)


def test_without_a_control_connection_the_keys_go_on() -> None:
    world = running(rekey_s=5)
    world.disconnect()
    before = spis(world)
    world.advance(100)
    assert spis(world)[1::2] == before[1::2]
    assert world.both_carry()
    world.connect()
    world.advance(2)
    assert spis(world)[1] != before[1]


@pytest.mark.parametrize("index", [0, 1])
def test_a_router_that_is_killed_and_restarted_loses_nothing_and_takes_new_keys(index: int) -> None:
    world = running()
    before = spis(world)
    world.kill_router(index)
    world.advance(2)
    world.start_router(index)
    world.connect()
    world.advance(OLD_S + 2)
    assert world.both_carry()
    assert world.undeliverable == 0
    after = spis(world)
    assert all(len(each) == 1 for each in after), "those of the router before are gone"
    assert all(old.isdisjoint(new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("index", [0, 1])
def test_associations_that_others_remove_are_made_anew(index: int) -> None:
    world = running()
    world.hosts[index].receiving.clear()
    world.hosts[index].sending.clear()
    world.advance(10)
    assert all(len(host.sending) == 1 for host in world.hosts)
    assert world.hosts[0].sending.keys() <= world.hosts[1].receiving.keys()
    assert world.hosts[1].sending.keys() <= world.hosts[0].receiving.keys()
    world.advance(20)
    assert world.both_carry()


def test_what_the_kernel_refuses_is_said_and_tried_again() -> None:
    world = World(3, (ESP, ESP))
    world.hosts[1].association_error = "no AES here"
    world.up()
    world.advance(UP_WITHIN_S)
    assert world.row(1) == ("trying", "no ESP: no AES here")
    assert not world.both_carry()
    world.hosts[1].association_error = ""
    world.advance(2 * UP_WITHIN_S)
    assert world.both_carry()


def test_trusted_subnets_stay_in_clear_and_one_that_is_wary_is_enough_for_esp() -> None:
    trusting = Policy("auto", encrypted=True, trusted=TRUSTING.trusted, no_esp="")
    for policies, encrypted in (
        ((trusting, trusting), False),
        ((trusting, ESP), True),
        ((ESP, trusting), True),
        ((CLEAR, CLEAR), False),
    ):
        world = running(policies)
        assert world.both_carry()
        for host in world.hosts:
            assert [tunnel.encrypted for tunnel in host.tunnels.values()] == [encrypted]
            assert bool(host.sending) == encrypted


def test_a_kernel_without_esp_is_named_on_both_ends() -> None:
    world = running((ESP, NO_ESP))
    assert not any(host.tunnels for host in world.hosts)
    assert "the other end does not want a fast path: " in world.row(0)[1]
    assert "this kernel has no ESP" in world.row(0)[1]
    assert world.row(1)[1].startswith("encrypted mesh: VXLAN is clear text, this kernel has no ESP")
    world = running((ESP, TRUSTING))
    assert not any(host.tunnels for host in world.hosts)
    assert world.row(0)[1].endswith(f"({HOSTS[1]} has no ESP)")


def test_an_adopted_tunnel_is_held_to_what_the_mesh_is_now() -> None:
    """An insecure mesh becomes an encrypted one: nothing may go in clear for a moment more."""
    world = running((CLEAR, CLEAR))
    for index in (0, 1):
        world.kill_router(index)
        world.hosts[index].policy = ESP
    for index in (0, 1):
        world.start_router(index)
    world.advance(0.2)
    assert all(tunnel.encrypted for host in world.hosts for tunnel in host.tunnels.values())


@pytest.mark.parametrize("seed", range(int(os.environ.get("FASTDP_SEEDS", "40"))))
def test_whoever_sends_is_understood_whatever_happens_to_routers_and_connections(seed: int) -> None:
    rng = Random(seed)
    world = World(seed, (ESP, ESP))
    world.rekey_s = rng.choice([1.0, 5.0, 30.0])
    world.driver_delay_s = rng.choice([0.001, 0.02, 0.3])
    world.up()
    world.advance(rng.uniform(2, 10))
    for _ in range(40):
        happening = rng.randrange(4)
        index = rng.randrange(2)
        if happening == 0:
            world.disconnect()
        elif happening == 1 and all(host.paths is not None for host in world.hosts):
            world.connect()
        elif happening == 2:
            world.kill_router(index)
        elif world.hosts[index].paths is None:
            world.start_router(index)
        world.hosts[index].association_error = rng.choice(["", "", "no memory"])
        world.advance(rng.choice([0.0, 0.002, 0.01, 0.1, 1.0, 12.0]))
    assert world.undeliverable == 0

    for host in world.hosts:
        host.association_error = ""
        if host.paths is None:
            world.start_router(host.index)
    world.disconnect()
    world.connect()
    world.advance(30)
    assert world.undeliverable == 0
    assert all(1 <= len(host.sending) <= 2 for host in world.hosts)
    assert all(len(host.receiving) <= 2 + 12 / world.rekey_s for host in world.hosts)


@pytest.mark.parametrize(("version", "largest"), [(4, 1416), (6, 1396)])
def test_the_largest_packets_fit_the_underlay(version: int, largest: int) -> None:
    assert largest_mtu(1500, version) == largest
    assert packet_bytes(largest, version) == 1500
    assert packet_bytes(largest + 1, version) == 1504


def test_an_overlay_mtu_that_does_not_fit_is_said() -> None:
    world = World(3, (ESP, ESP))
    world.underlay_mtu_bytes = 1470
    world.up()
    world.advance(UP_WITHIN_S)
    assert world.row(0) == (
        "sleeve",
        (
            "ESP makes packets of the overlay's MTU of 1400 too large for the underlay's of 1470:"
            " --mtu 1386"
        ),
    )


# --- one end alone -------------------------------------------------------------------------------

TUNNEL = Ends(22, HOSTS[0], HOSTS[1])


def an_end(opens: bool, secret: bytes = SECRET) -> KeyExchange:
    end = KeyExchange(NAMES[1], opens=opens, rng=Random(5))
    end.handle_tunnel(TUNNEL, 0.0)
    end.handle_connected(secret, 0.0)
    return end


def proposed(end: KeyExchange) -> Propose:
    (told,) = end.handle_timeout(100.0)
    assert isinstance(told, TellPeer)
    message = decode_message(told.payload)
    assert isinstance(message, Propose)
    return message


def test_only_what_is_in_the_kernel_is_told_and_only_then_sent_by() -> None:
    opener = an_end(opens=True)
    asked = proposed(opener)
    answerer = an_end(opens=False)

    (added,) = answerer.handle_message(asked, 100.0)
    assert isinstance(added, AddAssociation)
    assert (added.association.local_host, added.association.spi) != ("", asked.spi)
    (told,) = answerer.handle_added(added.association.spi, "", 100.0)
    assert isinstance(told, TellPeer)
    answer = decode_message(told.payload)
    assert isinstance(answer, Answer)

    (receiving,) = opener.handle_message(answer, 100.0)
    assert isinstance(receiving, AddAssociation)
    assert receiving.association.spi == asked.spi
    (sending,) = opener.handle_added(asked.spi, "", 100.0)
    assert isinstance(sending, AddAssociation)
    assert (sending.association.spi, sending.association.local_host) == (answer.spi, "")
    assert sending.association.key == added.association.key
    kept, confirm = opener.handle_added(answer.spi, "", 100.0)
    assert isinstance(kept, KeepAssociations)
    assert (set(kept.sending), kept.receiving) == ({answer.spi}, None)
    assert isinstance(confirm, TellPeer)

    (sent,) = answerer.handle_message(decode_esp(confirm), 100.0)
    assert isinstance(sent, AddAssociation)
    assert (sent.association.spi, sent.association.key) == (asked.spi, receiving.association.key)


def decode_esp(told: TellPeer) -> Propose | Answer:
    return decode_message(told.payload)  # type: ignore[return-value]  # whatever it is


def test_proposals_without_end_do_not_fill_the_kernel() -> None:
    answerer = an_end(opens=False)
    answerer.handle_found(frozenset({300, 301}), frozenset(), 0.0)
    kept: tuple[int, ...] = ()
    for number in range(100):
        effects = answerer.handle_message(Propose(number.to_bytes(32, "big"), 400), 1.0)
        (added,) = (it for it in effects if isinstance(it, AddAssociation))
        for effect in answerer.handle_added(added.association.spi, "", 1.0):
            if isinstance(effect, KeepAssociations):
                kept = effect.receiving or ()
    assert len(set(kept)) == MAX_RECEIVING
    assert 300 not in kept


def test_ends_that_speak_of_different_handshakes_install_nothing() -> None:
    opener, answerer = an_end(opens=True), an_end(opens=False, secret=b"another" * 5)
    (added,) = answerer.handle_message(proposed(opener), 100.0)
    assert isinstance(added, AddAssociation)
    (told,) = answerer.handle_added(added.association.spi, "", 100.0)
    assert isinstance(told, TellPeer)
    with pytest.raises(ProtocolError, match="other keys"):
        opener.handle_message(decode_esp(told), 100.0)


def test_an_answerer_with_another_tunnel_asks_for_keys() -> None:
    answerer = an_end(opens=False)
    other = Ends(22, HOSTS[0], "10.0.0.9")
    (told,) = answerer.handle_tunnel(other, 1.0)
    assert isinstance(told, TellPeer)
    assert decode_message(told.payload) == Renew()
    opener = an_end(opens=True)
    proposed(opener)
    assert opener.handle_message(Renew(), 100.0) == [], "not again at once"
    assert len(opener.handle_timeout(101.0)) == 1


def test_answers_to_what_was_given_up_are_nothing() -> None:
    opener = an_end(opens=True)
    proposed(opener)
    late = Answer(b"l" * 32, b"n" * 32, 300, b"p" * 16)
    assert opener.handle_message(late, 1.0) == []
    assert opener.handle_added(300, "", 1.0) == []
    assert an_end(opens=False).handle_message(late, 1.0) == []


def test_keys_are_of_one_purpose_and_known_to_both() -> None:
    ours = derive_keys(SECRET, b"a" * 32, b"b" * 32, opens=True)
    theirs = derive_keys(SECRET, b"b" * 32, b"a" * 32, opens=False)
    assert (ours.sending, ours.receiving) == (theirs.receiving, theirs.sending)
    assert (ours.our_proof, ours.their_proof) == (theirs.their_proof, theirs.our_proof)
    assert len({ours.sending, ours.receiving, ours.our_proof, ours.their_proof}) == 4
    assert ours != derive_keys(SECRET, b"c" * 32, b"b" * 32, opens=True)
    assert ours.sending.hex() == (
        "390a167ff7ea10715fd56052b16092713e0f80268ac1aa04490e093820f5a04cdbc55d4b"
    )


def test_no_key_is_shown() -> None:
    answerer = an_end(opens=False)
    (added,) = answerer.handle_message(Propose(b"n" * 32, 256), 0.0)
    assert isinstance(added, AddAssociation)
    key = added.association.key
    shown = repr(added)
    assert repr(key) not in shown
    assert key.hex() not in shown
    assert encode_message(Propose(b"n" * 32, 256))
