"""What a voter has promised about one dead peer: the acceptor's memory of single-decree Paxos."""

import msgspec


class Promise(msgspec.Struct, frozen=True):
    """About one take-over of one peer. Ballots are (round, opener) and compare in that order."""

    after: int
    """The epoch of the fence that the peer had before: which of its take-overs this is."""
    ballot: tuple[int, str]
    """Nothing lower is consented to any more."""
    accepted: tuple[int, str] | None = None
    taker: str = ""
    epoch: int = 0
    """Of what was accepted."""
