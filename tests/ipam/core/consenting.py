"""One side of take-overs, asker or voter, that is told by hand what the others say."""

from __future__ import annotations

from random import Random

from ipam.core.consent import (
    Consent,
    _raw,
)
from ipam.core.effects import AnswerRequest
from ipam.core.messages import ConsentAnswer, ConsentRequest
from tests.ipam.core.parts import B, C, D, replica_of
from weavepy.base.names import PeerName


class Peer:
    """One side of take-overs; `A` unless said otherwise, in a ring of four equal shares."""

    def __init__(self, owners: int = 4, *reachable: PeerName, seed: int = 1) -> None:
        self.replica = replica_of(owners)
        self.sent: list[tuple[PeerName, ConsentRequest]] = []
        self.consent = Consent(self.replica, Random(seed), self._keep)
        self.reach(*(reachable or (B, C)))

    def _keep(self, peer: PeerName, message: ConsentRequest | ConsentAnswer) -> None:
        assert isinstance(message, ConsentRequest)
        self.sent.append((peer, message))

    def reach(self, *peers: PeerName, sessions: tuple[PeerName, ...] = ()) -> None:
        self.consent.handle_peers(dict.fromkeys(peers), dict.fromkeys([*peers, *sessions]))

    def ask(self, now: float = 0.0, *, force: bool = False, dead: PeerName = D) -> None:
        self.consent.ask(1, dead, force, now + 10.0, now)

    def work(self, now: float) -> AnswerRequest | None:
        answers = self.consent.work(now)
        assert len(answers) <= 1
        return answers[0] if answers else None

    def requests(self) -> dict[PeerName, ConsentRequest]:
        """Return what was asked since the last call."""
        found = dict(self.sent)
        assert len(found) == len(self.sent), "nobody is asked twice at once"
        self.sent.clear()
        return found

    def answer(
        self,
        source: PeerName,
        request: ConsentRequest,
        kind: str = "",
        *,
        round: int = 1,
        accepted: tuple[int, PeerName, PeerName, int] | None = None,
        now: float = 0.0,
    ) -> None:
        before = accepted and (accepted[0], _raw(accepted[1]), _raw(accepted[2]), accepted[3])
        answer = ConsentAnswer(request.id, not kind, kind, "it says so", round, before, b"")
        self.consent.handle_answer(source, answer, now)

    def owners(self) -> dict[PeerName, int]:
        assert self.replica.ring is not None
        return self.replica.ring.owners()


def refusal(answer: AnswerRequest | None) -> tuple[str, str]:
    assert answer is not None
    assert answer.error is not None
    return answer.kind, answer.error
