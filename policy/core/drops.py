"""What a packet that was dropped means: which connection, at whose isolation, by which policies.

The packet filter says at which of its places a packet ended, in the words that `label` makes.
Everything else is asked of `explain`, so that what an operator is told about a drop is what he is
told when he asks. Where the two disagree, because policies changed in between or because the packet
belongs to no connection that is known, that is said instead of a reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from policy.core.explain import End, Explanation, Service, Side, explain, lines
from policy.core.objects import Address, Direction, Protocol
from policy.core.packets import Packet
from policy.core.policies import Policies

Place = Literal["new", "reply", "unjudged", "group"]
"""Of the packet: the first of a connection; one that goes back; one of a connection whose beginning
was not seen; one to a group or to everybody."""

MAX_KINDS = 1024
"""So many connections are remembered at once, so that each is told once."""
AGAIN_S = 60.0

_PORTED: dict[str, Protocol] = {"tcp": "tcp", "udp": "udp", "sctp": "sctp"}


@dataclass(frozen=True, slots=True)
class Drop:
    direction: Direction
    place: Place
    source: End
    """Of the connection, also where the packet went back."""
    destination: End
    service: str
    policies: tuple[str, ...]
    """That isolate the pod in this direction, as NAMESPACE/NAME."""
    why: tuple[str, ...]

    def __str__(self) -> str:
        isolated = self.destination if self.direction == "ingress" else self.source
        by = f", isolated by {', '.join(self.policies)}" if self.policies else ""
        what = "" if self.place == "new" else f" ({PLACES[self.place]})"
        return (
            f"{self.source} -> {self.destination} {self.service}{what}: {self.direction} of"
            f" {isolated}{by}"
        )


PLACES: dict[Place, str] = {
    "new": "opening a connection",
    "reply": "a packet that goes back",
    "unjudged": "of a connection whose beginning was not seen",
    "group": "to a group",
}


def label(direction: Direction, place: Place) -> str:
    return f"{direction} {place}"


def explained(
    policies: Policies, words: str, packet: Packet, receivers: Sequence[Address] = ()
) -> Drop | None:
    """None if these are not words of ours.

    `receivers` are the addresses of the pod that would have got a packet to a group.
    """
    direction, _, place = words.partition(" ")
    if direction not in ("ingress", "egress") or place not in PLACES:
        return None
    source, destination, port = packet.source, packet.destination, packet.destination_port
    if place == "reply":
        source, destination, port = destination, source, packet.source_port
    receiver = destination
    if place == "group" and direction == "ingress":
        same = (one for one in receivers if one.version == source.version)
        receiver = next(same, destination)
    protocol = _PORTED.get(packet.protocol)
    service = Service(protocol, port) if protocol is not None else Service()
    answer = explain(policies, source, receiver, service)
    side = next((one for one in answer.sides if one.direction == direction), None)
    return Drop(
        direction,  # type: ignore[arg-type]  # mypy does not narrow a string by "in"
        place,
        answer.source,
        End(destination, answer.destination.pod) if place == "group" else answer.destination,
        f"{port}/{protocol}" if protocol is not None else packet.protocol,
        tuple(f"{one.namespace}/{one.name}" for one in side.isolating) if side else (),
        tuple(_why(answer, side, place)),
    )


def _why(answer: Explanation, side: Side | None, place: str) -> list[str]:
    if side is not None and not side.allowed:
        return [line.strip() for line in lines(answer)[1:]]
    if place == "unjudged":
        return ["the beginning of this connection was not seen, so nobody knows who opened it"]
    return ["policies have changed since: by the present ones it passes"]


class Repeats:
    """The first of each kind is told, and of what follows within `AGAIN_S` only the number."""

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[float, int]] = {}
        """When it may be told again, and how many were not; oldest first."""
        self._beyond = 0

    def is_news(self, kind: str, now: float) -> bool:
        if kind in self._kinds:
            until, count = self._kinds[kind]
            self._kinds[kind] = until, count + 1
            return False
        if len(self._kinds) >= MAX_KINDS:
            self._beyond += 1
            return False
        self._kinds[kind] = now + AGAIN_S, 0
        return True

    def over(self, now: float) -> list[tuple[str, int]]:
        """Kinds whose time is up, with how many were not told; "" stands for what found no room."""
        gone = [(kind, count) for kind, (until, count) in self._kinds.items() if until <= now]
        for kind, _ in gone:
            del self._kinds[kind]
        if gone and self._beyond:
            gone.append(("", self._beyond))
            self._beyond = 0
        return [(kind, count) for kind, count in gone if count]

    def next_deadline(self) -> float | None:
        """When `over` has something to say."""
        return next((until for until, _ in self._kinds.values()), None)
