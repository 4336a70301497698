"""What befalls a mesh, drawn from a seed before anything runs.

A plan is a list of steps, each complete in itself (a fault carries its own end), so any of them
may be left out and the rest still makes sense. That is what makes a failing plan shrinkable.
"""

from dataclasses import dataclass, replace
from random import Random

from fastdp.core.policy import Mode

FAULT_KINDS = {
    "cut": 8,
    "cut-one-way": 5,
    "cut-udp": 3,
    "partition": 6,
    "reset": 6,
    "stall": 5,
    "slow": 3,
    "loss": 3,
    "kill": 8,
    "crash": 14,
    "power": 5,
    "pause": 4,
    "stop": 2,
    "stop-keep": 2,
    "datapath": 4,
    "disk-error": 5,
}
"""Faults by weight."""

RARE_KINDS = {
    "roll-back": 3,
    "lose-disk": 3,
    "leave": 4,
    "forget-sessions": 1,
    "quiet-kill": 3,
    "clone": 3,
    "rmpeer": 0,
}
"""At most one of these per plan, at its end and while all else is at rest. How often the last one
is drawn is in `TAKE_OVER_CHANCE`."""

TAKE_OVER_CHANCE = 0.06
TAKE_OVER_S = 22.0

FAST_FAULT_KINDS = {
    "cut-vxlan": 6,
    "cut-vxlan-one-way": 5,
    "device-error": 3,
    "device-deleted": 3,
    "slow-driver": 2,
}
"""More faults, where there is a fast path."""

FAST_CHANCE = 0.2
FAST_MORE_S = 8.0
"""A plan with tunnels is longer by that: they need some seconds before they carry."""
FAST_FROM_S = 4.0
FAST_DURATIONS_S = (0.5, 2.0, 7.0, 7.0, 12.0)
SLEEVE_ONLY_CHANCE = 0.15
"""Of a host in a mesh with a fast path."""

ADDRESSES_CHANCE = 0.3
"""How often hosts gain addresses, of which some lead nowhere and some are also another host's."""

WORK_KINDS = {"attach": 24, "attach-again": 3, "detach": 12, "claim": 5, "prime": 1, "frame": 6}

CALM_BEFORE_S = 45.0
CALM_AFTER_S = 12.0


@dataclass(frozen=True)
class Bounds:
    """Between what a plan is drawn."""

    peers: tuple[int, ...]
    prefix_lengths: tuple[int, ...]
    faults_s: tuple[float, float]
    rush_at: tuple[float, float]
    """When all want an address at one instant, if they do."""
    work: tuple[int, int]
    timeouts_s: tuple[float, ...]
    faults: tuple[int, int]
    durations_s: tuple[float, ...]
    rare_chance: float
    used_up_every: int
    """Of so many seeds, one goes on until each address was free and had again."""


SIZES = {
    "large": Bounds(
        peers=(3, 3, 3, 4, 4, 4, 5, 5, 6, 7, 8, 12),
        prefix_lengths=(28, 28, 27, 26, 26, 25, 24, 22),
        faults_s=(30.0, 70.0),
        rush_at=(2.0, 8.0),
        work=(20, 90),
        timeouts_s=(1.0, 5.0, 15.0, 30.0),
        faults=(0, 20),
        durations_s=(0.5, 2.0, 5.0, 12.0, 30.0),
        rare_chance=0.3,
        used_up_every=3,
    ),
    "small": Bounds(
        peers=(2, 2, 3, 3, 3, 4),
        prefix_lengths=(30, 29, 28, 28, 27),
        faults_s=(5.0, 16.0),
        rush_at=(0.0, 6.0),
        work=(6, 30),
        timeouts_s=(1.0, 3.0, 8.0),
        faults=(1, 8),
        durations_s=(0.2, 0.7, 2.0, 6.0),
        rare_chance=0.04,
        used_up_every=25,
    ),
}
"""Most mistakes shrink to a few steps of a few peers, and a small world costs a twentieth of a
large one. So most are small; what takes many peers, long times or many entries, the others find."""


DEADLY = ("kill", "crash", "power", "stop", "stop-keep")


def long_life(hours: float) -> Bounds:
    """Of a few peers, at an even pace: a fault every two minutes, and twice as much work."""
    return Bounds(
        peers=(3,),
        prefix_lengths=(26,),
        faults_s=(3600 * hours, 3600 * hours),
        rush_at=(2.0, 8.0),
        work=(int(60 * hours), int(60 * hours) + 1),
        timeouts_s=(1.0, 5.0, 15.0, 30.0),
        faults=(int(30 * hours), int(30 * hours) + 1),
        durations_s=(0.5, 2.0, 5.0, 12.0, 30.0),
        rare_chance=0.0,
        used_up_every=1,
    )


def _sparing_the_first(step: "Step", count: int) -> "Step":
    """The first host's router is never restarted, so that whatever it does not let go of shows."""
    if step.kind not in DEADLY or step.host:
        return step
    return replace(step, host=1 + int(step.at) % (count - 1))


@dataclass(frozen=True, order=True)
class Step:
    at: float
    kind: str
    host: int
    other: int = 0
    duration_s: float = 0.0
    number: int = 0

    def __str__(self) -> str:
        text = f"{self.at:8.3f}  {self.kind:<12} host {self.host + 1}"
        if self.other != self.host:
            text += f", other {self.other + 1}"
        if self.duration_s:
            text += f", for {self.duration_s:.2f} s"
        return text + (f", number {self.number}" if self.number else "")


@dataclass(frozen=True)
class Plan:
    seed: int
    peers: int
    prefix_length: int
    init: str
    """consensus, seed or observer."""
    initial: int
    """How many hosts are there from the beginning; the others join later."""
    given: tuple[tuple[int, ...], ...]
    discovery: bool
    knows_owners: bool
    clashing_short_ids: bool
    unreachable: tuple[tuple[int, int], ...]
    """Pairs of hosts that never reach each other directly."""
    latency_s: float
    high_water_bytes: int
    faults_s: float
    used_up_at_end: bool
    """Whether all is detached at the end, to see each address free and to be had again. It takes
    most of the time of such a run."""
    steps: tuple[Step, ...]
    replay: str
    """What to type to see it again."""
    fastdp: tuple[Mode, ...] = ()
    """Of each host; empty: the whole mesh is without."""

    @property
    def full_mesh(self) -> bool:
        """Everyone comes to be connected with everyone."""
        return self.discovery and not self.unreachable

    @property
    def calm_at(self) -> float:
        """When a rare step is due, which needs a mesh at rest; infinity without one."""
        return min((step.at for step in self.steps if step.kind in RARE_KINDS), default=1e9)


def draw_plan(
    seed: int,
    peers: int | None = None,
    work: int | None = None,
    rare: str = "",
    size: str = "",
    hours: float = 0.0,
    overlay: str = "",
) -> Plan:
    """What is given replaces what the seed says: `rare` is one of `RARE_KINDS`, `size` of `SIZES`,
    with `hours` three peers live for so long, and `overlay` ("sleeve" or "fast") says whether
    there is a fast path.

    By itself, every fiftieth seed is a large world.
    """
    replay = f"python -m tests.sim --seed {seed}"
    given = {"peers": peers, "events": work, "rare": rare, "size": size, "hours": hours}
    given["overlay"] = overlay
    for option, value in given.items():
        replay += f" --{option} {value}" if value else ""
    rng = Random(f"{seed} plan")
    bounds = long_life(hours) if hours else SIZES[size or ("small" if seed % 50 else "large")]
    count = peers or rng.choice(bounds.peers)
    initial = max(2, count - rng.choice((0, 0, 1, 2)))
    faults_s = rng.uniform(*bounds.faults_s)
    fast_rng = Random(f"{seed} fast")
    is_fast = overlay == "fast" if overlay else fast_rng.random() < FAST_CHANCE
    fastdp: tuple[Mode, ...] = ()
    fast_steps: list[Step] = []
    if is_fast:
        faults_s += FAST_MORE_S
        fastdp, fast_steps = _draw_fast(fast_rng, bounds, count, faults_s)
    unreachable = _draw_unreachable(rng, count) if rng.random() < 0.2 else ()
    discovery = rng.random() < 0.85
    steps = [
        *_draw_work(rng, bounds, count, faults_s, work),
        *_draw_faults(rng, bounds, count, faults_s),
        *fast_steps,
    ]
    if rng.random() < 0.4:
        steps += _all_at_once(count, rng.uniform(*bounds.rush_at))
    if not (rare or size or hours) and Random(f"{seed} rare").random() < TAKE_OVER_CHANCE:
        rare = "rmpeer"
    if rng.random() < bounds.rare_chance or rare:
        at = faults_s + CALM_BEFORE_S
        kind = rare or _weighted(rng, RARE_KINDS)
        steps.append(Step(at, kind, rng.randrange(count), rng.randrange(count)))
        faults_s = at + CALM_AFTER_S + (TAKE_OVER_S if kind == "rmpeer" else 5.0)
        steps += [
            Step(rng.uniform(at + 0.1, faults_s), "attach", rng.randrange(count), 0, 20.0, number)
            for number in range(1000, 1000 + rng.randrange(4, 16))
        ]
    moves = Random(f"{seed} addresses")
    if moves.random() < ADDRESSES_CHANCE:
        steps += _draw_address_changes(moves, bounds, count, faults_s)
    if hours:
        steps = [_sparing_the_first(step, count) for step in steps]
    return Plan(
        seed=seed,
        peers=count,
        prefix_length=rng.choice(bounds.prefix_lengths),
        init=rng.choice(("consensus", "consensus", "consensus", "seed", "seed", "observer")),
        initial=initial,
        given=_draw_given(rng, count, 1.0 if unreachable else 0.6),
        discovery=discovery,
        knows_owners=rng.random() < 0.5,
        clashing_short_ids=rng.random() < 0.2,
        unreachable=unreachable,
        latency_s=rng.choice((0.0005, 0.005, 0.03)),
        high_water_bytes=rng.choice((1500, 4000, 1 << 20)),
        faults_s=faults_s,
        used_up_at_end=seed % bounds.used_up_every == 0,
        steps=tuple(sorted(steps)),
        replay=f"{replay} --trace",
        fastdp=fastdp,
    )


def _draw_given(rng: Random, count: int, chance_of_first: float) -> tuple[tuple[int, ...], ...]:
    """Whom each host is told to dial: always enough that the mesh hangs together."""
    given = []
    for number in range(count):
        first = 0 if rng.random() < chance_of_first else max(0, number - 1)
        others = {first, *(rng.randrange(count) for _ in range(rng.randrange(3)))} - {number}
        given.append(tuple(sorted(others)))
    if not given[0]:
        given[0] = (1,)
    return tuple(given)


def _draw_unreachable(rng: Random, count: int) -> tuple[tuple[int, int], ...]:
    """Everybody still reaches the first host, and so each other over it."""
    pairs = [(one, other) for other in range(count) for one in range(1, other)]
    return tuple(sorted(rng.sample(pairs, rng.randrange(len(pairs) + 1))))


def _draw_work(
    rng: Random, bounds: Bounds, count: int, faults_s: float, wanted: int | None
) -> list[Step]:
    return [
        Step(
            rng.uniform(0.5, faults_s),
            _weighted(rng, WORK_KINDS),
            rng.randrange(count),
            rng.randrange(count),
            rng.choice(bounds.timeouts_s),
            number + 1,
        )
        for number in range(wanted or rng.randrange(*bounds.work))
    ]


def _all_at_once(count: int, at: float) -> list[Step]:
    """Every host wants an address at one instant: rivals for the first ring, or for space."""
    return [Step(at, "attach", number, 0, 15.0, 500 + number) for number in range(count)]


def _draw_faults(rng: Random, bounds: Bounds, count: int, faults_s: float) -> list[Step]:
    steps = []
    for _ in range(rng.randrange(*bounds.faults)):
        kind = _weighted(rng, FAULT_KINDS)
        host = rng.randrange(count)
        other = (host + rng.randrange(1, count)) % count
        duration_s = rng.choice(bounds.durations_s) * rng.uniform(0.5, 1.5)
        number = rng.randrange(1, 2**count - 1) if kind == "partition" else 0
        if kind == "crash":
            number = rng.choice((0, 1, 2, 3, 5, 8, 13, 30, 80))
        steps.append(Step(rng.uniform(1.0, faults_s), kind, host, other, duration_s, number))
    return steps


def _draw_fast(
    rng: Random, bounds: Bounds, count: int, faults_s: float
) -> tuple[tuple[Mode, ...], list[Step]]:
    """Who has a fast path, and what befalls it. Drawn last, so that all else stays as it was."""
    modes: list[Mode] = [
        "off" if rng.random() < SLEEVE_ONLY_CHANCE else "vxlan" for _ in range(count)
    ]
    steps = []
    for number in range(rng.randrange(*bounds.faults)):
        host = rng.randrange(count)
        other = (host + rng.randrange(1, count)) % count
        duration_s = rng.choice(FAST_DURATIONS_S) * rng.uniform(0.5, 1.5)
        kind = _weighted(rng, FAST_FAULT_KINDS)
        at = rng.uniform(FAST_FROM_S, faults_s)
        steps.append(Step(at, kind, host, other, duration_s, number))
    for _ in range(int(2 * faults_s)):
        host = rng.randrange(count)
        steps.append(Step(rng.uniform(1.0, faults_s), "frame", host, rng.randrange(count)))
    return tuple(modes), steps


def _draw_address_changes(rng: Random, bounds: Bounds, count: int, faults_s: float) -> list[Step]:
    return [
        Step(
            rng.uniform(1.0, faults_s),
            "addresses",
            rng.randrange(count),
            rng.randrange(count),
            rng.choice(bounds.durations_s),
            number,
        )
        for number in range(1, rng.randrange(2, 12))
    ]


def _weighted(rng: Random, weights: dict[str, int]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]
