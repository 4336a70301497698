"""What hosts without Kubernetes tell each other: the pods that their operators described.

A gossip channel (`weavepy.base.gossip`) of one entry per host: all attachments there of which
`attach` was told labels, a name or a namespace. Only the host itself makes its entry, each with a
higher version; of two the higher one is true, so a merge is a join. A host whose disk was lost
hears of its own old entry and goes above it. Hosts that are away keep their entry: their pods are
what they were when they were last heard.

What a peer says is checked like everything that comes from outside: an entry that makes no sense is
ignored.
"""

from collections.abc import Iterable, Mapping
from ipaddress import ip_address

import msgspec

from policy.core.objects import Pod
from policy.core.parsing import Unreadable, parse_pod
from policy.core.roster import Attached, Identity, plain_name
from weavepy.base.digest import BucketDigest, bucket_of
from weavepy.base.errors import ProtocolError, UsageError
from weavepy.base.gossip import Announce
from weavepy.base.names import PeerName
from weavepy.base.wire import Decoder, encode

CHANNEL = "pods"

MAX_ENTRY_BYTES = 64 * 1024
"""Of one host: some hundred pods with their labels."""
MAX_UPDATE_BYTES = 192 * 1024
"""What does not fit into an update is found by the next comparison of digests."""


class Described(msgspec.Struct, frozen=True, array_like=True):
    owner: str
    addresses: tuple[str, ...]
    namespace: str
    name: str
    labels: dict[str, str]


class Entry(msgspec.Struct, frozen=True, array_like=True):
    peer: str
    nickname: str
    version: int
    pods: tuple[Described, ...]


_decoder = Decoder(tuple[Entry, ...], "pods of other hosts")


class SharedPods:
    def __init__(self, ourself: PeerName, nickname: str) -> None:
        self._ourself = ourself
        self._nickname = nickname
        self._digest = BucketDigest()
        self.entries: dict[str, Entry] = {}
        self._attached: dict[str, list[Attached]] = {}
        """What the entries say."""

    def restore(self, saved: Iterable[Entry]) -> None:
        """Go on with what was known when this host last ran."""
        for entry in saved:
            self._put(entry)

    def set_own(self, attached: Iterable[Attached]) -> list[Announce]:
        """What is attached here. Raises `UsageError` if that is more than an entry can hold."""
        pods = tuple(_described(one, one.identity) for one in attached if one.identity is not None)
        before = self.entries.get(self._ourself)
        if (() if before is None else before.pods) == pods:
            return []
        entry = Entry(self._ourself, self._nickname, before.version + 1 if before else 1, pods)
        if len(encode(entry)) > MAX_ENTRY_BYTES:
            raise UsageError(
                f"{len(pods)} attachments with labels on one host are too many to tell the others"
            )
        self._put(entry)
        return [Announce(CHANNEL, encode((entry,)))]

    def handle_gossip(self, source: PeerName, update: bytes) -> list[Announce]:
        """Learn what is newer; pass on what was learnt. Total."""
        learnt = [entry for entry in _decoded(update) if self._is_news(entry)]
        for entry in learnt:
            if entry.peer == self._ourself:
                ours = self.entries.get(self._ourself)
                pods = ours.pods if ours is not None else ()
                entry = Entry(self._ourself, self._nickname, entry.version + 1, pods)
            self._put(entry)
        if not learnt:
            return []
        told = tuple(self.entries[entry.peer] for entry in learnt)
        contradicted = any(entry.peer == self._ourself for entry in learnt)
        return [Announce(CHANNEL, encode(told), None if contradicted else source)]

    def elsewhere(self) -> dict[str, list[Attached]]:
        """By nickname, or by name where two hosts have one nickname. What a host has attached is
        the same object until that host says something else."""
        found: dict[str, list[Attached]] = {}
        for peer in sorted(self.entries):
            if peer != self._ourself:
                nickname = self.entries[peer].nickname
                found[peer if nickname in found else nickname] = self._attached[peer]
        return found

    # --- the channel -----------------------------------------------------------------------------

    def digest(self) -> bytes:
        return self._digest.encode()

    def answer(self, digest: bytes) -> bytes | None:
        differing = self._digest.differing(digest)
        if not differing:
            return None
        return _fitting(
            entry for peer, entry in self.entries.items() if bucket_of(peer.encode()) in differing
        )

    def combine(self, first: bytes, second: bytes) -> bytes:
        newest: dict[str, Entry] = {}
        for entry in (*_decoded(second), *_decoded(first)):
            known = newest.get(entry.peer)
            if known is None or _order(entry) > _order(known):
                newest[entry.peer] = entry
        return _fitting(newest.values())

    # ---------------------------------------------------------------------------------------------

    def _is_news(self, entry: Entry) -> bool:
        known = self.entries.get(entry.peer)
        return known is None or _order(entry) > _order(known)

    def _put(self, entry: Entry) -> None:
        before = self.entries.get(entry.peer)
        key = entry.peer.encode()
        if before is not None:
            self._digest.toggle(key, encode(before))
        self._digest.toggle(key, encode(entry))
        self.entries[entry.peer] = entry
        self._attached[entry.peer] = [_attached(one) for one in entry.pods]


def _order(entry: Entry) -> tuple[int, bytes]:
    """Two entries of one version exist only of a host that was copied; then any order will do."""
    return entry.version, encode(entry)


def _decoded(update: bytes) -> list[Entry]:
    try:
        entries: tuple[Entry, ...] = _decoder.decode(update)
    except ProtocolError:
        return []
    return [entry for entry in entries if _makes_sense(entry)]


def _makes_sense(entry: Entry) -> bool:
    try:
        for one in entry.pods:
            _checked(one)
    except Unreadable:
        return False
    return entry.version > 0 and len(encode(entry)) <= MAX_ENTRY_BYTES


def _checked(one: Described) -> Pod:
    metadata: Mapping[str, object] = {
        "namespace": one.namespace,
        "name": one.name or plain_name(one.owner),
        "labels": one.labels,
    }
    status = {"podIPs": [{"ip": address} for address in one.addresses]}
    return parse_pod({"metadata": metadata, "status": status})


def _fitting(entries: Iterable[Entry]) -> bytes:
    taken: list[Entry] = []
    size = 0
    for entry in entries:
        size += len(encode(entry))
        if size > MAX_UPDATE_BYTES:
            break
        taken.append(entry)
    return encode(tuple(taken))


def _described(one: Attached, identity: Identity) -> Described:
    return Described(
        one.owner,
        tuple(str(address) for address in one.addresses),
        identity.namespace,
        identity.name,
        dict(sorted(identity.labels.items())),
    )


def _attached(one: Described) -> Attached:
    return Attached(
        one.owner,
        tuple(ip_address(address) for address in one.addresses),
        Identity(one.namespace, one.name, one.labels),
    )
