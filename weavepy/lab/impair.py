"""Making a link of the lab bad, in the wire, so that the hosts learn nothing but by its effects.

| wanted | how                                                                                  |
|--------|--------------------------------------------------------------------------------------|
| down   | the link's bridge is set down: its ports stop forwarding, the hosts keep their carrier |
| loss   | an nftables rule on the way out of each port drops packets by lot                      |
| mtu    | a rule there drops what is larger, with no ICMP: a black hole, as bad tunnels make it  |
| rate   | a token bucket (tbf) on the way out of each port                                       |
| delay  | a small process relays between the ports instead of the bridge (`weavepy.lab.delay`)   |
| duplicate, reorder | the same process sends some packets twice, and holds some back          |

The rules sit on the *egress* hook: what the relay sends passes there like what the bridge sends.

With segmentation offloads a veth carries up to 64 KiB as one packet, which loss would drop as
one and which no MTU would bite. So while a link has loss or an MTU, or packets out of order, the
hosts' ends segment before they send. That costs speed, on this link only, and ends with the
impairment.
"""

import re
import signal
import sys
from pathlib import Path

from weavepy.base.errors import UsageError
from weavepy.lab.plan import Link, Plan
from weavepy.lab.state import Impairment, ProcessRecord
from weavepy.lab.system import (
    LabError,
    ToolFailed,
    inside,
    ip_batch,
    reap,
    run,
    send_signal,
    spawn,
    wait_gone,
    wait_until,
)

MAX_DELAY_MS = 2000.0
"""Beyond that our own timeouts are what one would measure."""

MIN_RATE_BITS = 64_000

_TABLE = "weavepy_lab"
_ETHERNET_HEADER_BYTES = 14
_RELAY_START_S = 10.0

_LOSS_STEPS = 1_000_000
_RATE_LATENCY = "50ms"
_MIN_BURST_BYTES = 32 * 1024

_SEGMENTATION = ("tso", "gso", "tx-udp-segmentation")

_UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}


# --- what operators write ------------------------------------------------------------------------


def parse_loss(text: str) -> float:
    """Read "1%" or "0.01" as a probability; raises `UsageError`."""
    try:
        loss = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        loss = -1.0
    if not 0 <= loss <= 1:
        raise UsageError(f"{text!r} is not a loss: write 1% or 0.01, or 0 for none")
    return loss


def parse_delay(text: str) -> float:
    """Read "20ms", "0.1s" or "20" (ms) as milliseconds; raises `UsageError`."""
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)(ms|s|)", text)
    delay_ms = float(match[1]) * (1000 if match[2] == "s" else 1) if match else -1.0
    if not 0 <= delay_ms <= MAX_DELAY_MS:
        raise UsageError(
            f"{text!r} is not a delay: write 20ms, or 0 for none, up to {MAX_DELAY_MS:g}ms"
        )
    return delay_ms


def parse_rate(text: str) -> int:
    """Read "100mbit", "1gbit", "500kbit" or "0" as bits per second; raises `UsageError`."""
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)(?:([kmg]?)bit)?", text.lower())
    rate = int(float(match[1]) * _UNITS[match[2] or ""]) if match else -1
    if rate != 0 and rate < MIN_RATE_BITS:
        raise UsageError(
            f"{text!r} is not a rate: write 100mbit (64kbit at least), or 0 for no limit"
        )
    return rate


# --- applying it ---------------------------------------------------------------------------------


def apply(plan: Plan, link: Link, wanted: Impairment) -> None:
    """Bring a link from any state into the wanted one, but for its relay.

    While a delay is wanted the ports are free, and nothing passes until the caller has started
    a relay. If the kernel cannot do what is wanted, `LabError` says which feature it lacks.
    """
    _set_segmentation(plan, link, on=not _bites_single_packets(wanted))
    _set_rules(plan, link, wanted)
    for end in link.ends:
        _set_rate(plan, end.port, wanted.rate_bits)
    ip_batch(plan.wire, _forwarding_commands(link, wanted))


def needs_relay(wanted: Impairment) -> bool:
    return _bypasses_bridge(wanted) and not wanted.down


def _bypasses_bridge(wanted: Impairment) -> bool:
    return wanted.delay_ms > 0 or wanted.duplicate > 0 or wanted.reorder > 0


def _bites_single_packets(wanted: Impairment) -> bool:
    return bool(wanted.loss or wanted.mtu_bytes or wanted.duplicate or wanted.reorder)


def _forwarding_commands(link: Link, wanted: Impairment) -> list[str]:
    """The ports are on the bridge, or else free for the relay."""
    place = "nomaster" if _bypasses_bridge(wanted) else f"master {link.bridge}"
    commands = [f"link set {end.port} {place}" for end in link.ends]
    return [*commands, f"link set {link.bridge} {'down' if wanted.down else 'up'}"]


def _set_segmentation(plan: Plan, link: Link, on: bool) -> None:
    switch = "on" if on else "off"
    for end in link.ends:
        features = [word for feature in _SEGMENTATION for word in (feature, switch)]
        run(inside(plan.outside(end.host), ["ethtool", "-K", end.interface, *features]))
        if not on:
            run(inside(plan.wire, ["ethtool", "-K", end.port, "gro", "off"]))


def _set_rules(plan: Plan, link: Link, wanted: Impairment) -> None:
    """Replace both ports' chains in one transaction."""
    lines = [f"add table netdev {_TABLE}"]
    for end in link.ends:
        chain = f"netdev {_TABLE} out-{end.port}"
        lines += [
            f'add chain {chain} {{ type filter hook egress device "{end.port}" priority 0; }}',
            f"delete chain {chain}",
        ]
        rules = _rules(wanted)
        if rules:
            lines.append(
                f'add chain {chain} {{ type filter hook egress device "{end.port}" priority 0; }}'
            )
            lines += [f"add rule {chain} {rule}" for rule in rules]
    try:
        run(inside(plan.wire, ["nft", "-f", "-"]), "\n".join(lines) + "\n")
    except ToolFailed as error:
        if not _rules(wanted):
            return  # nothing was wanted, and nothing can be there on such a kernel
        raise LabError(
            f"this kernel cannot drop packets on egress ({error.why}); loss and mtu need nftables"
            " with the netdev family's egress hook, Linux 5.16 or newer"
        ) from error


def _rules(wanted: Impairment) -> list[str]:
    rules = []
    if wanted.mtu_bytes:
        limit = wanted.mtu_bytes + _ETHERNET_HEADER_BYTES
        rules.append(f"meta length > {limit} counter drop")
    if wanted.loss:
        share = round(wanted.loss * _LOSS_STEPS)
        rules.append(f"numgen random mod {_LOSS_STEPS} < {share} counter drop")
    return rules


def _set_rate(plan: Plan, port: str, rate_bits: int) -> None:
    if not rate_bits:
        shaped = "tbf" in run(inside(plan.wire, ["tc", "qdisc", "show", "dev", port]))
        if shaped:
            run(inside(plan.wire, ["tc", "qdisc", "delete", "dev", port, "root"]))
        return
    burst = max(_MIN_BURST_BYTES, plan.mtu_bytes * 2, rate_bits // 8 // 250)
    shape = ["tbf", "rate", f"{rate_bits}bit", "burst", str(burst), "latency", _RATE_LATENCY]
    try:
        run(inside(plan.wire, ["tc", "qdisc", "replace", "dev", port, "root", *shape]))
    except ToolFailed as error:
        raise LabError(
            f"this kernel cannot limit a link's rate ({error.why}); it needs the tbf queueing"
            " discipline (CONFIG_NET_SCH_TBF)"
        ) from error


# --- the relay -----------------------------------------------------------------------------------


def start_relay(plan: Plan, link: Link, wanted: Impairment, log: Path) -> ProcessRecord:
    ports = [end.port for end in link.ends]
    numbers = [f"{number:g}" for number in (wanted.delay_ms, wanted.duplicate, wanted.reorder)]
    argv = [sys.executable, "-m", "weavepy.lab.delay", *ports, *numbers]
    log.unlink(missing_ok=True)
    process = spawn(inside(plan.wire, argv), log, log.parent)
    record = ProcessRecord(process.pid, process.start_ticks)

    def ready_or_dead() -> bool:
        reap()
        return b"ready" in log.read_bytes() or not record.running

    if not wait_until(ready_or_dead, _RELAY_START_S) or not record.running:
        stop_relay(record)
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise LabError(f"the delaying relay of {link.name} did not start: {' '.join(last)}")
    return record


def stop_relay(relay: ProcessRecord | None) -> None:
    if relay is not None and relay.running:
        send_signal(relay.pid, signal.SIGKILL)
        wait_gone(relay.pid, 5.0)
