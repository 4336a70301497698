"""Addresses that we try to dial, and when.

A target is *given* by the operator, *remembered* from the last run (or from a part of the mesh
that went out of sight), or *discovered* in the topology. Who answers at an address is only
known after a handshake; from then on the target rests while that peer is connected, whichever
way round. Given and remembered targets are dialled for ever. Discovered ones are dialled one
address of a peer at a time, what failed least often first, and only below the connection limit.

Two peers may say the same address of themselves: private networks behind two gateways have the
same addresses. So an address is dialled for any of them that is not connected, and whoever
answers is whom it belongs to.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import AddressValueError, IPv6Address
from random import Random

from router.mesh.connection import address_text
from router.mesh.effects import LinkId
from weavepy.base.deadline import NEVER, Deadline
from weavepy.base.errors import UsageError
from weavepy.base.names import PeerName

FIRST_DELAY_S = 2.0
DELAY_GROWTH = 1.5
MAX_DELAY_S = 360.0
JITTER = 0.25
"""Part of a delay that is left to chance, so that a mesh does not redial in step."""

RESET_AFTER_S = 60.0
"""A connection that was up for so long was no flapping one: start with short delays again."""

YIELD_S = 1.0
"""Two peers discover each other at the same time; the one with the higher name waits."""

MAX_DIALS = 32
MAX_REMEMBERED = 64


@dataclass(frozen=True, slots=True, order=True)
class Address:
    host: str
    port: int

    def __str__(self) -> str:
        return address_text(self.host, self.port)


def parse_address(text: str, default_port: int) -> Address:
    """Take "host", "host:port", "[v6]:port" or a bare IPv6 address. Raises `UsageError`."""
    stripped = text.strip()
    host, port_text = _split(stripped)
    well_formed = _is_ipv6(host) if ":" in host else _is_host_name(host)
    if not well_formed:
        raise UsageError(f"{text!r} is not an address: expected HOST, HOST:PORT or [IPV6]:PORT")
    if port_text is None:
        return Address(host.lower(), default_port)
    if not (port_text.isascii() and port_text.isdigit() and 0 < int(port_text[:6]) <= 65535):
        raise UsageError(f"{text!r} has no valid port: expected a number from 1 to 65535")
    return Address(host.lower(), int(port_text))


def _is_host_name(text: str) -> bool:
    """Or an IPv4 address. Whether it exists is for the resolver to say."""
    return (
        0 < len(text) <= 253
        and text.isascii()
        and all(character.isalnum() or character in ".-_" for character in text)
        and not text.startswith("-")
    )


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except AddressValueError:
        return False
    return text.isascii() and text.isprintable()


def _split(text: str) -> tuple[str, str | None]:
    """Host and port; the port is None if there is none, and malformed ones are kept."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")) or ":" not in host:
            return "", None
        return host, rest[1:] if rest else None
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return host, port
    return text, None


class Origin(Enum):
    GIVEN = "given"
    REMEMBERED = "remembered"
    DISCOVERED = "discovered"


@dataclass(slots=True)
class Target:
    address: Address
    origin: Origin
    next_attempt_at: float
    peer: PeerName | None = None
    """Who is expected to answer, or who did last."""
    answered: bool = False
    """It is who did last."""
    link: LinkId | None = None
    """The attempt under way, or the connection that came of it."""
    delay_s: float = FIRST_DELAY_S
    up_since: float | None = None
    saturated: bool = False
    """Its peer has as many connections as one should have."""
    worked: bool = False
    """Its peer was connected at least once, so it is worth remembering."""
    last_error: str = ""


class Targets:
    def __init__(self, ourself: PeerName, connection_limit: int, rng: Random) -> None:
        self._ourself = ourself
        self.connection_limit = connection_limit
        """Up to which discovered targets are dialled."""
        self._rng = rng
        self._targets: dict[Address, Target] = {}
        self._addresses_of_ourself: dict[Address, None] = {}
        self._own: dict[Address, None] = {}
        self._claims: dict[Address, list[PeerName]] = {}
        """Who is said to be at an address, by the topology."""
        self._connected: dict[PeerName, None] = {}
        self._next: Deadline | None = None

    def __iter__(self) -> Iterator[Target]:
        return iter(self._targets.values())

    def __len__(self) -> int:
        return len(self._targets)

    # --- what the operator, the disk and the topology say --------------------------------------

    def give(self, addresses: Iterable[Address], now: float) -> None:
        """Dial these at once, whatever their delays were."""
        self._next = None
        for address in addresses:
            target = self._targets.setdefault(address, Target(address, Origin.GIVEN, now))
            target.origin = Origin.GIVEN
            target.next_attempt_at = now
            target.delay_s = FIRST_DELAY_S
            self._addresses_of_ourself.pop(address, None)

    def remember(self, addresses: Iterable[Address], now: float) -> None:
        self._next = None
        for address in addresses:
            self._targets.setdefault(address, Target(address, Origin.REMEMBERED, now))

    def forget(self, addresses: Iterable[Address]) -> list[LinkId]:
        """Drop these, if they are there; returns the attempts that were under way."""
        self._next = None
        dropped = [self._targets.pop(address, None) for address in addresses]
        return [
            target.link
            for target in dropped
            if target and target.link is not None and target.up_since is None
        ]

    def forget_all_but(self, addresses: Collection[Address]) -> list[LinkId]:
        """Drop all others that were given or remembered."""
        return self.forget(
            [
                target.address
                for target in self._targets.values()
                if target.origin is not Origin.DISCOVERED and target.address not in addresses
            ]
        )

    def host_has(self, own: Collection[Address], now: float) -> None:
        """Our host has these addresses now; what is discovered there would be ourself.

        With a new one we may be in another network: what failed until now is worth a try.
        """
        gained = [address for address in own if address not in self._own]
        self._own = dict.fromkeys(own)
        if gained:
            for target in self._targets.values():
                self._dial_soon(target, now)

    def discover(
        self,
        peers: Mapping[PeerName, Sequence[Address]],
        saturated: Collection[PeerName],
        now: float,
    ) -> None:
        """Replace the discovered targets by these. What worked is remembered, not dropped.

        `saturated` peers have reached the connection limit themselves and are left in peace.
        """
        self._next = None
        before, wanted = self._claims, dict[Address, list[PeerName]]()
        for peer, addresses in peers.items():
            for address in addresses:
                if address not in self._addresses_of_ourself and address not in self._own:
                    wanted.setdefault(address, []).append(peer)
        self._claims = wanted
        for target in list(self._targets.values()):
            if target.origin is not Origin.DISCOVERED or target.address in wanted:
                continue
            if target.worked:
                target.origin = Origin.REMEMBERED
            elif target.link is None:
                del self._targets[target.address]
        for address, claimants in wanted.items():
            peer = claimants[0]
            if peer in self._connected and len(claimants) > 1:
                peer = next((one for one in claimants if one not in self._connected), peer)
            first_attempt_at = now + (YIELD_S if self._ourself > peer else 0.0)
            if address not in self._targets:
                fresh = Target(address, Origin.DISCOVERED, first_attempt_at, peer)
                self._targets[address] = fresh
            target = self._targets[address]
            known = before.get(address)
            if known != claimants and any(one not in (known or ()) for one in claimants):
                self._dial_soon(target, first_attempt_at)
            found = target.answered and target.peer in claimants
            if target.peer is None or (target.origin is Origin.DISCOVERED and not found):
                target.peer = peer
                target.answered = False
            target.saturated = target.peer in saturated
            target.worked |= target.peer in self._connected
        self._bound_remembered()

    def _dial_soon(self, target: Target, at: float) -> None:
        self._next = None
        target.next_attempt_at = min(target.next_attempt_at, at)
        target.delay_s = FIRST_DELAY_S

    def remembered(self) -> tuple[Address, ...]:
        """What to dial at the next start."""
        kept = [
            target.address
            for target in self._targets.values()
            if target.worked or target.origin is not Origin.DISCOVERED
        ]
        return tuple(kept[:MAX_REMEMBERED])

    def _bound_remembered(self) -> None:
        remembered = [
            target
            for target in self._targets.values()
            if target.origin is Origin.REMEMBERED and target.link is None
        ]
        for target in remembered[: max(0, len(remembered) - MAX_REMEMBERED)]:
            del self._targets[target.address]

    # --- dialling ----------------------------------------------------------------------------

    def due(self, now: float) -> list[Target]:
        """Those to dial now. The caller calls `dialling` for each."""
        in_progress, busy = self._in_progress()
        below_limit = self.connection_limit - len(self._connected) - in_progress
        chosen: list[Target] = []
        due = [
            target
            for target in self._targets.values()
            if now >= target.next_attempt_at and self._wants_dial(target)
        ]
        for target in sorted(due, key=lambda target: target.delay_s):
            if len(chosen) + in_progress >= MAX_DIALS:
                break
            if target.origin is Origin.DISCOVERED and (
                target.peer in busy or below_limit <= 0 or target.saturated
            ):
                continue
            below_limit -= 1
            if target.peer is not None:
                busy[target.peer] = None
            chosen.append(target)
        return chosen

    def next_deadline(self) -> Deadline:
        """When `due` will return something, if nothing changes until then."""
        if self._next is None:
            self._next = self._find_next()
        return self._next

    def is_connected(self, target: Target) -> bool:
        return target.up_since is not None or target.peer in self._connected

    def is_suspended(self, target: Target) -> bool:
        """It would be dialled if we had not enough connections already."""
        return target.origin is Origin.DISCOVERED and len(self._connected) >= self.connection_limit

    def _find_next(self) -> Deadline:
        in_progress, busy = self._in_progress()
        full = len(self._connected) + in_progress >= self.connection_limit
        waiting = [
            target
            for target in self._targets.values()
            if self._wants_dial(target)
            and not (
                target.origin is Origin.DISCOVERED
                and (full or target.peer in busy or target.saturated)
            )
        ]
        if not waiting or in_progress >= MAX_DIALS:
            return NEVER
        first = min(waiting, key=lambda target: target.next_attempt_at)
        return Deadline(first.next_attempt_at, f"dial {first.address}")

    def _in_progress(self) -> tuple[int, dict[PeerName, None]]:
        """How many attempts are under way, and at which peers as far as that is known."""
        dialled = [
            target
            for target in self._targets.values()
            if target.link is not None and target.up_since is None
        ]
        return len(dialled), {target.peer: None for target in dialled if target.peer is not None}

    def _wants_dial(self, target: Target) -> bool:
        return target.link is None and target.peer not in self._connected

    # --- what came of it ---------------------------------------------------------------------

    def dialling(self, address: Address, link: LinkId) -> None:
        self._next = None
        self._targets[address].link = link

    def peer_up(self, peer: PeerName) -> None:
        """A connection with this peer stands, whoever dialled it."""
        self._next = None
        self._connected[peer] = None
        for target in self._targets.values():
            target.worked |= target.peer == peer

    def peer_down(self, peer: PeerName) -> None:
        self._next = None
        self._connected.pop(peer, None)

    def of_link(self, link: LinkId) -> Target | None:
        return next((target for target in self._targets.values() if target.link == link), None)

    def connected(self, link: LinkId, peer: PeerName, now: float) -> None:
        """The attempt ended in a connection with this peer, which may be a superfluous one."""
        self._next = None
        target = self.of_link(link)
        if target is not None:
            target.peer = peer
            target.answered = True
            target.up_since = now
            target.worked = True
            target.last_error = ""

    def closed(self, link: LinkId, reason: str, now: float) -> None:
        """The attempt failed, or the connection is over."""
        self._next = None
        target = self.of_link(link)
        if target is None:
            return
        if target.up_since is not None and now >= target.up_since + RESET_AFTER_S:
            target.delay_s = FIRST_DELAY_S
        target.link = target.up_since = None
        target.last_error = reason
        jitter = self._rng.uniform(0.0, JITTER)
        target.next_attempt_at = now + target.delay_s * (1 - jitter)
        target.delay_s = min(MAX_DELAY_S, target.delay_s * DELAY_GROWTH)

    def is_ourself(self, address: Address) -> None:
        """We answer there ourselves: never dial it again."""
        self._next = None
        self._targets.pop(address, None)
        self._addresses_of_ourself[address] = None
        while len(self._addresses_of_ourself) > MAX_REMEMBERED:
            self._addresses_of_ourself.pop(next(iter(self._addresses_of_ourself)))
