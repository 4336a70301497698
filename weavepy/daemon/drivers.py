"""Which driver makes this host's tunnels, and what becomes of those that another one left.

`auto` takes Open vSwitch where it has a kernel datapath, else the kernel's VXLAN device. It stays
with a driver that left tunnels, so that a restart does not end them. Open vSwitch's userspace
datapath is slower than sleeve (docs/benchmarks.md) and has to be asked for; so has Open vSwitch
in an encrypted mesh, where its tunnels can only be in clear, to trusted subnets.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fastdp.core.effects import AdoptedTunnel
from fastdp.core.policy import Mode, Policy
from fastdp.shell import xfrm
from fastdp.shell.driver import Driver
from fastdp.shell.ovs import NOT_ENCRYPTED, OvsDriver
from fastdp.shell.vxlan import VxlanDriver
from weavepy.base.errors import WeavepyError
from weavepy.daemon.options import Options

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Chosen:
    driver: Driver
    policy: Policy
    """Now with the drivers' word."""
    adopted: list[AdoptedTunnel]
    better: str = ""
    """Why not a better driver; empty if there is none."""


def wanted_policy(options: Options) -> Policy:
    """What the fast path is to be here, before any driver has been asked. Blocks."""
    policy = Policy(options.fastdp, options.encrypted, trusted=options.trusted_subnets)
    if options.fastdp == "off" or not options.encrypted:
        return policy
    if options.fastdp == "ovs":
        return replace(policy, no_esp=NOT_ENCRYPTED)
    return replace(policy, no_esp=xfrm.why_not())


def drivers(mode: Mode, bridge: str, tap: str, port: int, *, esp: bool = False) -> list[Driver]:
    """All, the best first; with a `mode` that names one, that one. `esp`: tunnels may be in it."""
    ovs = OvsDriver(bridge, tap, port, kernel_only=mode != "ovs")
    found: list[Driver] = [ovs, VxlanDriver(bridge, tap, port, esp=esp)]
    return sorted(found, key=lambda driver: driver.name != mode)


def choose(found: Sequence[Driver], policy: Policy) -> Chosen:
    """What there is at start: of `drivers`, the one to use, and its earlier tunnels. Blocks.

    All that others have left ends here; where no fast path is used, the guard does, too.
    """
    refusals = []
    if policy.enabled:
        candidates = found[:1]
        if policy.mode == "auto":
            candidates = sorted(found, key=lambda driver: not driver.adopt())
            if policy.encrypted:
                candidates = [driver for driver in candidates if driver.name != OvsDriver.name]
                refusals.append(f"not {OvsDriver.name}: the mesh is encrypted")
        for driver in candidates:
            refusal = driver.available()
            if refusal:
                refusals.append(f"not {driver.name}: {refusal}")
                continue
            for other in found:
                if other is not driver:
                    _end_tunnels(other)
            return Chosen(driver, policy, driver.adopt(), "; ".join(refusals))
        policy = policy.without_driver("; ".join(refusals))
        log.warning("no fast path, frames travel by sleeve: %s", policy.unavailable)
    for driver in found:
        try:
            if driver.left():
                driver.remove_all()
        except WeavepyError as error:
            log.warning("tunnels of an earlier run may be left: %s", error)
    return Chosen(found[0], policy, [])


def _end_tunnels(driver: Driver) -> None:
    try:
        driver.remove_tunnels()
    except WeavepyError as error:
        log.warning("tunnels by %s may be left: %s", driver.name, error)
