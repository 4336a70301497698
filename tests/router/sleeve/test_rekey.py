"""The exchange itself. `test_session` has it on a network."""

from random import Random

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from router.sleeve.control import Acceptance, Offer
from router.sleeve.epochs import Epochs, Generation
from router.sleeve.rekey import REKEY_AFTER_S, Rekey

SECRET = bytes(range(32))


def generation(initiator: bool) -> Generation:
    # The session is only carried along for the hot path.
    epochs = Epochs(None, encrypted=True)
    added, _ = epochs.add(
        secret=SECRET,
        initiator=initiator,
        local_index=1,
        remote_index=2,
        guess=None,
        probe_at=0.0,
        now=0.0,
    )
    epochs.confirm(added, 0.0)
    return added


class End:
    def __init__(self, initiator: bool, first_index: int, key: bytes) -> None:
        self.base = generation(initiator)
        indexes = iter(range(first_index, first_index + 100))
        keys = iter([key] + [bytes([i]) * 32 for i in range(1, 50)])
        self.rekey = Rekey(
            Random(1),
            lambda: next(indexes),
            lambda: X25519PrivateKey.from_private_bytes(next(keys)),
        )

    def offer(self, now: float = REKEY_AFTER_S) -> Offer:
        offer = self.rekey.handle_timeout(self.base, 0.0, now)
        assert offer is not None
        return offer


@pytest.fixture
def ends() -> tuple[End, End]:
    return End(True, 100, b"\x11" * 32), End(False, 200, b"\x22" * 32)


def test_both_ends_agree_on_the_next_epoch(ends):
    opener, answerer = ends
    acceptance, theirs = answerer.rekey.handle_offer(answerer.base, opener.offer())
    ours = opener.rekey.handle_acceptance(opener.base, acceptance)
    assert ours.secret == theirs.secret
    assert ours.secret != SECRET
    assert (ours.local_index, ours.remote_index) == (100, 200)
    assert (theirs.local_index, theirs.remote_index) == (200, 100)
    assert (ours.initiator, theirs.initiator) == (True, False)


def test_the_secret_of_known_keys_never_changes(ends):
    opener, answerer = ends
    _, agreed = answerer.rekey.handle_offer(answerer.base, opener.offer())
    assert agreed.secret.hex() == "8db3f40522e0640c734692e958dcddcd50fa862a4d7e1981a82e374c0960d7d5"


def test_nothing_is_offered_before_its_time_and_then_again_each_second(ends):
    opener, _ = ends
    assert opener.rekey.handle_timeout(opener.base, 0.0, 100.0) is None
    first = opener.offer(120.0)
    assert opener.rekey.handle_timeout(opener.base, 0.0, 120.9) is None
    assert opener.offer(121.0) == first


def test_a_repeated_offer_gets_the_same_answer_and_no_second_epoch(ends):
    opener, answerer = ends
    first, agreed = answerer.rekey.handle_offer(answerer.base, opener.offer())
    assert agreed is not None
    assert answerer.rekey.handle_offer(answerer.base, opener.offer(122.0)) == (first, None)


def test_a_repeated_acceptance_gives_no_second_epoch(ends):
    opener, answerer = ends
    acceptance, _ = answerer.rekey.handle_offer(answerer.base, opener.offer())
    assert opener.rekey.handle_acceptance(opener.base, acceptance) is not None
    assert opener.rekey.handle_acceptance(opener.base, acceptance) is None


def test_an_acceptance_of_something_else_is_ignored(ends):
    opener, answerer = ends
    acceptance, _ = answerer.rekey.handle_offer(answerer.base, opener.offer())
    other = Acceptance(acceptance.base, b"notthis!", acceptance.public_key, acceptance.index)
    assert opener.rekey.handle_acceptance(opener.base, other) is None
    assert opener.rekey.handle_acceptance(generation(True), acceptance) is None


def test_when_both_offer_the_initiators_offer_wins(ends):
    opener, answerer = ends
    mine, theirs = opener.offer(), answerer.offer(160.0)
    assert opener.rekey.handle_offer(opener.base, theirs) is None
    acceptance, agreed = answerer.rekey.handle_offer(answerer.base, mine)
    assert opener.rekey.handle_acceptance(opener.base, acceptance).secret == agreed.secret


def test_public_keys_that_force_the_result_are_refused(ends):
    opener, answerer = ends
    offer = opener.offer()
    assert answerer.rekey.handle_offer(answerer.base, Offer(offer.base, bytes(32), 1)) is None
    name = offer.public_key[:8]
    worthless = Acceptance(offer.base, name, bytes(32), 1)
    assert opener.rekey.handle_acceptance(opener.base, worthless) is None
