"""Deliberate mistakes, to see that they are found: `python -m tests.sim.sabotage`.

Each is applied to the real cores as a patch. A simulator that lets one of them pass is blind in
that place, whatever number of seeds it has run.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from tests.ipam.core import test_compactor, test_fences, test_merging, test_paxos, test_ring
from tests.router.mesh import test_mesh, test_routes
from tests.sim.mistakes import fastpath, merging, mesh, ring
from tests.sim.plan import draw_plan
from tests.sim.run import run_plan

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


SABOTAGES = (
    Sabotage("persist after send", ring.persist_after_sending),
    Sabotage("the ring is not persisted", ring.not_persisting_the_ring),
    Sabotage("go on when the disk refuses", ring.going_on_when_the_disk_refuses),
    Sabotage("merge prefers the older", ring.merge_prefers_the_older),
    Sabotage("donor keeps allocating from what it gave", ring.donor_keeps_allocating),
    Sabotage("version not raised", ring.version_not_raised),
    Sabotage("a donation is one address short", ring.donation_short_by_one),
    Sabotage("release without cool-down", ring.release_without_cooling),
    Sabotage("claim ignores the owner", ring.claim_ignores_the_owner),
    Sabotage("digests are always equal", ring.digests_always_equal),
    Sabotage("restart not checked, disk rolled back", ring.restart_is_not_checked, "roll-back"),
    Sabotage("an old disk is believed", ring.old_disk_is_believed, "roll-back"),
    Sabotage(
        "the first peer met vouches for the disk",
        ring.first_peer_met_is_believed,
        "rmpeer",
        size="small",
        first_seed=157,
    ),
    Sabotage("running containers forgotten", ring.running_containers_are_forgotten, "lose-disk"),
    Sabotage(
        "tie not broken",
        mesh.tie_not_broken,
        found_by=test_ring.test_even_lies_join_alike_in_every_order,
    ),
    Sabotage(
        "any sign of our key is ourself",
        mesh.any_sign_of_our_key_is_ourself,
        found_by=test_mesh.test_two_clones_that_dial_each_other_and_themselves_are_both_warned,
    ),
    Sabotage(
        "promises counted by round",
        ring.promises_counted_by_round,
        found_by=test_paxos.test_at_most_one_proposal_is_ever_decided,
    ),
    Sabotage(
        "take-over without a fence",
        ring.taking_over_without_a_fence,
        found_by=test_fences.test_a_late_write_of_a_fenced_peer_owns_nothing,
    ),
    Sabotage(
        "take-over without a majority", ring.taking_over_without_a_majority, "rmpeer", size="small"
    ),
    Sabotage("hand-over not awaited", ring.hand_over_not_awaited, "leave", size="large"),
    Sabotage(
        "broadcast tree without parents", mesh.broadcast_without_choosing_parents, size="large"
    ),
    Sabotage("broadcasts not filtered", mesh.broadcasts_not_filtered, size="large"),
    Sabotage("orphans dropped at once", mesh.orphans_dropped_at_once, "quiet-kill"),
    Sabotage(
        "routes over one-way links",
        mesh.one_way_links_taken_for_routes,
        found_by=test_routes.test_frames_travel_only_over_links_that_both_ends_call_established,
    ),
    Sabotage(
        "each end keeps another duplicate",
        mesh.duplicates_kept_by_who_dialled,
        found_by=mesh.both_ends_of_duplicates,
    ),
    Sabotage("dead peers never collected", mesh.dead_peers_never_collected, "leave"),
    Sabotage("sessions never opened again", mesh.session_never_opened_again, size="large"),
    Sabotage("answers wait for a disk that refuses", ring.answers_wait_for_the_disk, size="large"),
    Sabotage(
        "merging does not raise the level", merging.merging_does_not_raise_the_level, size="large"
    ),
    Sabotage(
        "merging across epochs",
        merging.merging_across_epochs,
        found_by=test_merging.test_entries_of_two_epochs_are_not_merged,
    ),
    Sabotage(
        "merging what is contested",
        merging.merging_what_is_contested,
        found_by=test_merging.test_what_is_contested_or_disputed_is_not_merged,
    ),
    Sabotage(
        "a cut forgets the level",
        merging.cut_forgets_the_level,
        found_by=test_merging.test_what_is_cut_from_a_merged_entry_wins_over_what_was_there_before_it,
    ),
    Sabotage(
        "merged entries absorb later epochs",
        merging.absorbing_later_epochs,
        found_by=test_merging.test_what_a_dead_peer_merged_too_late_takes_nothing_away_from_its_taker,
    ),
    Sabotage(
        "holes not kept",
        merging.holes_not_kept,
        found_by=test_merging.test_an_old_entry_does_not_get_into_a_hole_though_it_names_whoever_hears_of_it,
    ),
    Sabotage(
        "an old disk merges before it has heard all owners",
        merging.merging_without_all_owners,
        found_by=test_compactor.test_an_old_disk_does_not_take_back_by_merging_what_was_given_away,
    ),
    Sabotage(
        "a dead peer merged what its taker had not heard of",
        merging.merging_without_all_owners,
        found_by=test_compactor.test_a_taker_that_has_not_heard_what_a_dead_peer_merged_leaves_no_gap,
    ),
    Sabotage("no draining", fastpath.tunnel_given_up_without_draining, overlay="fast"),
    Sabotage("dead tunnels are believed", fastpath.dead_tunnels_are_believed, overlay="fast"),
    Sabotage(
        "heartbeats need no answer", fastpath.our_own_heartbeats_need_no_answer, overlay="fast"
    ),
    Sabotage("one offer per peer", fastpath.one_offer_per_peer, overlay="fast"),
    Sabotage(
        "adopted tunnels taken for idle",
        fastpath.adopted_tunnels_are_taken_for_idle,
        overlay="fast",
    ),
    Sabotage("relayed copies are delivered", fastpath.relayed_copies_are_delivered, overlay="fast"),
    Sabotage(
        "silent tunnels are not noticed", fastpath.silent_tunnels_are_not_noticed, overlay="fast"
    ),
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
