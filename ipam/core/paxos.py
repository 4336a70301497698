"""Who gets the first ring: single-decree Paxos, spoken by gossip.

Every peer keeps one *vote*: the highest ballot that it promised, and the last proposal that it
accepted. A vote only ever grows, so the votes of all peers together are a state that joins, in
any order, any number of times. Gossip carries the votes of openers to everyone; who follows one
tells it alone, and what gets lost on the way is found when digests are compared. So: who
sees a ballot higher than its own promises it; who opened a ballot and sees a quorum of promises
for it, accepts a proposal, namely the one accepted under the highest earlier ballot among them if
there is one; who promised a ballot and sees its opener accept a proposal, accepts that as well.
A proposal that a quorum has accepted under one ballot is decided, and every later ballot can
only repeat it.

Votes must be on disk before anyone hears of them, or a restarted peer could break a promise.
Reference: Lamport, "Paxos Made Simple" (2001); the formulation over gossip is Weave Net's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from weavepy.base.names import MAX_PEERS, PeerName


@dataclass(frozen=True, order=True, slots=True)
class Ballot:
    round: int
    opener: PeerName


NO_BALLOT = Ballot(0, PeerName(""))


@dataclass(frozen=True, order=True, slots=True)
class Proposal:
    ring_id: bytes
    peers: tuple[PeerName, ...]
    """Who gets equal shares; sorted."""


@dataclass(frozen=True, slots=True)
class Vote:
    promised: Ballot
    accepted: Ballot
    proposal: Proposal | None
    """What was accepted; None exactly if `accepted` is `NO_BALLOT`."""

    def join(self, other: Vote) -> Vote:
        """Return the later of two states of one peer's vote. Total: any order is kept to."""
        return max(self, other, key=_age)

    def leads(self, voter: PeerName) -> bool:
        """True if this is the vote of the one who opened the ballot: all others follow it."""
        return self.promised.opener == voter


NO_VOTE = Vote(NO_BALLOT, NO_BALLOT, None)


def _age(vote: Vote) -> tuple[Ballot, Ballot, Proposal]:
    return (vote.promised, vote.accepted, vote.proposal or Proposal(b"", ()))


class Paxos:
    """The votes that this peer knows, its own among them."""

    def __init__(self, ourself: PeerName, quorum: int) -> None:
        assert quorum >= 1
        self.ourself = ourself
        self.quorum = quorum
        self._votes: dict[PeerName, Vote] = {}

    @property
    def votes(self) -> Mapping[PeerName, Vote]:
        return self._votes

    @property
    def begun(self) -> bool:
        """True once any peer has opened a ballot."""
        return bool(self._votes)

    def join(self, votes: Mapping[PeerName, Vote]) -> dict[PeerName, Vote]:
        """Take in received votes; returns those that were news.

        Our own may be among them: then our disk was rolled back, and the promise binds us.
        """
        news: dict[PeerName, Vote] = {}
        for peer, vote in votes.items():
            mine = self._votes.get(peer, NO_VOTE)
            joined = mine.join(vote)
            if joined != mine and (peer in self._votes or len(self._votes) < MAX_PEERS):
                self._votes[peer] = news[peer] = joined
        return news

    def open_ballot(self) -> dict[PeerName, Vote]:
        """Promise ourselves a ballot higher than any we know; returns our vote, to be told."""
        highest = max((vote.promised.round for vote in self._votes.values()), default=0)
        return self._vote(self._mine(promised=Ballot(highest + 1, self.ourself)))

    def think(self, propose: Callable[[], Proposal]) -> dict[PeerName, Vote]:
        """Do what the votes we know call for; returns our vote if it changed, to be told.

        `propose` is asked for a proposal only if we are free to choose one.
        """
        before = self._votes.get(self.ourself, NO_VOTE)
        highest = max((vote.promised for vote in self._votes.values()), default=NO_BALLOT)
        if highest > before.promised:
            self._vote(self._mine(promised=highest))
        if self._mine_is_open():
            self._accept_as_opener(propose)
        self._accept_as_voter()
        after = self._votes.get(self.ourself, NO_VOTE)
        return {} if after == before else {self.ourself: after}

    def decided(self) -> Proposal | None:
        """Return the proposal that a quorum is known to have accepted under one ballot."""
        count: dict[Ballot, int] = {}
        for vote in self._votes.values():
            if vote.proposal is None:
                continue
            count[vote.accepted] = count.get(vote.accepted, 0) + 1
            if count[vote.accepted] >= self.quorum:
                return vote.proposal
        return None

    # --- helpers ---------------------------------------------------------------------------

    def _mine(self, promised: Ballot) -> Vote:
        mine = self._votes.get(self.ourself, NO_VOTE)
        return Vote(promised, mine.accepted, mine.proposal)

    def _vote(self, vote: Vote) -> dict[PeerName, Vote]:
        self._votes[self.ourself] = vote
        return {self.ourself: vote}

    def _mine_is_open(self) -> bool:
        mine = self._votes.get(self.ourself, NO_VOTE)
        return mine.promised.opener == self.ourself and mine.accepted < mine.promised

    def _accept_as_opener(self, propose: Callable[[], Proposal]) -> None:
        ballot = self._votes[self.ourself].promised
        promises = [vote for vote in self._votes.values() if vote.promised == ballot]
        if len(promises) < self.quorum:
            return
        bound = max(promises, key=lambda vote: vote.accepted)
        proposal = bound.proposal or propose()
        self._vote(Vote(ballot, ballot, proposal))

    def _accept_as_voter(self) -> None:
        mine = self._votes.get(self.ourself, NO_VOTE)
        if mine.accepted >= mine.promised:
            return
        for vote in self._votes.values():
            if vote.accepted == mine.promised and vote.proposal is not None:
                self._vote(Vote(mine.promised, vote.accepted, vote.proposal))
                return
