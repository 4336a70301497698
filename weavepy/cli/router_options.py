"""The options that `launch` and `join` have in common: how the router is to be.

Each has an environment variable, named after its flag, which its help shows.
"""

from collections.abc import Callable
from typing import Any

import click

from weavepy.base.settings import DEFAULT_PORT, directories
from weavepy.cli.command import Function
from weavepy.daemon import options as launch_options
from weavepy.daemon.options import Options


def option(flag: str, help_text: str, **rest: Any) -> Callable[[Function], Function]:
    """Declare "--some-flag" or "--some-flag/--no-flag", with its variable WEAVEPY_SOME_FLAG."""
    variable = flag.partition("/")[0].strip("-").replace("-", "_").upper()
    return click.option(
        flag, envvar=f"WEAVEPY_{variable}", show_envvar=True, help=help_text, **rest
    )


_ROUTER_OPTIONS = (
    option("--nickname", "What people call this peer. [default: the host's name]"),
    option(
        "--port",
        "TCP for control and UDP for data.",
        type=int,
        default=DEFAULT_PORT,
        show_default=True,
    ),
    option(
        "--http-addr",
        "Where /metrics, /healthz and /readyz are served, or `off`.",
        default=launch_options.DEFAULT_HTTP_ADDRESS,
        show_default=True,
        metavar="ADDRESS:PORT",
    ),
    option(
        "--no-discovery",
        "Connect only to peers that were named, not to those that other peers know of.",
        is_flag=True,
    ),
    option(
        "--resume/--no-resume",
        "Dial the peers that the last run knew as well.",
        default=True,
        show_default=True,
    ),
    option(
        "--connection-limit",
        "Beyond so many connections no discovered peer is dialled.",
        type=int,
        default=launch_options.DEFAULT_CONNECTION_LIMIT,
        show_default=True,
    ),
    option(
        "--advertise",
        "Where other peers shall dial this one, as behind a gateway that forwards a port. Can be"
        " given several times. [default: this host's addresses, and what peers found out]",
        multiple=True,
        metavar="HOST[:PORT]",
    ),
    option(
        "--ipalloc-range",
        "All addresses of the network; the same on every host.",
        default=launch_options.DEFAULT_RANGE,
        show_default=True,
        metavar="CIDR",
    ),
    option(
        "--ipalloc-default-subnet",
        "Where addresses come from if no subnet is named. [default: the whole range]",
        metavar="CIDR",
    ),
    option(
        "--ipalloc-init",
        "How the first ring is agreed on: consensus, consensus=N, seed=PEER,PEER,... or observer.",
        default="consensus",
        show_default=True,
        metavar="HOW",
    ),
    option("--no-ipam", "Leave addresses to someone else.", is_flag=True),
    option(
        "--mtu",
        "The overlay's MTU. [default: what the underlay leaves]",
        type=int,
        metavar="BYTES",
    ),
    option(
        "--bridge",
        "The bridge that containers hang on.",
        default=launch_options.DEFAULT_BRIDGE,
        show_default=True,
    ),
    option(
        "--no-offload",
        "Do without the kernel's segmentation offloads: slower, for kernels that get them wrong.",
        is_flag=True,
    ),
    option(
        "--fastdp",
        "How frames travel between hosts: auto takes Open vSwitch's kernel datapath or else the"
        " kernel's VXLAN device for each pair where it works, ovs and vxlan also size the MTU for"
        " it, off always takes sleeve.",
        type=click.Choice(launch_options.FASTDP_MODES),
        default="auto",
        show_default=True,
    ),
    option(
        "--trusted-subnets",
        "Subnets of the underlay, between whose hosts frames may go UNENCRYPTED by the fast path"
        " though the mesh is encrypted.",
        default="",
        metavar="CIDR,...",
    ),
    option(
        "--esp-rekey",
        "How often the keys of encrypted fast paths (ESP) are renewed.",
        type=int,
        default=launch_options.DEFAULT_ESP_REKEY_S,
        show_default=True,
        metavar="SECONDS",
    ),
    option(
        "--log-level",
        "How much to log.",
        type=click.Choice(launch_options.LOG_LEVELS),
        default="info",
        show_default=True,
    ),
)


def router_options(function: Function) -> Function:
    """Declare on a command what `launch` and `join` can say about the router."""
    for declare in reversed(_ROUTER_OPTIONS):
        function = declare(function)
    return function


def parse_router(peers: tuple[str, ...], router: dict[str, Any]) -> Options:
    """Check what was typed for `router_options`; raises `UsageError`."""
    return Options.parse(
        peers=peers,
        where=directories(),
        discovery=not router.pop("no_discovery"),
        ipam=not router.pop("no_ipam"),
        offload=not router.pop("no_offload"),
        **router,
    )
