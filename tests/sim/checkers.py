"""What must hold, checked from outside: none of it asks the code that is being checked.

| checker    | says                                                                             |
|------------|----------------------------------------------------------------------------------|
| containers | no address is on two containers that live, routers or not                         |
| writes     | each change of the ring is made by the owner of what it changes, one version up   |
| disks      | what a peer wrote and told others is on its disk, before                          |
| views      | no two peers take one address for their own; all views joined tile the universe   |
| answers    | each request is answered in time; what it was promised is on disk                 |
| frames     | none is delivered twice                                                           |
| queues     | have bounds                                                                       |
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec

from ipam.core.effects import RING_CHANNEL, AnswerRequest
from ipam.core.ipam import Ipam
from ipam.core.messages import Update, UpdateCodec
from ipam.core.ring import Entry
from router.mesh.mesh import Mesh
from tests.sim.world import SimulationFailure, World
from weavepy.base.errors import ProtocolError
from weavepy.base.gossip import Announce, Unicast

if TYPE_CHECKING:
    from tests.sim.peers import Host, Request

COOLING_S = 60.0
"""As the documents promise it."""

ANSWER_MARGIN_S = 1.5
MAX_HELD_EFFECTS = 5000

Age = tuple[int, int, int]
"""Epoch, level, version."""

Key = tuple[bytes, int, Age]
"""Ring id, token, age."""


@dataclass
class Watch:
    """What the checkers remember of one router."""

    entries: list[Entry] = field(default_factory=list)
    by_token: dict[int, Entry] = field(default_factory=dict)
    unsaved: dict[Key, None] = field(default_factory=dict)


class WatchedChannel:
    """The ring as the mesh sees it, with what it tells written down."""

    def __init__(self, host: Host, ipam: Ipam, checkers: Checkers) -> None:
        self._host = host
        self._ipam = ipam
        self._checkers = checkers

    def digest(self) -> bytes:
        return self._ipam.digest()

    def answer(self, digest: bytes) -> bytes | None:
        update = self._ipam.answer(digest)
        if update is not None:
            self._checkers.told(self._host, update)
        return update

    def combine(self, first: bytes, second: bytes) -> bytes:
        return self._ipam.combine(first, second)


class Checkers:
    def __init__(self, world: World) -> None:
        self.hosts: list[Host] = []
        self.deliveries: dict[int, dict[str, int]] = {}
        """By frame: how often each host got it."""
        self.excused_frames: dict[int, None] = {}
        """They may be delivered twice."""
        self.excused: dict[str, float] = {}
        """Hosts whose own view may be old, and until when."""
        self.answers: dict[str, int] = {}
        self.told_of_take_over: list[Host] = []
        """Where an operator was told that a dead host has been taken over."""
        self.most_entries = 0
        self.merges = 0
        """How many times a host has made one entry of several."""
        self._world = world
        self._in_use: dict[int, tuple[Host, str]] = {}
        self._freed_at: dict[int, tuple[float, str]] = {}
        self._written: dict[Key, tuple[tuple[int, str, int], str]] = {}
        self._watches: dict[str, Watch] = {}
        self._fences: dict[tuple[bytes, str, int], str] = {}
        """Ring id, peer and epoch, to who has taken it over."""
        self._decoded: dict[bytes, Update | None] = {}
        self._disk_rings: dict[bytes, Update] = {}
        self._codec: UpdateCodec | None = None
        self._size = 0

    def fail(self, what: str) -> None:
        raise SimulationFailure(f"at {self._world.now:.3f} s: {what}")

    # --- containers --------------------------------------------------------------------------

    def address_up(self, host: Host, address: int, owner: str) -> None:
        other = self._in_use.get(address)
        if other is not None and other != (host, owner):
            self.fail(
                f"address {address} went to {owner} on {host.label} while {other[1]} on"
                f" {other[0].label} lives with it"
            )
        self._in_use[address] = (host, owner)

    def address_down(self, host: Host, address: int) -> None:
        holder = self._in_use.get(address)
        if holder is not None and holder[0] is host:
            del self._in_use[address]

    def in_use(self) -> list[int]:
        return sorted(self._in_use)

    # --- one router --------------------------------------------------------------------------

    def router_started(self, host: Host) -> None:
        ipam = host.ipam
        assert ipam is not None
        self._codec = self._codec or UpdateCodec(ipam.universe)
        self._size = ipam.universe.size
        watch = Watch()
        self._watches[host.label] = watch
        stored = self.disk_ring(host)
        if stored is not None and stored.ring_id:
            self._remember(watch, list(stored.entries))
        self._note_ring(host)

    def router_ended(self, host: Host) -> None:
        """What was written and neither saved nor told never was."""
        watch = self._watches.get(host.label)
        if watch is None:
            return
        saved = self._saved_keys(host, watch.unsaved)
        for key in watch.unsaved:
            if key not in saved:
                self._written.pop(key, None)
        watch.unsaved.clear()

    def disk_forgot(self, host: Host) -> None:
        """What a host wrote before its disk was lost or rolled back is others' knowledge now.

        It may pass it on when it hears of it, as it may anything that others wrote.
        """
        own = {key: None for key, (_, label) in self._written.items() if label == host.label}
        for key in own.keys() - self._saved_keys(host, own).keys():
            self._written[key] = (self._written[key][0], "")

    def _saved_keys(self, host: Host, keys: Iterable[Key]) -> dict[Key, None]:
        """Which of these are on the disk, or something later is."""
        stored = self.disk_ring(host)
        if stored is None:
            return {}
        on_disk = {entry.token: entry for entry in stored.entries}
        return {
            key: None
            for key in keys
            if key[0] == stored.ring_id and self._is_known(on_disk, key[1], key[2])
        }

    def _is_known(self, entries: dict[int, Entry], token: int, age: Age) -> bool:
        """True if this entry, or a later one, or one that it was merged into is among these."""
        entry = entries.get(token)
        if entry is not None and _age(entry) >= age:
            return True
        return any(
            one.epoch >= age[0] and one.level > age[1] and self._covers(one, token)
            for one in entries.values()
        )

    def _covers(self, entry: Entry, address: int) -> bool:
        return (address - entry.token) % self._size < entry.size

    def watch_channel(self, host: Host, ipam: Ipam) -> WatchedChannel:
        return WatchedChannel(host, ipam, self)

    def watch_mesh(self, host: Host, mesh: Mesh) -> None:
        """See what the ring announces and sends, before the mesh seals it."""
        announce, unicast = mesh.announce, mesh.unicast

        def watched_announce(effect: Announce, now: float) -> Any:
            if effect.channel == RING_CHANNEL:
                self.told(host, effect.update)
            return announce(effect, now)

        def watched_unicast(effect: Unicast, now: float) -> Any:
            if effect.channel == RING_CHANNEL:
                for update in _updates_in(effect.payload):
                    self.told(host, update)
            return unicast(effect, now)

        mesh.announce = watched_announce  # type: ignore[method-assign]  # this is the spy
        mesh.unicast = watched_unicast  # type: ignore[method-assign]

    def after_input(self, host: Host) -> None:
        self._note_ring(host)
        node = host.node
        if node is not None and len(node._held) > MAX_HELD_EFFECTS:
            self.fail(f"{host.label} holds {len(node._held)} effects back for its disk")

    def persisted(self, host: Host) -> None:
        self._note_ring(host)
        watch = self._watches[host.label]
        for key in self._saved_keys(host, watch.unsaved):
            del watch.unsaved[key]

    # --- writes ------------------------------------------------------------------------------

    def _note_ring(self, host: Host) -> None:
        ipam = host.ipam
        if ipam is None or ipam.ring is None:
            return
        entries = ipam.ring.entries()
        watch = self._watches[host.label]
        if entries == watch.entries:
            return
        self.most_entries = max(self.most_entries, len(entries))
        ring_id = ipam.ring.ring_id
        before = dict(watch.by_token)
        for entry in entries:
            old = before.get(entry.token)
            if old == entry:
                continue
            if old is not None and _age(old) > _age(entry):
                self.fail(f"{host.label}: version went back from {old} to {entry}")
            if entry.disputed:
                self.fail(f"{host.label}: {entry} is disputed")
            key = (ring_id, entry.token, _age(entry))
            content = (entry.size, str(entry.owner), entry.generation)
            known = self._written.get(key)
            if known is None:
                self._check_write(host, before, entry)
                self._written[key] = (content, host.label)
                watch.unsaved[key] = None
            elif known[0] != content:
                self.fail(
                    f"{host.label} has {entry}, but {known[1]} wrote {known[0]} under that version"
                )
        now = {entry.token: entry for entry in entries}
        for token in before.keys() - now.keys():
            if not self._is_known(now, token, _age(before[token])):
                self.fail(f"{host.label}: {before[token]} vanished")
        self._remember(watch, entries)

    def _remember(self, watch: Watch, entries: list[Entry]) -> None:
        watch.entries = entries
        watch.by_token = {entry.token: entry for entry in entries}

    def _check_write(self, host: Host, before: dict[int, Entry], entry: Entry) -> None:
        """`entry` was never seen before, so this host has just written it."""
        if not before or entry.generation == 0:
            if (entry.version, entry.generation) != (1, 0):
                self.fail(f"{host.label} begins a ring with {entry}")
            return
        old = before.get(entry.token)
        around = [one for one in before.values() if self._covers(one, entry.token)]
        covering = max(around, key=lambda one: (one.epoch, one.level, one is old), default=None)
        if covering is None or self._heir(host, covering) != host.name:
            self.fail(f"{host.label} ({host.name}) wrote {entry} over {covering}, not its own")
            return
        expected = 1 if old is None else old.version + 1
        level = covering.level
        if entry.size > covering.size:
            level = self._check_merge(host, before, entry)
        if (entry.level, entry.version) != (level, expected):
            self.fail(f"{host.label} wrote {entry}, expected level {level}, version {expected}")

    def _check_merge(self, host: Host, before: dict[int, Entry], entry: Entry) -> int:
        """Of what it was made of all must be the host's; returns the level it should have."""
        inside = [one for one in before.values() if self._covers(entry, one.token)]
        parts = [one for one in inside if one.epoch == entry.epoch]
        if any(self._heir(host, one) != host.name for one in [*parts, entry]):
            self.fail(f"{host.label} made {entry} of {parts}, which are not all its own")
        if sum(one.size for one in parts) != entry.size:
            self.fail(f"{host.label} made {entry} of {parts}, which is not all of it")
        self.merges += 1
        return 1 + max(one.level for one in parts)

    def _heir(self, host: Host, entry: Entry) -> str:
        """Who has an entry after the take-overs that a host knows of. All must name one heir."""
        assert host.ipam is not None
        assert host.ipam.ring is not None
        fences = host.ipam.ring.fences()
        owner, epoch = entry.owner, entry.epoch
        while owner in fences and fences[owner].epoch > epoch:
            peer, fence = owner, fences[owner]
            known = self._fences.setdefault(
                (host.ipam.ring.ring_id, peer, fence.epoch), fence.taker
            )
            if known != fence.taker:
                self.fail(f"{peer} was taken over by {known}, but {host.label} says {fence.taker}")
            owner, epoch = fence.taker, fence.epoch
        return owner

    # --- disks -------------------------------------------------------------------------------

    def disk_ring(self, host: Host) -> Update | None:
        """What the host's disk says, read anew."""
        data = host.disk.content.ring
        if data is None:
            return None
        known = self._disk_rings.get(data)
        if known is None:
            if len(self._disk_rings) > 200:
                self._disk_rings.clear()
            assert self._codec is not None
            known = self._codec.decode(msgspec.msgpack.decode(data)["update"])
            self._disk_rings[data] = known
        return known

    def told(self, host: Host, data: bytes) -> None:
        """This host says this to somebody."""
        if data in self._decoded:
            update = self._decoded[data]
        else:
            if len(self._decoded) > 500:
                self._decoded.clear()
            assert self._codec is not None
            try:
                update = self._codec.decode(data)
            except ProtocolError:
                update = None
            self._decoded[data] = update
        if update is None:
            return
        self._note_ring(host)
        stored = self.disk_ring(host)
        if update.entries:
            own: dict[Key, Entry] = {}
            for entry in update.entries:
                key = (update.ring_id, entry.token, _age(entry))
                written = self._written.get(key)
                if written is not None and written[1] == host.label and entry.generation:
                    own[key] = entry
            for key in own.keys() - self._saved_keys(host, own).keys():
                self.fail(f"{host.label} told {own[key]}, which is not on its disk")
        vote = update.votes.get(host.name)
        if vote is not None:
            mine = stored.votes.get(host.name) if stored is not None else None
            if mine is None or (mine.promised, mine.accepted) < (vote.promised, vote.accepted):
                ring_made = stored is not None and stored.ring_id
                if not ring_made:
                    self.fail(f"{host.label} told its vote {vote}, but its disk has {mine}")

    # --- answers -----------------------------------------------------------------------------

    def answered(self, host: Host, request: Request | None, answer: AnswerRequest) -> None:
        if request is None:
            if not host.leaving:
                self.fail(f"{host.label} answers request {answer.request}, which is not waiting")
            return
        outcome = answer.kind or "ok"
        name = f"{request.kind} {outcome}"
        self.answers[name] = self.answers.get(name, 0) + 1
        if name == "rmpeer alive":
            self.fail(f"{host.label} takes one for alive that has been dead for long")
        if name == "rmpeer ok":
            self.told_of_take_over.append(host)
        if answer.address is not None:
            row = host.disk.content.rows.get(answer.address)
            if row is None or row.owner != request.owner or row.freed_at is not None:
                self.fail(f"{host.label} gives {answer.address} to {request.owner}, disk has {row}")
            if request.kind == "allocate":
                self._check_rested(host, request, answer.address)
            self._freed_at.pop(answer.address, None)
        for address in answer.released:
            self._freed_at[address] = (request.asked_at, host.label)
        self._check_time(host, request)

    def forget_cooling(self) -> None:
        """Whoever lost its disk, or left, has not told anybody what was cooling down there."""
        self._freed_at.clear()

    def _check_rested(self, host: Host, request: Request, address: int) -> None:
        """What was freed lately is given out again only where there is nothing else."""
        freed_at, where = self._freed_at.get(address, (-COOLING_S, ""))
        if self._world.now >= freed_at + COOLING_S - 0.01 or where != host.label:
            return  # what another host gave in a hurry is not told apart from what was free
        subnet = request.subnet or host.settings.universe
        rows = host.disk.content.rows
        others = [
            at
            for entry in self._watches[host.label].entries
            if entry.owner == host.name
            for at in range(entry.token, entry.token + entry.size)
            if at not in rows and int(subnet[1]) <= at <= int(subnet[-2])
        ]
        if others:
            self.fail(
                f"{host.label} gives {address} out, freed {self._world.now - freed_at:.1f} s ago,"
                f" though {others[:3]} are free"
            )

    def _check_time(self, host: Host, request: Request) -> None:
        late = self._world.now - request.deadline - request.paused_s
        if late > ANSWER_MARGIN_S:
            self.fail(f"{host.label}: {request} is {late:.1f} s late")

    # --- frames ------------------------------------------------------------------------------

    def frame_delivered(self, host: Host, number: int) -> None:
        at = self.deliveries.setdefault(number, {})
        at[host.label] = at.get(host.label, 0) + 1
        if at[host.label] > 1 and number not in self.excused_frames:
            self.fail(f"frame {number} was delivered twice at {host.label}")

    # --- now and then ------------------------------------------------------------------------

    def look_around(self) -> None:
        """All hosts at one instant."""
        for host in self.hosts:
            if host.running and self._world.now >= host.paused_until and not host.disk.refuses:
                for request in host.requests.values():
                    self._check_time(host, request)
        self._check_views()
        self._check_tiles()

    def _check_views(self) -> None:
        """Nobody thinks that addresses are his which another thinks are his, too."""
        claims: list[tuple[int, int, bytes, str]] = []
        for host in self.hosts:
            if self._world.now < self.excused.get(host.label, 0.0):
                continue
            if host.ipam is None or host.ipam.ring is None:
                continue
            ring = host.ipam.ring
            for piece in ring.ranges_of(host.name):
                claims.append((piece.start, piece.end, ring.ring_id, host.label))
        claims.sort()
        for left, right in pairwise(claims):
            if right[0] < left[1] and left[2] == right[2]:
                self.fail(
                    f"{left[3]} and {right[3]} both take {right[0]}..{min(left[1], right[1])}"
                    " for their own"
                )

    def _check_tiles(self) -> None:
        """All that anyone has on disk or in mind, joined, covers each address once."""
        newest: dict[bytes, dict[int, Entry]] = {}
        for ring_id, entries in self._everything_known():
            joined = newest.setdefault(ring_id, {})
            for entry in entries:
                known = joined.get(entry.token)
                if known is None or _age(known) < _age(entry):
                    joined[entry.token] = entry
        for ring_id, joined in newest.items():
            tokens = sorted(
                token for token, entry in joined.items() if not self._is_hidden(joined, entry)
            )
            for at, token in enumerate(tokens):
                following = tokens[(at + 1) % len(tokens)]
                reach = (following - token) % self._size or self._size
                if joined[token].size != reach:
                    self.fail(f"ring {ring_id.hex()}: {joined[token]} does not reach {following}")

    def _is_hidden(self, entries: dict[int, Entry], entry: Entry) -> bool:
        """True if it was merged into another, or lies under what was written since its owner was
        declared dead, and is of those last words that nobody heard."""
        around = [one for one in entries.values() if one.level > entry.level]
        if any(one.epoch >= entry.epoch and self._covers(one, entry.token) for one in around):
            return True
        later = [one for one in entries.values() if one.epoch > entry.epoch]
        return bool(later) and all(
            any(self._covers(one, address) for one in later)
            for address in range(entry.token, entry.token + entry.size)
        )

    def _everything_known(self) -> Iterable[tuple[bytes, Iterable[Entry]]]:
        seen: dict[int, None] = {}
        for host in self.hosts:
            stored = self.disk_ring(host)
            if stored is not None and stored.ring_id and id(stored) not in seen:
                seen[id(stored)] = None
                yield stored.ring_id, stored.entries
            watch = self._watches.get(host.label)
            if host.ipam is not None and host.ipam.ring is not None and watch is not None:
                yield host.ipam.ring.ring_id, watch.entries


def _age(entry: Entry) -> Age:
    return entry.epoch, entry.level, entry.version


def _updates_in(payload: bytes) -> list[bytes]:
    """Whatever in a unicast of the ring may be an update."""
    try:
        message = msgspec.msgpack.decode(payload)
    except msgspec.DecodeError:
        return []
    return [part for part in message if isinstance(part, bytes) and len(part) > 20]
