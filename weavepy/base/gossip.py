"""The seam between the mesh, which carries state, and whoever owns that state.

A *channel* is one replicated state whose merge is a join. The mesh never looks inside: it
moves opaque updates between neighbours, merges updates that wait for a slow link with
`combine`, and now and then compares digests so that whatever got lost is found.

The owner of a channel returns `Announce` and `Unicast` among its effects; the mesh delivers
what others announced or sent to the owner's `handle_gossip` and `handle_unicast`.
"""

from dataclasses import dataclass
from typing import Protocol

from weavepy.base.names import PeerName

MAX_DIGEST_BYTES = 8 * 1024
"""A digest travels to several neighbours every few seconds, so it stays small at any size."""


class Channel(Protocol):
    """What the mesh may ask a channel's owner, at any time, synchronously."""

    def digest(self) -> bytes:
        """Summarise the whole state in at most `MAX_DIGEST_BYTES`; equal states, equal bytes."""
        ...

    def answer(self, digest: bytes) -> bytes | None:
        """Return an update with what the sender of this digest may lack, or None if equal.

        Total: of a digest that makes no sense, return the whole state.
        """
        ...

    def combine(self, first: bytes, second: bytes) -> bytes:
        """Join two updates, the older first, into one that says what both say."""
        ...


@dataclass(frozen=True, slots=True)
class Announce:
    """Pass this update on to neighbours; `learnt_from` is left out, as it knows already."""

    channel: str
    update: bytes
    learnt_from: PeerName | None = None


@dataclass(frozen=True, slots=True)
class Unicast:
    """Carry this payload to one peer, over relays if need be. It may get lost."""

    channel: str
    peer: PeerName
    payload: bytes


GossipEffect = Announce | Unicast
