"""Addresses, and the ring that says whose they are."""

from weavepy.client.schema.base import Struct


class AllocateRequest(Struct):
    owner: str
    subnet: str = ""
    """CIDR within the universe; empty means the default subnet."""
    timeout_s: float = 30.0


class ClaimRequest(Struct):
    owner: str
    address: str
    """As "ADDRESS" or "ADDRESS/LENGTH"."""
    timeout_s: float = 30.0


class AddressAnswer(Struct):
    owner: str
    address: str
    """As "ADDRESS/LENGTH", with the length of the subnet."""


class ReleaseRequest(Struct):
    """All addresses of `owner`, or only `address`."""

    owner: str = ""
    address: str = ""


class ReleaseAnswer(Struct):
    released: list[str]


class LookupRequest(Struct):
    """By owner or by address; exactly one is given."""

    owner: str = ""
    address: str = ""


class LookupAnswer(Struct):
    addresses: list[str]
    """Those of the owner, or the one looked up if it is in use here."""
    owner: str
    """Who uses the address on this host; empty if nobody does."""
    peer: str
    """The peer whose range the address lies in; empty while there is no ring."""
    nickname: str


class PrimeRequest(Struct):
    timeout_s: float = 60.0


class AddressInUse(Struct):
    address: str
    """As "ADDRESS/LENGTH"."""
    owner: str
    kind: str
    """Either "attachment" (freed when its interface is gone) or "manual"."""
    interface: str
    """The host's end of it; empty if there is none."""
    since: float
    """Unix time; 0 if it is not known."""


class AddressList(Struct):
    addresses: list[AddressInUse]


class HistoryEntry(Struct):
    at: float
    """Unix time."""
    kind: str
    """One of "ring-made", "adopted", "donated", "received", "merged", "took-over", "taken-over",
    "handed-over", "lost"."""
    ranges: list[str]
    """Each "FIRST-LAST"; the first few."""
    addresses: int
    peer: str
    reason: str


class HistoryAnswer(Struct):
    events: list[HistoryEntry]
    """The newest first."""


class CheckFinding(Struct):
    what: str
    """One of "ring", "store", "interface"."""
    text: str


class CheckAnswer(Struct):
    findings: list[CheckFinding]
    """Empty if ring, store and interfaces say the same."""
    addresses: int
    """How many addresses in use were compared."""


class RmpeerRequest(Struct):
    """Take over the ranges of a peer that is gone for good."""

    peer: str
    """Its name or nickname."""
    force: bool = False
    """Without the consent of a majority."""
    timeout_s: float = 10.0


class RmpeerAnswer(Struct):
    peer: str
    message: str
    """What was done, and what remains to be known."""


class RangeOwner(Struct):
    peer: str
    nickname: str
    addresses: int
    """How many of the universe it owns."""
    share: float
    free: int | None
    """As it last told; None if it never did."""
    reachable: bool
    ranges: list[str]
    """Each "FIRST-LAST"; the first 32 at most."""


class IpamWaiting(Struct):
    owner: str
    what: str
    """What is asked for."""
    reason: str
    """What it waits for and what the operator can do."""
    since_s: float


class IpamStatus(Struct):
    state: str
    """One of "none" (disabled), "idle" (no ring yet, but nothing hinders making it), "waiting"
    (for a ring), "ready"."""
    reason: str
    """What a ring is waited for; empty when ready."""
    universe: str
    default_subnet: str
    ring_id: str
    entries: int
    allocated: int
    cooling: int
    free: int
    """Of the ranges that this host owns."""
    owners: list[RangeOwner]
    frozen: list[str]
    """Ranges under contradiction, each "FIRST-LAST"."""
    waiting: list[IpamWaiting]
    warnings: list[str]
    """Each a sentence: a foreign ring that was met, and the way out of it."""
    picture: list[int] = []
    """The universe in equal slices: of each, which of `owners` (counted from 0) has the most of
    it, -1 if part of it is frozen, -2 if nobody is known to own it. Empty without a ring."""
