"""Deliberate mistakes, to see that they are found: `python -m tests.sim.sabotage`.

Each is applied to the real cores as a patch. A simulator that lets one of them pass is blind in
that place, whatever number of seeds it has run.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from fastdp.core import paths
from fastdp.core.choice import Choice
from fastdp.core.effects import AdoptedTunnel
from fastdp.core.health import Health
from fastdp.core.path import Path
from fastdp.core.paths import FastPaths
from ipam.core import consent
from ipam.core.allocator import Allocator
from ipam.core.compactor import Compactor
from ipam.core.effects import Persist
from ipam.core.held import HeldAddresses
from ipam.core.holes import Holes
from ipam.core.ipam import Ipam
from ipam.core.keeper import RingKeeper
from ipam.core.paxos import Paxos, Vote
from ipam.core.ranges import Universe
from ipam.core.replica import Replica
from ipam.core.restart import RestartCheck
from ipam.core.ring import Entry, Ring
from ipam.core.space import Space
from router.mesh import links, routes
from router.mesh.clones import CloneWatch
from router.mesh.links import Links
from router.mesh.neighbours import Neighbour, Verdict
from router.mesh.topology import Topology
from router.overlay.broadcast import BroadcastFilter
from router.overlay.switch import Switch
from router.sleeve.negotiation import Negotiator
from tests.ipam.core import test_compactor, test_fences, test_merging, test_paxos, test_ring
from tests.router.mesh import test_connection, test_mesh, test_routes
from tests.sim.plan import draw_plan
from tests.sim.run import run_plan
from weavepy.base.names import PeerName
from weavepy.daemon import node as node_module
from weavepy.daemon.node import Node

FIRST_SEED = 7000
MAX_SEEDS = 200


@dataclass(frozen=True)
class Sabotage:
    what: str
    patches: Callable[[], Sequence[Any]]
    rare: str = ""
    """A step that each plan is to end with."""
    size: str = ""
    """Of the worlds, if only some can show it."""
    overlay: str = "sleeve"
    first_seed: int = FIRST_SEED
    """Where the hunt begins. Some need a rare coincidence, and a seed that has it is known."""
    found_by: Callable[[], None] | None = None
    """A property test that finds it instead of the simulator."""


def persist_after_sending() -> Sequence[Any]:
    perform = Node._perform

    def persisted(node: Node, effects: Sequence[Any], now: float) -> Iterable[Any]:
        return [*effects[1:], effects[0]] if _begins_with_persist(effects) else effects

    def performed(node: Node, effect: Any, now: float) -> Iterable[Any]:
        if isinstance(effect, Persist):
            node._world.perform(effect, now)
            return []
        return perform(node, effect, now)

    return [patch.object(Node, "_persisted", persisted), patch.object(Node, "_perform", performed)]


def not_persisting_the_ring() -> Sequence[Any]:
    persisted = Node._persisted

    def without_ring(node: Node, effects: Sequence[Any], now: float) -> Iterable[Any]:
        if _begins_with_persist(effects):
            effects = [replace(effects[0], ring=None), *effects[1:]]
        return persisted(node, effects, now)

    return [patch.object(Node, "_persisted", without_ring)]


def going_on_when_the_disk_refuses() -> Sequence[Any]:
    def persisted(node: Node, effects: Sequence[Any], now: float) -> Iterable[Any]:
        if not _begins_with_persist(effects):
            return effects
        try:
            node._world.perform(effects[0], now)
        except Exception:
            node._world.perform  # noqa: B018  # the write is dropped, which is the mistake
        return effects[1:]

    return [patch.object(Node, "_persisted", persisted)]


def merge_prefers_the_older() -> Sequence[Any]:
    def join(mine: Entry, other: Entry) -> Entry:
        return mine if mine.version <= other.version else other

    return [patch.object(Entry, "join", join)]


def donor_keeps_allocating() -> Sequence[Any]:
    def refresh(keeper: RingKeeper, now: float) -> None:
        replica, space = keeper._replica, keeper._space
        if replica.ring is not None and space.free_count == 0:
            space.set_ranges(replica.ring.ranges_of(replica.ourself), replica.ring.contested())

    return [patch.object(RingKeeper, "refresh_space", refresh)]


def version_not_raised() -> Sequence[Any]:
    write_right = Ring._write

    def write(ring: Ring, token: int, *content: Any, **more: Any) -> Entry:
        before = ring.get(token)
        entry = write_right(ring, token, *content, **more)
        entry = replace(entry, version=1 if before is None else before.version)
        ring._put(entry)
        return entry

    return [patch.object(Ring, "_write", write)]


def donation_short_by_one() -> Sequence[Any]:
    donate = Ring.donate

    def one_less(ring: Ring, giver: Any, start: int, size: int, taker: Any, *more: Any) -> Any:
        written = donate(ring, giver, start, size, taker, *more)
        for at, entry in enumerate(written):
            if entry.owner == taker and entry.size > 1:
                written[at] = replace(entry, size=entry.size - 1)
                ring._put(written[at])
        return written

    return [patch.object(Ring, "donate", one_less)]


def release_without_cooling() -> Sequence[Any]:
    def cool(space: Space, address: int, now: float) -> None:
        space.forget(address)

    return [patch.object(Space, "cool", cool)]


def claim_ignores_the_owner() -> Sequence[Any]:
    try_claim = Allocator._try_claim

    def claim(allocator: Allocator, waiting: Any, now: float) -> None:
        row = allocator._space.row(waiting.address)
        if row is not None:
            allocator._give(waiting, waiting.address)
        else:
            try_claim(allocator, waiting, now)

    return [patch.object(Allocator, "_try_claim", claim)]


def digests_always_equal() -> Sequence[Any]:
    return [patch.object(Replica, "answer", lambda replica, digest: None)]


def restart_is_not_checked() -> Sequence[Any]:
    def begin(check: RestartCheck, owners: Any, expects_peers: bool, now: float) -> None:
        check.passed = True

    return [patch.object(RestartCheck, "begin", begin)]


def first_peer_met_is_believed() -> Sequence[Any]:
    """It may have been cut off together with this host, while the others took that one over."""
    return [patch.object(RestartCheck, "_others_may_know", lambda check: False)]


def old_disk_is_believed() -> Sequence[Any]:
    """Its rows are taken for containers of this host, whoever has their addresses by now."""

    def settle(held: HeldAddresses, now: float) -> None:
        held._allocator.doubtful.clear()

    return [patch.object(HeldAddresses, "settle_doubts", settle)]


def running_containers_are_forgotten() -> Sequence[Any]:
    return [patch.object(Ipam, "claim_running", lambda ipam, rows, now: [])]


def promises_counted_by_round() -> Sequence[Any]:
    """Two openers of one round each take the other's promises for their own."""

    def accept(paxos: Paxos, propose: Callable[[], Any]) -> None:
        ballot = paxos._votes[paxos.ourself].promised
        promises = [v for v in paxos._votes.values() if v.promised.round == ballot.round]
        if len(promises) >= paxos.quorum:
            paxos._vote(Vote(ballot, ballot, propose()))

    return [patch.object(Paxos, "_accept_as_opener", accept)]


def taking_over_without_a_fence() -> Sequence[Any]:
    """What the dead peer wrote last, or writes when it is back, counts as much as its taker's."""
    inherit = Ring._inherit

    def inherited(ring: Ring, entry: Entry) -> tuple[PeerName, int]:
        owner, _ = inherit(ring, entry)
        return owner, entry.epoch

    return [patch.object(Ring, "_inherit", inherited)]


def taking_over_without_a_majority() -> Sequence[Any]:
    """Both halves of a cut mesh declare the other dead."""
    return [patch.object(consent, "is_majority", lambda consenting, electorate: True)]


def hand_over_not_awaited() -> Sequence[Any]:
    hand_over = Ipam.hand_over

    def at_once(ipam: Ipam, peer: Any, now: float) -> Any:
        effects = hand_over(ipam, peer, now)
        ipam._departure.done = True
        ipam._departure.again_at = float("inf")
        return [effect for effect in effects if isinstance(effect, Persist)]

    return [patch.object(Ipam, "hand_over", at_once)]


def broadcast_without_choosing_parents() -> Sequence[Any]:
    """Every neighbour that is nearer to the source passes a broadcast on."""

    def children(ourself: int, graph: Sequence[int]) -> dict[int, list[int]]:
        distance = _distances(graph)
        mine = [at for at in range(len(graph)) if graph[ourself] >> at & 1]
        return {
            source: [at for at in mine if distance[source][at] == distance[source][ourself] + 1]
            for source in range(len(graph))
            if ourself in distance[source]
        }

    return [patch.object(routes, "broadcast_children", children)]


def broadcasts_not_filtered() -> Sequence[Any]:
    """A loop while routes change delivers a frame again."""
    everything = patch.object(BroadcastFilter, "accept", lambda *_: True)
    return [everything, *broadcast_without_choosing_parents()]


def orphans_dropped_at_once() -> Sequence[Any]:
    disconnect = Links._disconnect

    def dropped(me: Links, connection: Any, reason: str, now: float, left: bool = False) -> None:
        disconnect(me, connection, reason, now, True)

    return [patch.object(Links, "_disconnect", dropped)]


def one_way_links_taken_for_routes() -> Sequence[Any]:
    return [patch.object(routes, "transposed", lambda rows: rows)]


def duplicates_kept_by_who_dialled() -> Sequence[Any]:
    """Each end keeps the connection that it dialled itself, and so neither is kept."""

    def judge(neighbour: Neighbour | None, *, outbound: bool, **_: Any) -> Verdict:
        if neighbour is None or not neighbour.connected or neighbour.outbound == outbound:
            return (
                Verdict.KEEP
                if neighbour is None or not neighbour.connected
                else (Verdict.DUPLICATE)
            )
        return Verdict.REPLACE if outbound else Verdict.DUPLICATE

    return [patch.object(links, "judge", judge), patch.object(test_connection, "judge", judge)]


def both_ends_of_duplicates() -> None:
    for low_dialled_first in (True, False):
        test_connection.test_of_two_connections_both_ends_keep_the_one_that_the_lower_name_dialled(
            low_dialled_first
        )


def any_sign_of_our_key_is_ourself() -> Sequence[Any]:
    """A clone that dials us is taken for the echo of our own dialling."""

    def heard(watch: CloneWatch, mark: bytes) -> str | None:
        return watch._meetings.popleft()[1] if watch._meetings else None

    return [patch.object(CloneWatch, "heard_our_key", heard)]


def tie_not_broken() -> Sequence[Any]:
    """Of two contents of one version each keeps the one that it had."""

    def join(mine: Entry, other: Entry) -> Entry:
        return mine if mine.version >= other.version else other

    return [patch.object(Entry, "join", join)]


def dead_peers_never_collected() -> Sequence[Any]:
    return [patch.object(Topology, "collect", lambda topology, alive, now: [])]


def session_never_opened_again() -> Sequence[Any]:
    """What the two ends remember differently is never mended."""

    def nothing(negotiator: Negotiator, now: float) -> list[Any]:
        for control in negotiator._controls.values():
            control.reopen_at = float("inf")
        return []

    lost = Negotiator._compare

    def compare(negotiator: Negotiator, snapshot: Any, now: float) -> list[Any]:
        negotiator._datapath_pid = snapshot.pid
        return lost(negotiator, snapshot, now)

    return [
        patch.object(Negotiator, "handle_timeout", nothing),
        patch.object(Negotiator, "_compare", compare),
    ]


def answers_wait_for_the_disk() -> Sequence[Any]:
    return [patch.object(node_module, "_refused", lambda effect, error: effect)]


def merging_does_not_raise_the_level() -> Sequence[Any]:
    """So what was merged comes back with the first old entry: tokens are forgotten too early."""
    merge_right = Ring.merge

    def merge(ring: Ring, run: Sequence[Entry], generation: int) -> Entry:
        merged = merge_right(ring, run, generation)
        ring._put(replace(merged, level=merged.level - 1))
        return replace(merged, level=merged.level - 1)

    return [patch.object(Ring, "merge", merge)]


def merging_across_epochs() -> Sequence[Any]:
    def continues(ring: Ring, entry: Entry, following: Entry) -> bool:
        return following.token == ring.universe.wrap(entry.token + entry.size)

    return [patch.object(Ring, "_continues", continues)]


def merging_what_is_contested() -> Sequence[Any]:
    return [patch.object(Ring, "contested", lambda ring: [])]


def cut_forgets_the_level() -> Sequence[Any]:
    write_right = Ring._write

    def write(ring: Ring, *content: Any, level: int, **more: Any) -> Entry:
        return write_right(ring, *content, level=0, **more)

    return [patch.object(Ring, "_write", write)]


def absorbing_later_epochs() -> Sequence[Any]:
    def absorbs(entry: Entry, other: Entry, universe: Universe) -> bool:
        reached = universe.distance(entry.token, other.token) < entry.size
        return entry.level > other.level and entry.token != other.token and reached

    return [patch.object(Entry, "absorbs", absorbs)]


def holes_not_kept() -> Sequence[Any]:
    return [patch.object(Holes, "leave", lambda holes, gone, around: None)]


def merging_without_all_owners() -> Sequence[Any]:
    return [patch.object(Compactor, "_reaches_all_owners", lambda compactor: True)]


def tunnel_given_up_without_draining() -> Sequence[Any]:
    """The datapath begins to send what it still finds in the TAP's queue."""
    return [patch.object(paths, "DRAIN_S", 0.0)]


def dead_tunnels_are_believed() -> Sequence[Any]:
    return [patch.object(Health, "is_dead", lambda health, now: False)]


def our_own_heartbeats_need_no_answer() -> Sequence[Any]:
    return [patch.object(Health, "is_heard", lambda health, now: True)]


def one_offer_per_peer() -> Sequence[Any]:
    """A peer whose router was restarted never hears our token."""
    offer_to = Choice.offer_to
    told: set[tuple[int, str]] = set()

    def offer(choice: Choice, path: Path, now: float) -> list[Any]:
        key = id(choice), path.peer
        effects = [] if key in told else offer_to(choice, path, now)
        if effects:
            told.add(key)
        return effects

    return [patch.object(Choice, "offer_to", offer)]


def adopted_tunnels_are_taken_for_idle() -> Sequence[Any]:
    adopt = FastPaths._adopt

    def adopted(paths: FastPaths, found: AdoptedTunnel, now: float) -> None:
        adopt(paths, replace(found, carrying=False), now)

    return [patch.object(FastPaths, "_adopt", adopted)]


def relayed_copies_are_delivered() -> Sequence[Any]:
    return [patch.object(Switch, "may_come_twice", lambda switch, source, now: False)]


def silent_tunnels_are_not_noticed() -> Sequence[Any]:
    arranged = FastPaths.handle_arranged

    def deaf(paths: FastPaths, errors: Any, error: str, now: float, silent: Any = ()) -> Any:
        return arranged(paths, errors, error, now)

    return [patch.object(FastPaths, "handle_arranged", deaf)]


SABOTAGES = (
    Sabotage("persist after send", persist_after_sending),
    Sabotage("the ring is not persisted", not_persisting_the_ring),
    Sabotage("go on when the disk refuses", going_on_when_the_disk_refuses),
    Sabotage("merge prefers the older", merge_prefers_the_older),
    Sabotage("donor keeps allocating from what it gave", donor_keeps_allocating),
    Sabotage("version not raised", version_not_raised),
    Sabotage("a donation is one address short", donation_short_by_one),
    Sabotage("release without cool-down", release_without_cooling),
    Sabotage("claim ignores the owner", claim_ignores_the_owner),
    Sabotage("digests are always equal", digests_always_equal),
    Sabotage("restart not checked, disk rolled back", restart_is_not_checked, "roll-back"),
    Sabotage("an old disk is believed", old_disk_is_believed, "roll-back"),
    Sabotage(
        "the first peer met vouches for the disk",
        first_peer_met_is_believed,
        "rmpeer",
        size="small",
        first_seed=157,
    ),
    Sabotage("running containers forgotten", running_containers_are_forgotten, "lose-disk"),
    Sabotage(
        "tie not broken",
        tie_not_broken,
        found_by=test_ring.test_even_lies_join_alike_in_every_order,
    ),
    Sabotage(
        "any sign of our key is ourself",
        any_sign_of_our_key_is_ourself,
        found_by=test_mesh.test_two_clones_that_dial_each_other_and_themselves_are_both_warned,
    ),
    Sabotage(
        "promises counted by round",
        promises_counted_by_round,
        found_by=test_paxos.test_at_most_one_proposal_is_ever_decided,
    ),
    Sabotage(
        "take-over without a fence",
        taking_over_without_a_fence,
        found_by=test_fences.test_a_late_write_of_a_fenced_peer_owns_nothing,
    ),
    Sabotage(
        "take-over without a majority", taking_over_without_a_majority, "rmpeer", size="small"
    ),
    Sabotage("hand-over not awaited", hand_over_not_awaited, "leave", size="large"),
    Sabotage("broadcast tree without parents", broadcast_without_choosing_parents, size="large"),
    Sabotage("broadcasts not filtered", broadcasts_not_filtered, size="large"),
    Sabotage("orphans dropped at once", orphans_dropped_at_once, "quiet-kill"),
    Sabotage(
        "routes over one-way links",
        one_way_links_taken_for_routes,
        found_by=test_routes.test_frames_travel_only_over_links_that_both_ends_call_established,
    ),
    Sabotage(
        "each end keeps another duplicate",
        duplicates_kept_by_who_dialled,
        found_by=both_ends_of_duplicates,
    ),
    Sabotage("dead peers never collected", dead_peers_never_collected, "leave"),
    Sabotage("sessions never opened again", session_never_opened_again, size="large"),
    Sabotage("answers wait for a disk that refuses", answers_wait_for_the_disk, size="large"),
    Sabotage("merging does not raise the level", merging_does_not_raise_the_level, size="large"),
    Sabotage(
        "merging across epochs",
        merging_across_epochs,
        found_by=test_merging.test_entries_of_two_epochs_are_not_merged,
    ),
    Sabotage(
        "merging what is contested",
        merging_what_is_contested,
        found_by=test_merging.test_what_is_contested_or_disputed_is_not_merged,
    ),
    Sabotage(
        "a cut forgets the level",
        cut_forgets_the_level,
        found_by=test_merging.test_what_is_cut_from_a_merged_entry_wins_over_what_was_there_before_it,
    ),
    Sabotage(
        "merged entries absorb later epochs",
        absorbing_later_epochs,
        found_by=test_merging.test_what_a_dead_peer_merged_too_late_takes_nothing_away_from_its_taker,
    ),
    Sabotage(
        "holes not kept",
        holes_not_kept,
        found_by=test_merging.test_an_old_entry_does_not_get_into_a_hole_though_it_names_whoever_hears_of_it,
    ),
    Sabotage(
        "an old disk merges before it has heard all owners",
        merging_without_all_owners,
        found_by=test_compactor.test_an_old_disk_does_not_take_back_by_merging_what_was_given_away,
    ),
    Sabotage(
        "a dead peer merged what its taker had not heard of",
        merging_without_all_owners,
        found_by=test_compactor.test_a_taker_that_has_not_heard_what_a_dead_peer_merged_leaves_no_gap,
    ),
    Sabotage("no draining", tunnel_given_up_without_draining, overlay="fast"),
    Sabotage("dead tunnels are believed", dead_tunnels_are_believed, overlay="fast"),
    Sabotage("heartbeats need no answer", our_own_heartbeats_need_no_answer, overlay="fast"),
    Sabotage("one offer per peer", one_offer_per_peer, overlay="fast"),
    Sabotage("adopted tunnels taken for idle", adopted_tunnels_are_taken_for_idle, overlay="fast"),
    Sabotage("relayed copies are delivered", relayed_copies_are_delivered, overlay="fast"),
    Sabotage("silent tunnels are not noticed", silent_tunnels_are_not_noticed, overlay="fast"),
)


@contextmanager
def applied(sabotage: Sabotage) -> Iterator[None]:
    with ExitStack() as stack:
        for one in sabotage.patches():
            stack.enter_context(one)
        yield


def hunt(sabotage: Sabotage, max_seeds: int = MAX_SEEDS) -> tuple[int, str]:
    """How many seeds it took to find it, and what was seen; (0, "") if it was not found.

    A seed that fails without the sabotage as well has found something else.
    """
    if sabotage.found_by is not None:
        with applied(sabotage):
            try:
                sabotage.found_by()
            except AssertionError:
                return 1, f"found by {sabotage.found_by.__name__}"
        return 0, ""
    for tried in range(1, max_seeds + 1):
        plan = draw_plan(
            sabotage.first_seed + tried,
            rare=sabotage.rare,
            size=sabotage.size,
            overlay=sabotage.overlay,
        )
        with applied(sabotage):
            result = run_plan(plan)
        if result.failure and not run_plan(plan).failure:
            fits = not any(name in result.failure for name in ("TypeError", "AttributeError"))
            assert fits, f"{sabotage.what} does not fit the code any more: {result.failure}"
            return tried, result.failure
    return 0, ""


def _begins_with_persist(effects: Sequence[Any]) -> bool:
    return bool(effects) and isinstance(effects[0], Persist)


def _distances(graph: Sequence[int]) -> list[dict[int, int]]:
    found = []
    for source in range(len(graph)):
        at = {source: 0}
        layer = [source]
        while layer:
            following = []
            for one in layer:
                for other in range(len(graph)):
                    if graph[one] >> other & 1 and other not in at:
                        at[other] = at[one] + 1
                        following.append(other)
            layer = following
        found.append(at)
    return found


def main() -> int:
    missed = 0
    wanted = sys.argv[1:]
    for sabotage in SABOTAGES:
        if wanted and not any(word in sabotage.what for word in wanted):
            continue
        started = time.monotonic()
        seeds, seen = hunt(sabotage)
        missed += not seeds
        verdict = f"found after {seeds:2} seeds" if seeds else f"NOT FOUND in {MAX_SEEDS} seeds"
        print(f"{sabotage.what:45} {verdict} ({time.monotonic() - started:4.0f} s) {seen[:150]}")
        sys.stdout.flush()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
