"""`weavepy lab`: a whole mesh on this machine, to try things and to break them on purpose."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from weavepy.base.errors import UsageError
from weavepy.cli.command import command, group, json_option
from weavepy.cli.lab_views import bench_blocks, ping_blocks, status_blocks, status_document
from weavepy.cli.output import show, show_json

if TYPE_CHECKING:
    from weavepy.lab.lab import Lab

Function = TypeVar("Function", bound=Callable[..., Any])

_EXIT_BY_SIGNAL = 128


@group(
    ("weavepy lab up", "make three hosts with two containers each"),
    ("weavepy lab ping", "let every container ping every other"),
    ("weavepy lab link h1 h2 --down", "cut a cable and see what happens"),
    ("weavepy lab down", "remove it all"),
)
@click.pass_context
def lab(ctx: click.Context) -> None:
    """Run a whole mesh on this machine, in network namespaces; needs root."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _name_option(function: Function) -> Function:
    return click.option(
        "--name",
        default="lab",
        show_default=True,
        envvar="WEAVEPY_LAB_NAME",
        help="Which lab; several can be up.",
    )(function)


def _lab(name: str) -> "Lab":
    from weavepy.lab.lab import Lab

    return Lab(name)


# --- up and down ---------------------------------------------------------------------------------


@command(
    ("weavepy lab up", "three hosts, two containers each, every host linked to every other"),
    ("weavepy lab up --hosts 4 --topology chain -- --no-discovery", "h1 - h2 - h3 - h4"),
    ("weavepy lab up --ipv6 --nat h1", "over IPv6, the first host behind NAT"),
    ("weavepy lab up --mtu 9000 --name jumbo", "a second lab with jumbo frames"),
)
@click.option("--hosts", default=3, show_default=True, envvar="WEAVEPY_LAB_HOSTS")
@click.option(
    "--containers",
    default=2,
    show_default=True,
    envvar="WEAVEPY_LAB_CONTAINERS",
    help="On each host.",
)
@click.option(
    "--topology",
    default="full",
    show_default=True,
    envvar="WEAVEPY_LAB_TOPOLOGY",
    help="full, chain, star, or a list of links such as h1-h2,h2-h3.",
)
@click.option(
    "--mtu",
    "mtu_bytes",
    default=1500,
    show_default=True,
    envvar="WEAVEPY_LAB_MTU",
    help="Of the links between the hosts.",
)
@click.option("--ipv6", "family", flag_value="ipv6", help="Links between hosts have IPv6 alone.")
@click.option("--mixed", "family", flag_value="mixed", help="Links have IPv4 or IPv6, in turns.")
@click.option(
    "--nat", default="", metavar="HOST,...", help="Put these hosts behind NAT: h1 or h1,h3."
)
@click.option("--keep", is_flag=True, help="If it fails, leave what there is for a look.")
@_name_option
@click.argument("launch_options", nargs=-1, type=click.UNPROCESSED, metavar="[-- LAUNCH_OPTION...]")
def up(
    hosts: int,
    containers: int,
    topology: str,
    mtu_bytes: int,
    family: str | None,
    nat: str,
    keep: bool,
    name: str,
    launch_options: tuple[str, ...],
) -> None:
    """Make a lab and wait until its mesh is complete and its containers are attached.

    Options after -- are passed to each host's `weavepy launch`.
    """
    from weavepy.lab.life import AlreadyThere, Wanted
    from weavepy.lab.plan import parse_hosts

    made = _lab(name)
    wanted = Wanted(
        hosts,
        containers,
        topology,
        mtu_bytes,
        list(launch_options),
        family or "ipv4",
        parse_hosts(nat),
    )
    try:
        with _terminating_as_interrupt(), _progress() as report:
            made.up(wanted, report)
    except (UsageError, AlreadyThere):
        raise
    except BaseException:
        _show_logs(made)
        if keep:
            click.echo(f"kept; remove it with: weavepy lab down --name {name}", err=True)
        else:
            made.down()
        raise
    option = "" if name == "lab" else f" --name {name}"
    click.echo(
        f"lab {name!r} is up: {hosts} hosts, {hosts * containers} containers."
        f" Try: weavepy lab ping{option}; weavepy lab exec h1{option} -- weavepy status;"
        f" weavepy lab down{option}"
    )


def _show_logs(made: "Lab") -> None:
    for host, lines in made.last_log_lines().items():
        for line in lines:
            click.echo(f"{host}: {line}", err=True)


@command(
    ("weavepy lab down", "remove the lab, or what is left of it after a crash"),
    ("weavepy lab down --name jumbo", "remove another one"),
)
@_name_option
def down(name: str) -> None:
    """Remove a lab: its processes, namespaces and files, and nothing else."""
    removed = _lab(name).down()
    if removed.namespaces:
        click.echo(f"lab {name!r} is gone: {len(removed.namespaces)} namespaces removed")
    else:
        click.echo(f"there is no lab {name!r}")


# --- looking -------------------------------------------------------------------------------------


@command(
    ("weavepy lab status", "hosts, containers, links and connections"),
    ("weavepy lab status --json", "the same for programs, with each router's whole status"),
)
@json_option
@_name_option
def status(as_json: bool, name: str) -> None:
    """Show the hosts of a lab, its containers, its links and how the routers are connected."""
    found = _lab(name).status()
    if as_json:
        show_json(status_document(found))
        return
    show(status_blocks(found))


@command(
    ("weavepy lab ping", "a matrix of round-trip times"),
    ("weavepy lab ping --json", "the same for programs"),
)
@click.option(
    "--count",
    type=click.IntRange(1, 100),
    default=3,
    show_default=True,
    help="Requests without an answer, one second each, before a pair has failed.",
)
@json_option
@_name_option
def ping(count: int, as_json: bool, name: str) -> int:
    """Let every container ping every other; exits with 0 only if all answer."""
    result = _lab(name).ping(count)
    if as_json:
        pairs = [
            {
                "from": pair.source,
                "to": pair.destination,
                "ok": pair.ok,
                "rtt_ms": None if pair.rtt_ms is None else round(pair.rtt_ms, 3),
            }
            for pair in result.pairs
        ]
        show_json({"ok": result.ok, "pairs": pairs}, one_line=True)
    else:
        show(ping_blocks(result))
    return 0 if result.ok else 1


@command(
    ("weavepy lab bench", "from the first container of h1 to that of h2"),
    ("weavepy lab bench --from h1c1 --to h4c1 --seconds 10 --json", "elsewhere, longer"),
)
@click.option("--from", "source", default="h1c1", show_default=True, metavar="CONTAINER")
@click.option("--to", "destination", default="h2c1", show_default=True, metavar="CONTAINER")
@click.option(
    "--seconds", type=click.IntRange(1, 600), default=3, show_default=True, help="For each TCP run."
)
@json_option
@_name_option
def bench(source: str, destination: str, seconds: int, as_json: bool, name: str) -> None:
    """Measure the overlay between two containers, and the bare underlay between their hosts."""
    from weavepy.lab.bench import bench as measure

    with _terminating_as_interrupt(), _progress() as report:
        result = measure(_lab(name), source, destination, seconds, report)
    if as_json:
        show_json(result)
        return
    show(bench_blocks(result))


# --- breaking ------------------------------------------------------------------------------------


@command(
    ("weavepy lab link h1 h2 --down", "cut it silently: both hosts still see a carrier"),
    ("weavepy lab link h1 h2 --up", "heal the cut; other impairments stay"),
    ("weavepy lab link h1 h2 --loss 1% --delay 20ms", "a bad line, both ways alike"),
    ("weavepy lab link h1 h2 --loss 0 --delay 0", "a good one again"),
    ("weavepy lab link h1 h2 --mtu 1400", "a black hole for larger packets"),
)
@click.argument("one", metavar="HOST")
@click.argument("other", metavar="HOST")
@click.option("--down/--up", "cut", default=None, help="Cut the link, or heal it.")
@click.option("--loss", help="Share of packets to drop: 1% or 0.01.")
@click.option("--delay", help="One way: 20ms.")
@click.option("--mtu", "mtu_bytes", type=click.IntRange(0, 65535), help="Drop larger packets.")
@click.option("--rate", help="Limit: 100mbit.")
@click.option("--duplicate", help="Share of packets that come twice: 50% or 0.5.")
@click.option("--reorder", help="Share of packets that later ones overtake: 10% or 0.1.")
@_name_option
def link(
    one: str,
    other: str,
    cut: bool | None,
    loss: str | None,
    delay: str | None,
    mtu_bytes: int | None,
    rate: str | None,
    duplicate: str | None,
    reorder: str | None,
    name: str,
) -> None:
    """Cut, heal or spoil the link between two hosts; 0 takes an impairment away."""
    from weavepy.lab.impair import parse_delay, parse_loss, parse_rate
    from weavepy.lab.lab import LinkChange

    change = LinkChange(
        down=cut,
        loss=None if loss is None else parse_loss(loss),
        delay_ms=None if delay is None else parse_delay(delay),
        mtu_bytes=mtu_bytes,
        rate_bits=None if rate is None else parse_rate(rate),
        duplicate=None if duplicate is None else parse_loss(duplicate),
        reorder=None if reorder is None else parse_loss(reorder),
    )
    if change == LinkChange():
        raise UsageError(
            "say what to do with the link: --down, --up, --loss, --delay, --mtu, --rate,"
            " --duplicate, --reorder"
        )
    click.echo(f"{one} - {other}: {_lab(name).link(one, other, change)}")


@command(
    ("weavepy lab router h2 --kill", "as a crash would: its datapath lives on"),
    ("weavepy lab router h2 --start", "start it again with the options it had"),
)
@click.argument("host")
@click.option("--kill", "action", flag_value="kill", help="SIGKILL to the router alone.")
@click.option("--stop", "action", flag_value="stop", help="As `weavepy stop`: in order.")
@click.option("--start", "action", flag_value="start", help="With the options it had.")
@click.option("--pause", "action", flag_value="pause", help="SIGSTOP: it hangs.")
@click.option("--resume", "action", flag_value="resume", help="SIGCONT.")
@_name_option
def router(host: str, action: str | None, name: str) -> None:
    """Kill, stop, start, pause or resume the router of a host."""
    if action is None:
        raise UsageError("say what to do: --kill, --stop, --start, --pause or --resume")
    _lab(name).router(host, action)
    click.echo(f"{host}: {action} done")


@command(
    ("weavepy lab move h2", "other addresses, at once and under traffic"),
    ("weavepy lab move h2", "and a second time: its old ones again"),
)
@click.argument("host")
@_name_option
def move(host: str, name: str) -> None:
    """Change the underlay addresses of a host, or change them back."""
    _lab(name).move(host)
    click.echo(f"{host}: moved")


@command(("weavepy lab rebind h1", "what others send to the old ports is lost from now on"))
@click.argument("host")
@_name_option
def rebind(host: str, name: str) -> None:
    """Let the gateway of a host behind NAT forget its connections and use other ports."""
    _lab(name).rebind(host)
    click.echo(f"{host}: its gateway has forgotten all connections")


@command(
    ("weavepy lab exec h2 -- weavepy status", "ask the router of a host"),
    ("weavepy lab exec h2c1 -- ping -c 3 10.32.0.1", "run something in a container"),
)
@click.argument("node", metavar="HOST|CONTAINER")
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
@_name_option
def exec_(node: str, argv: tuple[str, ...], name: str) -> None:
    """Run a command inside a host or a container; its exit status is ours."""
    line, environment = _lab(name).command(node, argv)
    sys.stdout.flush()
    os.execvpe(line[0], line, environment)


for _made in (up, down, status, ping, bench, link, router, move, rebind):
    lab.add_command(_made)
lab.add_command(exec_, "exec")


# --- how it is shown -----------------------------------------------------------------------------


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """What is going on, on stderr: one line that changes on a terminal, lines elsewhere."""
    if not sys.stderr.isatty():
        yield lambda line: click.echo(line, err=True)
        return
    from rich.console import Console

    with Console(stderr=True).status("...") as line:
        yield lambda text: line.update(text.replace("[", "\\["))


@contextmanager
def _terminating_as_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind us like Ctrl-C does, so that everything is cleaned up."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(_EXIT_BY_SIGNAL + number)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, leave) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
