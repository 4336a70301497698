"""Where others may dial us, as we tell the mesh, likeliest first.

What is known of that comes from three sides: the host has addresses, of which some may be
private ones behind a gateway; peers that dialled us say where they found us; and the others say
from where our connections come, which is a gateway's address if there is one in between. Nobody
can tell in advance which of them work for whom, so all are told, and whoever dials tries them in
turn. A handshake proves who answers, so a wrong one costs an attempt and nothing else.

An address that the host gained while we run comes first: it is why somebody who could not reach
us may be able to now. What the operator advertises replaces all of this.
"""

from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from router.mesh.connection import address_text
from router.mesh.links import read_address
from router.mesh.messages import Hello
from router.mesh.records import MAX_ADDRESSES
from router.mesh.targets import Address
from weavepy.base.deadline import NEVER, Deadline
from weavepy.base.names import PeerName

CHANGE_INTERVAL_S = 5.0
"""Between two changes of the host's addresses that we act on, whatever flaps: each one is told to
the whole mesh, and has others dial."""


@dataclass(frozen=True, slots=True)
class _Seen:
    address: Address
    dialled: bool
    """It answered there; else our connection came from that host, and the port is a guess."""


class Whereabouts:
    def __init__(self, port: int, advertised: Sequence[Address]) -> None:
        assert len(advertised) <= MAX_ADDRESSES
        self._port = port
        self._advertised = advertised
        self._seen: dict[PeerName, _Seen] = {}
        self._own: dict[Address, None] | None = None
        """None before the first look."""
        self._gained: dict[Address, None] = {}
        """Those of our own that came later, oldest first."""
        self._latest: dict[Address, None] = {}
        self._change_at = NEVER.at
        self._not_before = 0.0

    # --- inputs ------------------------------------------------------------------------------

    def handle_own(self, hosts: Iterable[str], now: float) -> None:
        """The host has these IP addresses. They count when `take_change` says so."""
        self._latest = {Address(host, self._port): None for host in hosts if _leads_here(host)}
        if self._own is None:
            self._change_at = now
        elif self._latest.keys() == self._own.keys():
            self._change_at = NEVER.at
        else:
            self._change_at = max(now, self._not_before)

    def handle_hello(self, peer: PeerName, hello: Hello) -> None:
        text = hello.dialled or address_text(hello.host, self._port)
        address = read_address(text, self._port)
        if address is None:
            self._seen.pop(peer, None)
        else:
            self._seen[peer] = _Seen(address, bool(hello.dialled))

    def keep(self, neighbours: Container[PeerName]) -> None:
        """Forget what others said, as they would find us elsewhere by now."""
        self._seen = {peer: seen for peer, seen in self._seen.items() if peer in neighbours}

    # --- time --------------------------------------------------------------------------------

    def next_deadline(self) -> Deadline:
        return Deadline(self._change_at, "our host's addresses have changed")

    def take_change(self, now: float) -> bool:
        """Whether the host's addresses are others from now on."""
        if now < self._change_at:
            return False
        self._change_at = NEVER.at
        self._not_before = now + CHANGE_INTERVAL_S
        known = self._latest if self._own is None else self._own
        self._gained = {
            address: None
            for address in [*self._gained, *self._latest]
            if address in self._latest and (address in self._gained or address not in known)
        }
        self._own = self._latest
        return True

    # --- queries -----------------------------------------------------------------------------

    @property
    def own(self) -> Collection[Address]:
        return self._own or {}

    def addresses(self) -> list[str]:
        """To be told, `MAX_ADDRESSES` at most."""
        if self._advertised:
            return [str(address) for address in self._advertised]
        told = dict.fromkeys(reversed(self._gained))
        told |= dict.fromkeys(self._voted(dialled=True))
        told |= dict.fromkeys(self.own)
        told |= dict.fromkeys(self._voted(dialled=False))
        return [str(address) for address in told][:MAX_ADDRESSES]

    def _voted(self, dialled: bool) -> list[Address]:
        """What most of them say first."""
        votes: dict[Address, int] = {}
        for seen in self._seen.values():
            if seen.dialled is dialled:
                votes[seen.address] = votes.get(seen.address, 0) + 1
        return sorted(votes, key=lambda address: (-votes[address], address))


def _leads_here(host: str) -> bool:
    """Also for somebody on another host."""
    address = ip_address(host)
    return not (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
    )
