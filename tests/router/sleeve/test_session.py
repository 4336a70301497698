"""A session, against another one, over a network that does what networks do."""

import pytest

from router.sleeve.control import Acceptance, Offer, Probe, decode_control, encode_control
from router.sleeve.effects import (
    CameUp,
    Listen,
    PathMtuFound,
    Roamed,
    SendControl,
    Unlisten,
    WentDown,
)
from router.sleeve.messages import SESSION_DEAD_S, Epoch
from tests.router.sleeve.virtual import Network, Sent, Side


def both_up(network: Network) -> bool:
    return network.a.session.up and network.b.session.up


class Frames:
    """Numbered frames both ways at a steady pace; knows what was sent and what arrived."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.sent = {"a": 0, "b": 0}

    def __call__(self) -> None:
        for side in (self.network.a, self.network.b):
            if self.network.send_frame(side, self.sent[side.name]):
                self.sent[side.name] += 1

    def missing(self) -> dict[str, list[int]]:
        """By receiver, what was sent to it and did not arrive."""
        return {
            side.name: sorted(set(range(self.sent[other])) - set(side.delivered))
            for side, other in ((self.network.a, "b"), (self.network.b, "a"))
        }


def test_both_ends_come_up_within_a_few_round_trips():
    network = Network(delay_s=0.02)
    network.install()
    network.run(0.2)
    assert both_up(network)
    assert network.a.logged(CameUp) == [CameUp(network.b.address)]
    assert network.a.session.reason == ""
    assert network.a.session.rtt_ms == pytest.approx(40)


def test_the_end_that_installs_late_is_found_by_the_quick_probes():
    network = Network()
    for_a, for_b = network.epochs()
    network.perform(network.a, network.a.session.install(for_a, network.b.address, network.now))
    network.run(3.0)
    assert network.a.session.sending is None
    network.perform(network.b, network.b.session.install(for_b, network.a.address, network.now))
    network.run(0.4)
    assert both_up(network)


def test_an_insecure_mesh_comes_up_without_keys():
    network = Network(encrypted=False)
    network.install()
    network.run(300)
    assert both_up(network)
    assert network.a.session.sending is not None
    assert network.a.session.sending.aead is None
    assert network.a.session.epochs == 0


def test_a_link_that_works_one_way_only_is_never_called_up():
    network = Network()
    network.drop = lambda sent: sent.source == "b"
    network.install()
    network.run(30)
    assert not network.a.session.up
    assert not network.b.session.up
    assert network.a.logged(CameUp) == network.b.logged(CameUp) == []
    assert "does not hear us" in network.b.session.reason
    assert "no answer" in network.a.session.reason


def test_a_link_that_becomes_one_way_goes_down_at_both_ends_under_full_traffic():
    network = Network()
    network.install()
    frames = Frames(network)
    network.run(5, frames)
    network.drop = lambda sent: sent.source == "b"
    network.run(5, frames)
    assert not network.a.session.up
    assert not network.b.session.up


def test_a_dead_path_is_noticed_after_three_seconds_and_its_return_within_about_one():
    network = Network()
    network.install()
    network.run(10)
    network.drop = lambda sent: True
    network.run(SESSION_DEAD_S - 1.1)
    assert both_up(network)
    network.run(1.2)
    assert not network.a.session.up
    assert not network.b.session.up
    assert network.a.logged(WentDown) == [WentDown("nothing heard from the peer for 3 s")]
    network.run(60)
    network.drop = lambda sent: False
    network.run(1.2)
    assert both_up(network)


def test_an_idle_pair_costs_about_one_probe_and_one_answer_each_second():
    network = Network()
    network.install()
    network.run(20)
    before = len(network.sent)
    network.run(100)
    assert 200 <= len(network.sent) - before <= 300


def test_heavy_loss_does_not_bring_a_session_down():
    network = Network(loss=0.2, jitter_s=0.05, seed=3)
    network.install()
    network.run(600)
    assert both_up(network)
    assert network.a.logged(WentDown) == []


def test_a_process_that_stood_still_gives_its_peer_time_to_answer():
    network = Network()
    network.install()
    network.run(10)
    network.freeze(network.a)
    network.run(20)
    assert not network.b.session.up
    network.thaw(network.a, timers_first=True)
    network.run(2)
    assert both_up(network)
    assert network.a.logged(WentDown) == []


def test_a_process_that_stood_still_does_declare_death_if_no_answer_comes():
    network = Network()
    network.install()
    network.run(10)
    network.freeze(network.a)
    network.run(20)
    network.drop = lambda sent: True
    network.a.backlog.clear()
    network.thaw(network.a, timers_first=True)
    assert network.a.session.up
    network.run(1.1)
    assert not network.a.session.up


def test_a_peer_whose_address_changes_is_followed_without_loss():
    network = Network()
    network.install()
    frames = Frames(network)
    network.run(5, frames)
    network.b.address = ("192.0.2.7", 40000)
    sent_by_a = frames.sent["a"]
    network.run(5, frames)
    assert network.a.session.endpoint == ("192.0.2.7", 40000)
    assert network.a.logged(Roamed) == [Roamed(("192.0.2.7", 40000))]
    assert both_up(network)
    lost = [number for number in frames.missing()["b"] if number > sent_by_a + 2]
    assert all(number >= frames.sent["a"] - 2 for number in lost)


def test_a_late_record_from_an_old_address_does_not_bring_the_session_back_there():
    network = Network()
    network.install()
    network.run(5)
    a = network.a
    (epoch,) = a.listening.values()
    old = a.session.endpoint
    top = epoch.window.highest
    a.session.handle_authentic(epoch, top + 10, ("192.0.2.7", 1), network.now)
    assert a.session.endpoint == ("192.0.2.7", 1)
    assert a.session.handle_authentic(epoch, top + 9, old, network.now) == []
    assert a.session.endpoint == ("192.0.2.7", 1)


def test_a_peer_behind_nat_is_found_where_it_is_heard_not_where_routers_guess():
    network = Network()
    network.b.address = ("198.51.100.9", 55555)
    network.install("")
    for_a, for_b = network.epochs()
    network.perform(network.a, network.a.session.install(for_a, ("10.99.0.1", 6783), network.now))
    network.perform(network.b, network.b.session.install(for_b, network.a.address, network.now))
    network.run(1)
    assert both_up(network)
    assert network.a.session.endpoint == ("198.51.100.9", 55555)


def test_a_guess_never_replaces_an_address_at_which_the_peer_was_heard():
    network = Network()
    network.install()
    network.run(2)
    for_a, for_b = network.epochs()
    network.perform(network.a, network.a.session.install(for_a, ("10.99.0.1", 1), network.now))
    network.perform(network.b, network.b.session.install(for_b, ("10.99.0.1", 1), network.now))
    network.run(2)
    assert network.a.session.endpoint == network.b.address
    assert network.a.session.epochs == 1


def test_installing_an_epoch_over_a_running_session_loses_no_frame():
    network = Network(jitter_s=0.03)
    network.install()
    network.run(1)
    frames = Frames(network)
    for_a, for_b = network.epochs()
    network.run(2, frames, step_s=0.003)
    network.perform(network.a, network.a.session.install(for_a, network.b.address, network.now))
    network.run(1, frames, step_s=0.003)
    network.perform(network.b, network.b.session.install(for_b, network.a.address, network.now))
    network.run(15, frames, step_s=0.003)
    network.run(1)
    assert frames.missing() == {"a": [], "b": []}
    assert network.a.session.epochs == network.b.session.epochs == 1
    assert len(network.a.listening) == len(network.b.listening) == 1
    assert len(network.a.logged(WentDown)) == 0


def test_installing_the_same_epoch_again_changes_nothing():
    network = Network()
    for_a, _ = network.epochs()
    first = network.a.session.install(for_a, network.b.address, network.now)
    assert [type(effect) for effect in first] == [Listen, SendControl]
    assert network.a.session.install(for_a, network.b.address, network.now) == []


def test_an_epoch_that_was_retired_is_never_installed_again():
    network = Network()
    for_a, for_b = network.epochs()
    for side, epoch in ((network.a, for_a), (network.b, for_b)):
        network.perform(side, side.session.install(epoch, None, network.now))
    network.run(1)
    network.install()
    network.run(60)
    assert for_a.local_index not in network.a.listening
    assert network.a.session.install(for_a, None, network.now) == []


def test_epochs_that_the_peer_never_learns_of_are_bounded_and_disturb_nothing():
    network = Network()
    network.install()
    frames = Frames(network)
    network.run(1, frames)
    for _ in range(50):
        network.install(only="a")
        network.run(1, frames)
    assert len(network.a.listening) <= 6
    network.run(120, frames)
    network.run(1)
    assert frames.missing() == {"a": [], "b": []}
    assert both_up(network)
    assert len(network.a.listening) <= 2


def test_a_restarted_datapath_comes_back_with_a_new_epoch_from_the_routers():
    network = Network()
    network.install()
    network.run(5)
    network.restart(network.b)
    network.run(1)
    network.install()
    network.run(1)
    assert both_up(network)
    frames = Frames(network)
    network.run(1, frames)
    network.run(0.1)
    assert frames.missing() == {"a": [], "b": []}


def test_control_may_be_handled_before_the_batch_is_reported_authentic():
    network = Network()
    for_a, _ = network.epochs()
    (listen, _) = network.a.session.install(for_a, network.b.address, network.now)
    assert isinstance(listen, Listen)
    probe = encode_control(Probe(sent_at_us=5, heard_ms=10))
    effects = network.a.session.handle_control(
        probe, listen.epoch, network.b.address, 60, network.now
    )
    assert CameUp(network.b.address) in effects
    assert network.a.session.sending is not None


def test_garbage_in_control_records_is_ignored():
    network = Network()
    network.install()
    network.run(1)
    (epoch,) = network.a.listening.values()
    for payload in (b"", b"\x01", b"\xff" * 100, b"\x03" + bytes(3), b"\x04" + bytes(60)):
        effects = network.a.session.handle_control(payload, epoch, ("x", 1), 99, network.now)
        assert effects == []


def test_an_offer_with_a_worthless_public_key_gets_no_answer():
    network = Network()
    network.install()
    network.run(1)
    (epoch,) = network.a.listening.values()
    base = network.a.session._keying.epochs.sending
    assert base is not None
    offer = encode_control(Offer(base.id, bytes(32), 7))
    assert network.a.session.handle_control(offer, epoch, ("x", 1), 99, network.now) == []


def test_send_errors_show_in_the_reason_until_the_session_is_up():
    network = Network()
    network.install("a")
    network.a.session.handle_send_error("ENETUNREACH", network.now)
    assert network.a.session.reason == "cannot send to 10.0.0.2:6783: ENETUNREACH"


def test_closing_a_session_stops_listening_on_all_its_epochs():
    network = Network()
    network.install()
    network.run(1)
    network.install(only="a")
    assert len(network.a.listening) == 2
    network.perform(network.a, network.a.session.close())
    assert network.a.listening == {}
    assert len(network.a.logged(Unlisten)) == 2


class TestRekey:
    def test_keys_are_renewed_about_every_two_minutes_without_losing_a_frame(self):
        network = Network(jitter_s=0.02)
        network.install()
        network.run(1)
        frames = Frames(network)
        network.run(600, frames, step_s=0.1)
        network.run(1)
        assert frames.missing() == {"a": [], "b": []}
        assert network.a.session.epochs == network.b.session.epochs
        assert network.a.session.epochs in (4, 5)
        assert len(network.a.listening) <= 2

    @pytest.mark.parametrize("seed", range(5))
    def test_rekeying_under_loss_duplication_and_reordering_keeps_everything_readable(self, seed):
        network = Network(loss=0.25, duplicates=0.2, jitter_s=0.3, seed=seed)
        network.install()
        network.run(10)
        frames = Frames(network)
        network.run(500, frames, step_s=0.1)
        assert network.a.session.epochs >= 3
        for side in (network.a, network.b):
            assert side.unknown_index <= 40, "only probes of epochs not yet accepted"
            assert side.not_authentic == 0
        received = len(network.a.delivered) / frames.sent["b"]
        assert received > 0.68
        assert network.a.logged(WentDown) == []

    def test_the_initiator_alone_makes_the_offers(self):
        network = Network()
        network.install()
        network.run(130)
        assert offers_of(network.a)
        assert not offers_of(network.b)

    def test_an_epoch_that_the_peer_dropped_is_left_for_one_that_it_hears(self):
        network = Network()
        first, second = network.epochs(), network.epochs()
        for side, order in ((network.a, (first[0], second[0])), (network.b, (second[1], first[1]))):
            for epoch in order:
                network.perform(side, side.session.install(epoch, None, network.now))
        network.run(5)
        dropped = network.a.session.sending
        network.drop = lambda sent: sent.index == dropped.remote_index
        network.run(3)
        assert network.a.session.sending is not dropped
        assert both_up(network)
        frames = Frames(network)
        network.run(20, frames)
        network.run(1)
        assert frames.missing() == {"a": [], "b": []}

    def test_an_outage_retires_no_epoch_that_the_peer_still_sends_on(self):
        network = Network()
        first, second = network.epochs(), network.epochs()
        for side, order in ((network.a, (first[0], second[0])), (network.b, (second[1], first[1]))):
            for epoch in order:
                network.perform(side, side.session.install(epoch, None, network.now))
        network.run(5)
        network.drop = lambda sent: True
        network.freeze(network.a)
        network.run(30)
        network.thaw(network.a, timers_first=True)
        network.drop = lambda sent: False
        frames = Frames(network)
        network.run(30, frames)
        network.run(1)
        assert frames.missing() == {"a": [], "b": []}

    def test_when_neither_end_is_due_to_offer_one_steps_in(self):
        network = Network()
        for_a, for_b = network.epochs()
        swapped = [
            Epoch(one.secret, not one.initiator, one.local_index, one.remote_index)
            for one in network.epochs()
        ]
        for side, order in ((network.a, (for_a, swapped[0])), (network.b, (swapped[1], for_b))):
            for epoch in order:
                network.perform(side, side.session.install(epoch, None, network.now))
        network.run(1)
        for side in (network.a, network.b):
            assert not side.session._keying.epochs.sending.initiator
        frames = Frames(network)
        network.run(140, frames)
        assert not offers_of(network.a) + offers_of(network.b)
        network.run(15, frames)
        assert offers_of(network.a) + offers_of(network.b)
        network.run(200, frames)
        network.run(1)
        assert (
            network.a.session._keying.epochs.sending.id
            == network.b.session._keying.epochs.sending.id
        )
        assert frames.missing() == {"a": [], "b": []}

    def test_both_ends_offering_at_once_get_one_new_epoch(self):
        network = Network()
        network.install()
        network.run(2)
        for side in (network.a, network.b):
            side.session.sending.counter = 2 * 2**24
            side.session._keying.sending_since -= 40
        network.run(0.0)
        for side in (network.a, network.b):
            network.perform(side, side.session.handle_timeout(network.now))
        assert len(offers_of(network.a)) == len(offers_of(network.b)) == 1
        network.run(30)
        assert network.a.session.epochs == network.b.session.epochs == 1
        assert both_up(network)

    def test_many_records_bring_the_rekey_forward(self):
        network = Network()
        network.install()
        network.run(2)
        assert network.a.session.sending is not None
        network.a.session.sending.counter = 2**24
        network.run(2)
        assert network.a.session.epochs == network.b.session.epochs == 1

    def test_many_records_of_the_other_end_bring_it_forward_too(self):
        network = Network()
        network.install()
        network.run(2)
        assert network.b.session.sending is not None
        network.b.session.sending.counter = 2**24
        network.run(3)
        assert network.a.session.epochs == network.b.session.epochs == 1

    def test_a_rekey_whose_answers_are_lost_goes_on_being_offered_and_frames_flow(self):
        network = Network()
        network.install()
        network.run(1)
        lost = acceptances_of(network.b)
        network.drop = lambda sent: is_size_of(sent, Acceptance)
        frames = Frames(network)
        network.run(300, frames)
        assert network.a.session.epochs == network.b.session.epochs == 0
        assert both_up(network)
        network.drop = lambda sent: False
        network.run(3, frames)
        network.run(1)
        assert network.a.session.epochs == network.b.session.epochs == 1
        assert frames.missing() == {"a": [], "b": []}
        assert len(acceptances_of(network.b)) > len(lost)

    def test_data_stops_before_the_counter_runs_out_and_goes_on_with_new_keys(self):
        network = Network()
        network.install()
        network.run(2)
        network.drop = lambda sent: is_size_of(sent, Acceptance)
        assert network.a.session.sending is not None
        network.a.session.sending.counter = 2**32 - 2**24
        network.run(2)
        assert network.a.session.sending is None
        assert not network.a.session.up
        assert "keys are used up" in network.a.session.reason
        network.drop = lambda sent: False
        network.run(3)
        assert both_up(network)
        assert network.a.session.sending is not None
        assert network.a.session.sending.counter < 100

    def test_routers_that_install_while_a_rekey_is_on_its_way_lose_no_frame(self):
        for offset in range(0, 60, 10):
            network = Network(jitter_s=0.01, seed=offset)
            network.install()
            frames = Frames(network)
            network.run(1)
            network.run(110, frames, step_s=1.0)
            while not offers_of(network.a):
                network.run(0.01, frames, step_s=0.01)
            network.run(offset / 1000)
            for_a, for_b = network.epochs()
            a, b = network.a, network.b
            network.perform(a, a.session.install(for_a, b.address, network.now))
            network.run(0.013, frames, step_s=0.001)
            network.perform(b, b.session.install(for_b, a.address, network.now))
            network.run(2, frames, step_s=0.002)
            network.run(40, frames, step_s=0.5)
            network.run(1)
            assert frames.missing() == {"a": [], "b": []}, offset
            assert len(a.listening) <= 3
            assert both_up(network)

    def test_ends_that_disagree_on_the_newest_epoch_understand_each_other_and_converge(self):
        network = Network()
        network.install()
        network.run(1)
        first, second = network.epochs(), network.epochs()
        for side, order in ((network.a, (first[0], second[0])), (network.b, (second[1], first[1]))):
            for epoch in order:
                network.perform(side, side.session.install(epoch, None, network.now))
        frames = Frames(network)
        network.run(60, frames)
        assert network.a.session.sending.remote_index == second[0].remote_index
        assert network.b.session.sending.remote_index == first[1].remote_index
        network.run(300, frames)
        network.run(1)
        assert frames.missing() == {"a": [], "b": []}
        assert both_up(network)
        a, b = network.a.session._keying.epochs.sending, network.b.session._keying.epochs.sending
        assert a is not None
        assert b is not None
        assert a.id == b.id


class TestPathMtu:
    def test_a_path_as_wide_as_the_underlay_is_known_after_one_round_trip(self):
        network = Network(mtu_bytes=1500, delay_s=0.02)
        network.install()
        network.run(0.3)
        assert network.a.logged(PathMtuFound) == [PathMtuFound(1500, 1400)]
        assert network.a.session.max_datagram_payload_bytes == 1472
        assert network.a.session.overlay_mtu_bytes == 1400

    def test_before_anything_is_known_frames_are_cut_small_but_no_small_mtu_is_claimed(self):
        network = Network(mtu_bytes=1500)
        assert network.a.session.max_datagram_payload_bytes == 1280 - 28
        assert network.a.session.path_mtu_bytes == 0
        assert network.a.session.overlay_mtu_bytes == 1400

    @pytest.mark.parametrize("path_mtu_bytes", [576, 1000, 1280, 1384, 1420, 1499, 1500])
    def test_a_narrower_path_is_measured_exactly(self, path_mtu_bytes):
        network = Network(mtu_bytes=1500)
        network.path_mtu_bytes = path_mtu_bytes
        network.install()
        network.run(15)
        assert network.a.session.path_mtu_bytes == path_mtu_bytes
        assert network.b.session.path_mtu_bytes == path_mtu_bytes

    def test_jumbo_frames_over_a_path_of_unusual_size(self):
        network = Network(mtu_bytes=9000)
        network.path_mtu_bytes = 7123
        network.install()
        network.run(15)
        assert network.a.session.path_mtu_bytes == 7123

    def test_a_black_hole_is_noticed_within_two_seconds_while_frames_flow(self):
        network = Network()
        network.install()
        frames = Frames(network)
        for offset in range(8):
            network.path_mtu_bytes = 1500
            network.run(61 + offset / 10, frames, step_s=0.2)
            assert network.a.session.path_mtu_bytes == 1500
            network.path_mtu_bytes = 1400
            network.run(2.0, frames, step_s=0.2)
            assert network.a.session.max_datagram_payload_bytes <= 1400 - 28
            assert network.b.session.max_datagram_payload_bytes <= 1400 - 28
            network.run(3.0, frames, step_s=0.2)
            assert network.a.session.path_mtu_bytes == 1400
        assert network.a.logged(WentDown) == []

    def test_a_path_that_grows_is_used_fully_after_a_minute(self):
        network = Network()
        network.path_mtu_bytes = 1400
        network.install()
        network.run(10)
        assert network.a.session.path_mtu_bytes == 1400
        network.path_mtu_bytes = 1500
        network.run(65)
        assert network.a.session.path_mtu_bytes == 1500

    def test_an_outage_does_not_shrink_the_path(self):
        network = Network()
        network.install()
        frames = Frames(network)
        network.run(5, frames)
        network.drop = lambda sent: True
        network.run(20, frames)
        network.drop = lambda sent: False
        network.run(5, frames)
        assert network.a.logged(PathMtuFound) == [PathMtuFound(1500, 1400)]

    def test_an_idle_session_does_not_probe_with_full_packets(self):
        network = Network()
        network.install()
        network.run(5)
        before = len(network.sent)
        network.run(50)
        assert max(sent.packet_bytes for _, sent in network.sent[before:]) < 200


def offers_of(side: Side) -> list[Offer]:
    sent = [decode_control(e.payload) for e in side.logged(SendControl)]
    return [message for message in sent if isinstance(message, Offer)]


def acceptances_of(side: Side) -> list[Acceptance]:
    sent = [decode_control(e.payload) for e in side.logged(SendControl)]
    return [message for message in sent if isinstance(message, Acceptance)]


def is_size_of(sent: Sent, kind: type) -> bool:
    """Whether a control datagram has the length of an acceptance: no other message has it."""
    assert kind is Acceptance
    example = Acceptance(bytes(8), bytes(8), bytes(32), 0)
    sealed = len(encode_control(example)) + 15 + 16 + 28
    return sent.is_control and sent.packet_bytes == sealed
