"""What we know of the mesh, what we say of ourself in it, and the routes that follow.

Changes come in bursts: a peer that joins connects to many. So news is passed on, and routes are
computed, a few milliseconds after the first of a burst. When our own record changes says `Herald`.
Until then our routes do not change either: if each went by what only it knows, what is relayed
would go in circles. But nothing is sent to a neighbour whose router is down.

Each of n peers hears all news, and works on it for a time that grows with n. So the next burst is
the longer after the last one the more peers there are: while a hundred join, each is told, and
computes, twice a second; while a thousand do, every two seconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from router.mesh import short_ids
from router.mesh.clones import CloneWatch
from router.mesh.effects import (
    IdentityCopied,
    LogLine,
    PeerAdded,
    PeerRemoved,
    ReachableChanged,
    RoutesChanged,
)
from router.mesh.herald import Herald, Standing
from router.mesh.neighbours import Neighbour
from router.mesh.records import MAX_VERSION, Record
from router.mesh.routes import Routes, Surveyor
from router.mesh.topology import Learnt, Topology
from weavepy.base.deadline import NEVER, Deadline, earliest
from weavepy.base.names import PeerName, PeerUid, ShortId

NEWS_DELAY_S = 0.01
ROUTES_DELAY_S = 0.02

SPACING_S = 0.005
"""Between two bursts, for each peer of the mesh, up to `LONG_SPACING_S`."""

LONG_SPACING_S = 2.0

MANY_SPACING_S = 0.002
"""For each peer of a mesh of so many that this is longer: computing takes longer as well."""

OUTBID_AGAIN_S = 1.0
"""Between two times that we outbid somebody who writes our record. Two routers with one identity
would else shout at each other as fast as the network goes."""

ENOUGH_LINKS = 3
"""Who has so many others is not in need of one more."""

ADOPTION_S = 10.0
"""How long a restarted router leaves the routes of its previous run alone while peers that it
has overlay sessions with have not told it about the mesh yet."""

ViewEffect = PeerAdded | PeerRemoved | RoutesChanged | ReachableChanged | IdentityCopied | LogLine


@dataclass(frozen=True, slots=True)
class _Links:
    """By names, as numbers change with the roster."""

    control: tuple[PeerName, ...] = ()
    established: tuple[PeerName, ...] = ()
    outbound: tuple[PeerName, ...] = ()


@dataclass(frozen=True, slots=True)
class AdoptedPeer:
    """A session that a previous run of this router left in the datapath, and that works."""

    name: PeerName
    short_id: ShortId
    host: str
    """Where its datagrams come from."""


class View:
    def __init__(
        self,
        *,
        ourself: PeerName,
        uid: PeerUid,
        nickname: str,
        version: str,
        short_id: ShortId | None,
        mtu_bytes: int,
        adopted: Sequence[AdoptedPeer],
        clones: CloneWatch,
        rng: Random,
        now: float,
    ) -> None:
        self.topology = Topology(ourself)
        self.routes = Routes({}, {}, {}, (), frozenset())
        self._ourself = ourself
        self._rng = rng
        self._clones = clones
        self._surveyor = Surveyor()
        self._herald = Herald()
        self._links = _Links()
        self._lonely: tuple[PeerName, ...] = ()
        """Neighbours that had hardly any others when they greeted us."""
        self._addresses: tuple[str, ...] = ()
        self._news: dict[PeerName, PeerName | None] = {}
        self._news_at = NEVER.at
        self._news_not_before = now
        self._routes_at = now
        self._routes_not_before = now
        self._claimed_version = 0
        self._outbid_at = NEVER.at
        self._outbid_again_at = now
        self._is_contested = False
        """Since we outbid last; several neighbours may tell us of the same claim."""
        self._carries_traffic = bool(adopted)
        self._disputed_since: float | None = None
        self._awaited = {peer.name: None for peer in adopted}
        self._awaited_until = now + ADOPTION_S
        self._shown: dict[PeerName, PeerUid] = {}
        self._told: RoutesChanged | None = None
        self._told_reachable: tuple[PeerName, ...] = ()
        self._recomputed = False
        self.topology.write(
            Record(
                name=ourself,
                uid=uid,
                version=1,
                nickname=nickname,
                short_id=short_ids.draw(rng, ()) if short_id is None else short_id,
                router_version=version,
                addresses=(),
                control=0,
                established=0,
                outbound=0,
                mtu_bytes=mtu_bytes,
            )
        )
        for peer in adopted:
            self._write_placeholder(peer)

    @property
    def records(self) -> Mapping[PeerName, Record]:
        return self.topology.records

    @property
    def ours(self) -> Record:
        return self.topology.records[self._ourself]

    # --- changes -----------------------------------------------------------------------------

    def describe(
        self, neighbours: Mapping[PeerName, Neighbour], addresses: Sequence[str], now: float
    ) -> None:
        """Take note of what our links are now, to say it in our record when it is time."""
        everyone = neighbours.values()
        self._carries_traffic |= any(neighbour.established for neighbour in everyone)
        for name in list(self._awaited):
            if name not in neighbours:
                del self._awaited[name]
        links = _Links(
            control=tuple(one.name for one in everyone if one.connected),
            established=tuple(one.name for one in everyone if one.established),
            outbound=tuple(one.name for one in everyone if one.outbound),
        )
        if links != self._links:
            self._links = links
            self._compute_soon(now)
        self._addresses = tuple(addresses) or self._addresses
        self._lonely = tuple(
            one.name for one in everyone if one.others is not None and one.others < ENOUGH_LINKS
        )
        self._consider(now)
        self._say_what_is_due(now)

    def describe_mtu(self, mtu_bytes: int, now: float) -> None:
        if mtu_bytes != self.ours.mtu_bytes:
            self._publish(replace(self._true(), mtu_bytes=mtu_bytes), now)

    def merge(self, update: bytes, source: PeerName, now: float) -> tuple[Learnt, list[ViewEffect]]:
        learnt = self.topology.merge(update)
        for name in learnt.changed:
            self._add_news(name, source, now)
        if learnt.changed or learnt.returned:
            self._compute_soon(now)
        return learnt, [
            effect
            for claim in learnt.claims
            for effect in self._answer_claim(claim.uid, claim.version, now)
        ]

    def take_news(self, now: float) -> dict[PeerName, PeerName | None]:
        """Peers whose records have changed, each with the neighbour that told us; once."""
        if now < self._news_at:
            return {}
        news, self._news, self._news_at = self._news, {}, NEVER.at
        self._news_not_before = now + self._spacing_s()
        return news

    def take_recomputed(self) -> bool:
        """Whether the view was computed anew since this was asked last."""
        recomputed, self._recomputed = self._recomputed, False
        return recomputed

    def handle_timeout(self, now: float) -> list[ViewEffect]:
        if now >= self._outbid_at:
            self._outbid(now)
        self._say_what_is_due(now)
        due = self._routes_deadline()
        return self._recompute(now) if now >= due.at else []

    def next_deadline(self) -> Deadline:
        return earliest(
            Deadline(self._news_at, "pass topology news on"),
            Deadline(self._outbid_at, "outbid a record of ourself that we did not write"),
            self._herald.next_deadline(),
            self._routes_deadline(),
        )

    # --- our own record ----------------------------------------------------------------------

    def _true(self) -> Record:
        """Our record as it should be."""
        set_of = self.topology.roster.set_of
        return replace(
            self.ours,
            addresses=self._addresses,
            control=set_of(self._links.control),
            established=set_of(self._links.established),
            outbound=set_of(self._links.outbound),
        )

    def _standing(self) -> Standing:
        if self.ours.established.bit_count() < ENOUGH_LINKS:
            return Standing(lonely=-1)
        set_of = self.topology.roster.set_of
        reached = self.routes.unicast
        cut_off = [name for name in self._links.control if name not in reached]
        return Standing(set_of(self._lonely), set_of(cut_off))

    def _consider(self, now: float) -> None:
        peers = len(self.records)
        self._herald.handle_change(self.ours, self._true(), self._standing(), peers, now)

    def _say_what_is_due(self, now: float) -> None:
        if now >= self._herald.next_deadline().at:
            self._consider(now)
        if now >= self._herald.next_deadline().at:
            self._publish(self._true(), now)

    def _publish(self, record: Record, now: float) -> None:
        version = max(self.ours.version, self._claimed_version)
        if version < MAX_VERSION:
            version += 1
        self.topology.write(replace(record, version=version))
        self._herald.handle_said(len(self.records), now)
        self._add_news(self._ourself, None, now)
        self._compute_soon(now)

    def _compute_soon(self, now: float) -> None:
        at = max(now + ROUTES_DELAY_S, self._routes_not_before)
        self._routes_at = min(self._routes_at, at)

    def _add_news(self, name: PeerName, source: PeerName | None, now: float) -> None:
        self._news[name] = source
        at = max(now + self.news_delay_s(), self._news_not_before)
        self._news_at = min(self._news_at, at)

    def news_delay_s(self) -> float:
        """Long enough in a large mesh for a new link to be established: that is one news then."""
        return NEWS_DELAY_S + self._spacing_s() / 8

    def _spacing_s(self) -> float:
        peers = len(self.records)
        return max(MANY_SPACING_S * peers, min(LONG_SPACING_S, SPACING_S * peers))

    def _answer_claim(self, uid: PeerUid, version: int, now: float) -> list[ViewEffect]:
        self._claimed_version = max(self._claimed_version, version)
        self._outbid_at = min(self._outbid_at, max(now, self._outbid_again_at))
        if uid == self.ours.uid or self._is_contested:
            return []
        self._is_contested = True
        warning = self._clones.contested(uid, now)
        return [] if warning is None else [LogLine("warning", warning), IdentityCopied(warning)]

    def _outbid(self, now: float) -> None:
        self._outbid_at = NEVER.at
        self._outbid_again_at = now + OUTBID_AGAIN_S
        self._is_contested = False
        self._publish(self._true(), now)

    def _settle_short_id(self, now: float) -> None:
        rivals = short_ids.rivals(self._ourself, self.records)
        if self.ours.short_id and not rivals:
            self._disputed_since = None
            return
        if self._disputed_since is None:
            self._disputed_since = now
        waits = now < self._disputed_since + short_ids.PATIENCE_S or self._keeps_disputed_id()
        if waits and self.ours.short_id and self._carries_traffic:
            return
        self._disputed_since = None
        short_id = short_ids.draw(self._rng, self.records.values())
        self._publish(replace(self._true(), short_id=short_id), now)

    def _write_placeholder(self, peer: AdoptedPeer) -> None:
        """Until an adopted peer tells of itself, let it be one that has a link with us."""
        self.topology.write(
            Record(
                name=peer.name,
                uid=PeerUid(0),
                version=0,
                nickname="",
                short_id=peer.short_id,
                router_version="",
                addresses=(),
                control=0,
                established=self.topology.roster.set_of([self._ourself]),
                outbound=0,
            )
        )

    # --- routes ------------------------------------------------------------------------------

    def _routes_deadline(self) -> Deadline:
        deadline = earliest(
            Deadline(self._routes_at, "compute routes"), self.topology.next_deadline()
        )
        if self._awaited:
            deadline = earliest(deadline, Deadline(self._awaited_until, "give up adopted peers"))
        if self._disputed_since is not None and self._carries_traffic:
            patience = Deadline(self._disputed_since + short_ids.PATIENCE_S, "draw a short id")
            if not self._keeps_disputed_id():
                deadline = earliest(deadline, patience)
        return deadline

    def _keeps_disputed_id(self) -> bool:
        rivals = short_ids.rivals(self._ourself, self.records)
        return not rivals or self._ourself < min(rivals)

    def _recompute(self, now: float) -> list[ViewEffect]:
        self._routes_at = NEVER.at
        self._routes_not_before = now + self._spacing_s()
        self._recomputed = True
        self._settle_short_id(now)
        routes = self._compute_routes()
        self.routes = routes
        for name in self.topology.returned:
            if name in routes.alive:
                self._add_news(name, None, now)
        removed = self.topology.collect(routes.alive, now)
        for name in removed:
            self._news.pop(name, None)
        return [
            *(PeerRemoved(name) for name in removed if self._shown.pop(name, None)),
            *self._show_new_peers(),
            *self._tell_routes(now),
        ]

    def _compute_routes(self) -> Routes:
        roster = self.topology.roster
        said = roster.names_of(self.ours.control)
        down = [name for name in said if name not in self._links.control]
        return self._surveyor.compute(self._ourself, self.records, roster, down)

    def _show_new_peers(self) -> list[PeerAdded]:
        alive, shown = self.routes.alive, self._shown
        added = [
            PeerAdded(name, record.uid, record.nickname)
            for name, record in self.records.items()
            if record.uid != shown.get(name)
            and record.version
            and name in alive
            and name != self._ourself
        ]
        shown.update((peer.peer, peer.uid) for peer in added)
        return sorted(added, key=lambda added: added.peer)

    def _tell_routes(self, now: float) -> list[RoutesChanged | ReachableChanged]:
        if self._awaits_adopted(now):
            return []
        routes = RoutesChanged(
            short_ids=short_ids.undisputed([self._ourself, *self.routes.unicast], self.records),
            unicast=self.routes.unicast,
            broadcast=self.routes.broadcast,
            relays=self.routes.relays,
            mtus_bytes={
                name: self.records[name].mtu_bytes
                for name in self.routes.unicast
                if 0 < self.records[name].mtu_bytes < self.ours.mtu_bytes
            },
        )
        before, self._told_reachable = self._told_reachable, tuple(self.routes.unicast_all)
        if routes != self._told:
            self._told = routes
            return [routes]
        return [] if before == self._told_reachable else [ReachableChanged()]

    def _awaits_adopted(self, now: float) -> bool:
        if now >= self._awaited_until:
            self._awaited.clear()
        for name in list(self._awaited):
            record = self.records.get(name)
            if record is None or record.version:
                del self._awaited[name]
        return bool(self._awaited)
